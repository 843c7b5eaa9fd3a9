#include "core/model/random/fill.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "moe/sdk/codec.hpp"

namespace patchbay {
namespace {

std::vector<std::byte> filled(const RandomFill& fill, uint64_t n_bytes, uint64_t piece_units = 1 << 20) {
  std::vector<std::byte> out(n_bytes);
  const uint64_t piece = piece_units * fill.unit_bytes();
  for (uint64_t at = 0; at < n_bytes; at += piece)
    fill.fill(at, std::span(out).subspan(at, std::min(piece, n_bytes - at)));
  return out;
}

RandomFill make(std::string_view encoding, uint64_t seed = 1, std::string_view tensor = "w",
                RandomKind kind = RandomKind::kMatrix) {
  auto fill = RandomFill::make(encoding, kind, seed, tensor);
  EXPECT_TRUE(fill.ok()) << encoding;
  return *fill;
}

TEST(RandomFill, every_encoding_has_mean_0_and_a_deviation_of_about_2_percent) {
  size_t n_checked = 0;
  for (const std::string& id : RandomFill::encodings()) {
    const moe::Encoding* encoding = moe::find_encoding(id);
    if (encoding == nullptr) continue;  // the parts of MXFP4, below
    const size_t n = 1 << 18;
    const auto bytes = filled(make(id), n / encoding->block_elements * encoding->block_bytes);
    std::vector<float> values(n);
    moe::decode_row(*encoding, bytes.data(), n, values.data());
    double sum = 0;
    double squares = 0;
    for (const float x : values) {
      sum += x;
      squares += static_cast<double>(x) * x;
    }
    const double mean = sum / static_cast<double>(n);
    const double deviation = std::sqrt(squares / static_cast<double>(n) - mean * mean);
    EXPECT_TRUE(std::abs(mean) < 0.003) << id << ": mean " << mean;
    EXPECT_TRUE(deviation > 0.015 && deviation < 0.027) << id << ": deviation " << deviation;
    ++n_checked;
  }
  EXPECT_EQ(n_checked, 12U);
}

TEST(RandomFill, the_two_parts_of_mxfp4_are_numbers_of_the_same_size) {
  const auto blocks = filled(make("mxfp4_blocks"), 16 * 4096);
  const auto scales = filled(make("mxfp4_scales"), 4096);
  std::vector<float> values(32 * 4096);
  moe::decode_mxfp4(reinterpret_cast<const uint8_t*>(blocks.data()), reinterpret_cast<const uint8_t*>(scales.data()),
                    4096, values.data());
  double squares = 0;
  for (const float x : values) squares += static_cast<double>(x) * x;
  const double deviation = std::sqrt(squares / static_cast<double>(values.size()));
  EXPECT_TRUE(deviation > 0.015 && deviation < 0.027) << deviation;
}

TEST(RandomFill, bytes_depend_on_seed_name_and_place_and_not_on_the_pieces) {
  for (const char* id : {"f32", "bf16", "q4_k", "q8_0", "mxfp4"}) {
    const RandomFill fill = make(id);
    const uint64_t n_bytes = fill.unit_bytes() * 37;
    const auto whole = filled(fill, n_bytes);
    EXPECT_EQ(whole, filled(fill, n_bytes, 1)) << id;
    EXPECT_EQ(whole, filled(make(id), n_bytes, 5)) << id;
    EXPECT_NE(whole, filled(make(id, 2), n_bytes)) << id;
    EXPECT_NE(whole, filled(make(id, 1, "v"), n_bytes)) << id;
    // The last unit may be cut.
    std::vector<std::byte> cut(n_bytes - 1);
    fill.fill(0, cut);
    EXPECT_TRUE(std::equal(cut.begin(), cut.end(), whole.begin())) << id;
  }
}

TEST(RandomFill, ones_are_ones) {
  for (const char* id : {"f32", "f16", "bf16"}) {
    const moe::Encoding* encoding = moe::find_encoding(id);
    const auto bytes = filled(make(id, 1, "norm", RandomKind::kOnes), uint64_t{19} * encoding->block_bytes);
    std::vector<float> values(19);
    moe::decode_row(*encoding, bytes.data(), values.size(), values.data());
    EXPECT_EQ(values, std::vector<float>(19, 1.0F)) << id;
  }
}

TEST(RandomFill, an_unknown_encoding_is_refused_with_those_that_are_known) {
  const auto fill = RandomFill::make("q2_k", RandomKind::kMatrix, 0, "w");
  ASSERT_FALSE(fill.ok());
  EXPECT_EQ(fill.error().code, MOE_UNIMPLEMENTED);
  EXPECT_NE(fill.error().message.find("expected one of f32, f16, bf16, q8_0"), std::string::npos);
  EXPECT_FALSE(RandomFill::make("q8_0", RandomKind::kOnes, 0, "w").ok());
}

}  // namespace
}  // namespace patchbay
