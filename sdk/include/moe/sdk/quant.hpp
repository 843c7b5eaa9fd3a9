// The formats "int8", "int4" and "fp8" that weights may be quantised to, and 8-bit activations (MOE_I8). Every backend
// that keeps them keeps these numbers, however it lays them out, so that results can be compared.
//
// The integers cut a row of n_in numbers into groups of 32, the last one filled up with zeros. A group is an f16 scale
// and 32 integers; a weight is scale * q, exact in f32. Why so: 32 is what MOE_I8 uses, so that a group's product is
// one integer sum and one scale; an f16 scale costs half a bit a weight, and the groups are those of GGUF's q8_0 and
// q4_0, which load without a loss.
//
//   int8: q in [-128, 127] (as made here: [-127, 127]); 8.5 bits a weight; a q8_0 block holds the same.
//   int4: q in [-8, 7]; 4.5 bits a weight; a q4_0 block holds the same (with q + 8).
//
// A product with MOE_I8 activations is, group after group in ascending k:  acc = fma(float(sum of q_w q_x), scale_w *
// scale_x, acc) with the integer sum exact and everything else in f32. With other activations:  s = fma(q_w, x, s) over
// the group's k in ascending order from 0, then  acc = fma(s, scale_w, acc).
//
// "fp8" cuts a matrix [n_out, n_in] into blocks of 128 x 128, counted from its first row and column, those at the ends
// cut off. A block is an f32 scale and for each element a code in e4m3; a weight is code * scale, rounded once to f32;
// 8.002 bits a weight. DeepSeek-V3's checkpoints hold the same, which loads without a loss. Elsewhere scale = amax /
// 448 and code = weight / scale, both in f32, then to the nearest, ties to even, at most 448 (numeric.hpp:
// f32_to_f8_e4m3). A block of zeros has scale 0 and codes 0; in one with a number that is not finite all are NaN: scale
// NaN, codes 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "moe/sdk/numeric.hpp"

namespace moe {

inline constexpr int64_t kQuantGroup = 32;

// A group of weights, or of activations, whose scale is an f32 then.
struct QuantGroup {
  float scale;
  int8_t q[kQuantGroup];
};

namespace quant_detail {

// The scale as it is stored. Too large a one becomes the largest; numbers that are not finite have no group, and theirs
// is NaN.
inline float as_f16(float scale) {
  if (!std::isfinite(scale)) return std::numeric_limits<float>::quiet_NaN();
  return f16_to_f32(f32_to_f16(std::clamp(scale, -65504.0F, 65504.0F)));
}

// q = x / scale to nearest even within [low, high]; 0 without a scale. Returns the sum of squared errors.
inline double round_group(const float* x, int64_t n, float scale, float low, float high, QuantGroup& out) {
  out.scale = scale;
  double error = 0.0;
  const bool usable = scale != 0.0F && std::isfinite(scale);
  for (int64_t i = 0; i < kQuantGroup; ++i) {
    const float value = i < n ? x[i] : 0.0F;
    const float q = usable ? std::clamp(std::nearbyint(value / scale), low, high) : 0.0F;
    out.q[i] = static_cast<int8_t>(q);
    const double difference = static_cast<double>(value) - static_cast<double>(scale) * q;
    error += difference * difference;
  }
  return error;
}

}  // namespace quant_detail

// Up to 32 weights as int8: scale = amax / 127.
inline QuantGroup quantize_int8(const float* x, int64_t n) {
  float amax = 0.0F;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    amax = std::max(amax, std::fabs(x[i]));
    finite = finite && std::isfinite(x[i]);
  }
  QuantGroup out{};
  quant_detail::round_group(x, n,
                            finite ? quant_detail::as_f16(amax / 127.0F) : std::numeric_limits<float>::quiet_NaN(),
                            -127.0F, 127.0F, out);
  return out;
}

// Up to 32 weights as int4. Two scales are tried, and that with the smaller squared error taken (the first if equal):
// the number of largest magnitude at -8, which uses the whole range, and amax at 7, which bounds both signs alike.
inline QuantGroup quantize_int4(const float* x, int64_t n) {
  float largest = 0.0F;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
    finite = finite && std::isfinite(x[i]);
  }
  QuantGroup wide{};
  if (!finite) {
    quant_detail::round_group(x, n, std::numeric_limits<float>::quiet_NaN(), -8.0F, 7.0F, wide);
    return wide;
  }
  QuantGroup even{};
  const double wide_error = quant_detail::round_group(x, n, quant_detail::as_f16(largest / -8.0F), -8.0F, 7.0F, wide);
  const double even_error =
      quant_detail::round_group(x, n, quant_detail::as_f16(std::fabs(largest) / 7.0F), -8.0F, 7.0F, even);
  return even_error < wide_error ? even : wide;
}

inline constexpr int64_t kFp8Block = 128;  // rows and columns of a block
inline constexpr float kFp8Largest = 448.0F;
constexpr int64_t fp8_blocks(int64_t n) { return n / kFp8Block + (n % kFp8Block != 0 ? 1 : 0); }

inline float fp8_weight(uint8_t code, float scale) { return f8_e4m3_to_f32(code) * scale; }

// A row of blocks: n_rows [1, 128] rows x [n_rows, n_in] as codes, their rows `stride` apart, and scales
// [fp8_blocks(n_in)].
inline void quantize_fp8(const float* x, int64_t n_rows, int64_t n_in, uint8_t* codes, int64_t stride, float* scales) {
  for (int64_t first = 0; first < n_in; first += kFp8Block) {
    const int64_t end = std::min(n_in, first + kFp8Block);
    float amax = 0.0F;
    bool finite = true;
    for (int64_t r = 0; r < n_rows; ++r) {
      for (int64_t c = first; c < end; ++c) {
        amax = std::max(amax, std::fabs(x[r * n_in + c]));
        finite = finite && std::isfinite(x[r * n_in + c]);
      }
    }
    const float scale = finite ? amax / kFp8Largest : std::numeric_limits<float>::quiet_NaN();
    scales[first / kFp8Block] = scale;
    for (int64_t r = 0; r < n_rows; ++r) {
      for (int64_t c = first; c < end; ++c)
        codes[r * stride + c] = scale > 0.0F ? f32_to_f8_e4m3(x[r * n_in + c] / scale) : uint8_t{0};
    }
  }
}

// Up to 32 activations (MOE_I8): scale = amax / 127 in f32. With a NaN or an infinity among them the scale is NaN.
inline QuantGroup quantize_activation(const float* x, int64_t n) {
  float amax = 0.0F;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    amax = std::max(amax, std::fabs(x[i]));
    finite = finite && std::isfinite(x[i]);
  }
  QuantGroup out{};
  quant_detail::round_group(x, n, finite ? amax / 127.0F : std::numeric_limits<float>::quiet_NaN(), -127.0F, 127.0F,
                            out);
  return out;
}

}  // namespace moe
