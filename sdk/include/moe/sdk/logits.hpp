// Passes over a row of logits for links of the sampler chain. The order of every sum is fixed and exp is our own, so
// that a row gives the same bits from every compiler and instruction set. Loops are written in lanes, which compilers
// make vectors of.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

namespace moe {

struct LogitScan {
  float max = -std::numeric_limits<float>::infinity();
  bool usable = false;  // neither NaN nor +inf, and something that may be chosen
};

inline LogitScan scan_logits(std::span<const float> x) {
  constexpr size_t kLanes = 16;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  float largest[kLanes];
  int32_t broken[kLanes] = {};
  std::fill_n(largest, kLanes, -kInf);
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      const float v = x[i + j];
      largest[j] = v > largest[j] ? v : largest[j];
      broken[j] |= v < kInf ? 0 : 1;
    }
  }
  for (; i < x.size(); ++i) {
    largest[0] = x[i] > largest[0] ? x[i] : largest[0];
    broken[0] |= x[i] < kInf ? 0 : 1;
  }
  LogitScan scan;
  int32_t any = 0;
  for (size_t j = 0; j < kLanes; ++j) {
    scan.max = std::max(scan.max, largest[j]);
    any |= broken[j];
  }
  scan.usable = any == 0 && scan.max > -kInf;
  return scan;
}

// The first index of the value; x must hold it.
inline int64_t first_index_of(std::span<const float> x, float value) {
  return std::find(x.begin(), x.end(), value) - x.begin();
}

inline constexpr double kLeastExponent = -700.0;

// e^x for kLeastExponent <= x <= 0, to 1e-15 relative; anything below, NaN for NaN.
inline double exp_in_range(double x) {
  constexpr double kLog2E = 0x1.71547652b82fep+0;
  constexpr double kLn2High = 0x1.62e42feep-1;  // short enough for n * kLn2High to be exact
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kRound = 0x1.8p+52;  // adding it rounds to an integer, which is then in the low bits
  const double t = x * kLog2E + kRound;
  const double n = t - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double p = 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 1.0 / 2;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const double scale = std::bit_cast<double>((std::bit_cast<uint64_t>(t) + 1023) << 52);  // 2^n
  return p * scale;
}

// The same, and 0 below kLeastExponent (a share that no draw of 53 bits reaches).
inline double exp_below_zero(double x) { return x < kLeastExponent ? 0.0 : exp_in_range(x); }

inline constexpr size_t kLogitBlock = 256;

// out[i] = e^(x[i] - max) for the up to kLogitBlock values of a block.
inline void exp_block(std::span<const float> x, double max, double* out) {
  // Two loops, for only one without a choice becomes vectors (GCC 12, SSE2): pick over 151,936 logits 1.2 ms in one,
  // 0.64 ms in two (bench_samplers).
  for (size_t i = 0; i < x.size(); ++i) out[i] = exp_in_range(static_cast<double>(x[i]) - max);
  for (size_t i = 0; i < x.size(); ++i) {
    if (static_cast<double>(x[i]) - max < kLeastExponent) out[i] = 0.0;
  }
}

// sum of e^(x[i] - max) over a block.
inline double block_mass(std::span<const float> x, double max) {
  const auto floor = static_cast<float>(max + kLeastExponent);
  int32_t any = 0;
  for (const float v : x)
    any |= v >= floor ? 1 : 0;  // floor is max itself where 700 is less than a unit in its last place
  if (any == 0) return 0.0;     // most blocks, behind top_k
  double e[kLogitBlock];
  exp_block(x, max, e);
  double lanes[4] = {};
  size_t i = 0;
  for (; i + 4 <= x.size(); i += 4) {
    for (size_t j = 0; j < 4; ++j) lanes[j] += e[i + j];
  }
  for (; i < x.size(); ++i) lanes[0] += e[i];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

inline size_t n_logit_blocks(size_t n) { return (n + kLogitBlock - 1) / kLogitBlock; }
inline std::span<const float> logit_block(std::span<const float> x, size_t block) {
  return x.subspan(block * kLogitBlock, std::min(kLogitBlock, x.size() - block * kLogitBlock));
}

// sum of e^(x[i] - max).
inline double softmax_mass(std::span<const float> x, double max) {
  double mass = 0;
  for (size_t b = 0; b < n_logit_blocks(x.size()); ++b) mass += block_mass(logit_block(x, b), max);
  return mass;
}

// Visits the values above a threshold in order; f(value) returns the threshold from there on, which may only grow.
template <typename F>
void for_above(std::span<const float> x, float threshold, F&& f) {
  constexpr size_t kLanes = 16;
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    int32_t any = 0;
    for (size_t j = 0; j < kLanes; ++j) any |= x[i + j] > threshold ? 1 : 0;
    if (any == 0) continue;
    for (size_t j = 0; j < kLanes; ++j) {
      if (x[i + j] > threshold) threshold = f(x[i + j]);
    }
  }
  for (; i < x.size(); ++i) {
    if (x[i] > threshold) threshold = f(x[i]);
  }
}

// Takes out every logit below the threshold, and of those that equal it all but the first n_ties.
inline void keep_from(std::span<float> x, float threshold, int64_t n_ties) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  int32_t n_equal = 0;
  for (float& v : x) {
    n_equal += v == threshold ? 1 : 0;
    v = v < threshold ? -kInf : v;
  }
  for (size_t i = 0; n_equal > n_ties && i < x.size(); ++i) {
    if (x[i] == threshold && --n_ties < 0) x[i] = -kInf;
  }
}

}  // namespace moe
