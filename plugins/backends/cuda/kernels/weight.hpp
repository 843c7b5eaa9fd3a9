// How weights lie on the device, as kernels see them.
#pragma once

#include <cstdint>

namespace moe::cuda {

enum class Format : int32_t { kF32, kF16, kBF16, kI8, kI4, kF8 };
inline constexpr int kFormats = 6;

// Elements that one scale of kI8 and kI4 covers.
inline constexpr int64_t kQuantScale = 32;
// Rows and columns that one scale of kF8 covers.
inline constexpr int64_t kF8Block = 128;
constexpr int64_t f8_blocks(int64_t n) { return (n + kF8Block - 1) / kF8Block; }

// Passed by value. [n_groups][n_out][row] elements, on 256 bytes:
//   kF32, kF16, kBF16  plain
//   kI8                int8 q; the value is q * scale
//   kI4                q + 8 in half a byte; the value is q * scale
//   kF8                e4m3; the value is element * scale
// Integers lie in chunks of 64 bytes in which groups of 32 alternate (quant_byte), so that each thread of four reads 16
// bytes in one go and has what a tensor core's instruction wants of it.
struct WeightView {
  const void* data;
  const void* scales;  // kI8, kI4: f16 [n_groups][n_out][row / 32]; kF8: f32 [n_groups][f8_blocks(n_out)][row / 128]
  int64_t n_groups;
  int64_t n_out;
  int64_t n_in;
  int64_t row;  // elements of a stored row: n_in rounded up to row_group(format); what n_in does not fill is zero
  Format format;
};

// Elements of a row come in whole groups of so many.
constexpr int64_t row_group(Format format) {
  constexpr int64_t kGroup[kFormats] = {32, 32, 32, 64, 128, 128};
  return kGroup[static_cast<int>(format)];
}

// Bits of one element.
constexpr int64_t element_bits(Format format) {
  constexpr int64_t kBits[kFormats] = {32, 16, 16, 8, 4, 8};
  return kBits[static_cast<int>(format)];
}
constexpr int64_t row_bytes(const WeightView& w) { return w.row * element_bits(w.format) / 8; }
// Of all scales.
constexpr int64_t scale_bytes(const WeightView& w) {
  if (w.format == Format::kF8) return w.n_groups * f8_blocks(w.n_out) * (w.row / kF8Block) * 4;
  const bool of_integers = w.format == Format::kI8 || w.format == Format::kI4;
  return of_integers ? w.n_groups * w.n_out * (w.row / kQuantScale) * 2 : 0;
}
// The scales of kF8 of row `row` of a group.
constexpr const float* f8_scales(const WeightView& w, int64_t group, int64_t row) {
  return static_cast<const float*>(w.scales) + (group * f8_blocks(w.n_out) + row / kF8Block) * (w.row / kF8Block);
}

// The byte of a row of kI8 or kI4 that holds element k. kI4: in its low half if k % 32 < 16, else in its high half.
constexpr int64_t quant_byte(Format format, int64_t k) {
  const int64_t r = k % kQuantScale;
  if (format == Format::kI8) return k / 64 * 64 + r / 8 * 16 + k % 64 / 32 * 8 + r % 8;
  return k / 128 * 64 + r % 16 / 4 * 16 + k % 128 / 32 * 4 + r % 4;
}

}  // namespace moe::cuda
