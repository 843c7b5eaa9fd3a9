#include "core/model/random/fill.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "moe/sdk/numeric.hpp"
#include "moe/sdk/random.hpp"

namespace patchbay {

// How an encoding is filled. Plain ones draw `width`-byte values from a table. Blocks are random bytes, with f16
// numbers put where a block keeps its scale and minimum, and one byte where it keeps an e8m0 scale; the layouts are
// those of moe/sdk/codec.hpp.
struct RandomFill::Format {
  struct Number {
    uint32_t at;  // byte of the block
    double value;
  };
  std::string_view encoding;
  uint32_t width = 0;        // of a plain value, in bytes; 0: blocks
  uint32_t block_bytes = 0;  // of a block
  std::vector<Number> numbers;
  int scale_byte = -1;  // at byte 0; -1: none
};

namespace {

constexpr double kDeviation = 0.02;
constexpr uint32_t kTable = 1 << 16;
constexpr uint32_t kValuesPerDraw = 8;  // a draw has 128 bits, a value takes 16

// Numbers of equal probability under a normal distribution: the quantiles at (i + 1/2) / 65536, each by Newton's steps
// from the one before.
std::vector<float> normal_quantiles() {
  std::vector<float> out(kTable);
  double x = 0;
  for (uint32_t i = kTable / 2; i < kTable; ++i) {
    const double p = (i + 0.5) / kTable;
    for (int step = 0; step < 4; ++step) {
      const double density = std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
      x -= (0.5 * std::erfc(-x / std::sqrt(2.0)) - p) / density;
    }
    out[i] = static_cast<float>(x * kDeviation);
    out[kTable - 1 - i] = -out[i];
  }
  return out;
}

void put(std::string_view encoding, float value, std::byte* out) {
  if (encoding == "f32") {
    std::memcpy(out, &value, sizeof(value));
    return;
  }
  const uint16_t bits = encoding == "f16" ? moe::f32_to_f16(value) : moe::f32_to_bf16(value);
  std::memcpy(out, &bits, sizeof(bits));
}

using Bytes = std::vector<std::byte>;

std::shared_ptr<const Bytes> stored(std::string_view encoding, const std::vector<float>& values) {
  const size_t width = encoding == "f32" ? 4 : 2;
  auto out = std::make_shared<Bytes>(values.size() * width);
  for (size_t i = 0; i < values.size(); ++i) put(encoding, values[i], out->data() + i * width);
  return out;
}

// Made once: a model has thousands of tensors.
std::shared_ptr<const Bytes> normal_values(std::string_view encoding) {
  static const std::vector<float> quantiles = normal_quantiles();
  static const auto f32 = stored("f32", quantiles);
  static const auto f16 = stored("f16", quantiles);
  static const auto bf16 = stored("bf16", quantiles);
  return encoding == "f32" ? f32 : encoding == "f16" ? f16 : bf16;
}

// FNV-1a: gives each name a lane of the random stream.
uint64_t lane_of(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

}  // namespace

// The scales make the deviation of the numbers about 0.02 and their mean about 0: of a uniform integer below n, 0.2887
// n. In q4_k and q5_k the scale and the minimum are such integers below 64 themselves; dmin is the mean of q times d,
// and 258 d and 527 d are the deviations then.
const std::vector<RandomFill::Format>& RandomFill::formats() {
  constexpr double k4 = kDeviation / 4.61;
  constexpr double k5 = kDeviation / 9.23;
  constexpr double k4k = kDeviation / 258;
  constexpr double k5k = kDeviation / 527;
  constexpr int kE8m0 = 120;  // 2^-7: times e2m1's deviation of 2.9
  static const std::vector<Format> table = {
      {"f32", 4, 0, {}, -1},
      {"f16", 2, 0, {}, -1},
      {"bf16", 2, 0, {}, -1},
      {"q8_0", 0, 34, {{0, kDeviation / 73.9}}, -1},
      {"q4_0", 0, 18, {{0, k4}}, -1},
      {"q4_1", 0, 20, {{0, k4}, {2, -7.5 * k4}}, -1},
      {"q5_0", 0, 22, {{0, k5}}, -1},
      {"q5_1", 0, 24, {{0, k5}, {2, -15.5 * k5}}, -1},
      {"q4_k", 0, 144, {{0, k4k}, {2, 7.5 * k4k}}, -1},
      {"q5_k", 0, 176, {{0, k5k}, {2, 15.5 * k5k}}, -1},
      {"q6_k", 0, 210, {{208, kDeviation / (73.9 * 18.5)}}, -1},
      {"mxfp4", 0, 17, {}, kE8m0},
      {"mxfp4_blocks", 0, 16, {}, -1},
      {"mxfp4_scales", 1, 0, {}, kE8m0},
  };
  return table;
}

std::vector<std::string> RandomFill::encodings() {
  std::vector<std::string> out;
  for (const Format& f : formats()) out.emplace_back(f.encoding);
  return out;
}

moe::Result<RandomFill> RandomFill::make(std::string_view encoding, RandomKind kind, uint64_t seed,
                                         std::string_view tensor) {
  RandomFill fill;
  for (const Format& f : formats()) {
    if (f.encoding == encoding) fill.format_ = &f;
  }
  if (fill.format_ == nullptr || (kind == RandomKind::kOnes && fill.format_->width < 2)) {
    return moe::unimplemented(
        fmt::format("encoding: expected one of {}, got \"{}\"", fmt::join(encodings(), ", "), encoding));
  }
  fill.seed_ = seed;
  fill.lane_ = lane_of(tensor);
  fill.unit_bytes_ = fill.format_->block_bytes;
  if (fill.format_->width == 0) return fill;
  fill.unit_bytes_ = uint64_t{kValuesPerDraw} * fill.format_->width;
  if (fill.format_->width == 1) {
    fill.values_ = std::make_shared<Bytes>(1, static_cast<std::byte>(fill.format_->scale_byte));
  } else if (kind == RandomKind::kOnes) {
    fill.values_ = stored(encoding, {1.0F});
  } else {
    fill.values_ = normal_values(encoding);
  }
  return fill;
}

void RandomFill::fill(uint64_t offset, std::span<std::byte> out) const {
  std::byte rest[256];
  for (uint64_t unit = offset / unit_bytes_; !out.empty(); ++unit) {
    const size_t n = std::min<size_t>(out.size(), unit_bytes_);
    std::byte* to = n == unit_bytes_ ? out.data() : rest;
    if (format_->width != 0) {
      draw_values(unit, to);
    } else {
      draw_block(unit, to);
    }
    if (to == rest) std::memcpy(out.data(), rest, n);
    out = out.subspan(n);
  }
}

void RandomFill::draw_values(uint64_t unit, std::byte* out) const {
  const uint32_t width = format_->width;
  const auto words = values_->size() == width ? std::array<uint32_t, 4>{} : moe::philox(seed_, unit, lane_);
  for (uint32_t i = 0; i < kValuesPerDraw; ++i) {
    const uint32_t index = words[i / 2] >> (i % 2 * 16) & 0xffff;
    std::memcpy(out + i * width, values_->data() + index * width, width);
  }
}

void RandomFill::draw_block(uint64_t unit, std::byte* out) const {
  const uint32_t n = format_->block_bytes;
  const uint64_t draws = (n + 15) / 16;
  for (uint64_t i = 0; i < draws; ++i) {
    const auto words = moe::philox(seed_, unit * draws + i, lane_);
    std::memcpy(out + i * 16, words.data(), std::min<uint64_t>(16, n - i * 16));
  }
  for (const auto& number : format_->numbers) put("f16", static_cast<float>(number.value), out + number.at);
  if (format_->scale_byte >= 0) out[0] = static_cast<std::byte>(format_->scale_byte);
}

}  // namespace patchbay
