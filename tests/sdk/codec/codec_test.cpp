// The bits of GGUF's encodings are judged in tests/core/model/checkpoint/gguf_test.cpp, against files of the Python
// package.
#include "moe/sdk/codec.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace moe {
namespace {

TEST(Codec, encodings_are_found_by_id) {
  for (const Encoding& encoding : kEncodings) EXPECT_EQ(find_encoding(encoding.id), &encoding);
  EXPECT_EQ(find_encoding("q9_9"), nullptr);
  EXPECT_EQ(find_encoding(""), nullptr);
}

TEST(Codec, row_may_end_within_a_block_and_nothing_behind_it_is_written) {
  for (const Encoding& encoding : kEncodings) {
    const size_t n_all = size_t{3} * encoding.block_elements;
    std::vector<uint8_t> bytes(size_t{3} * encoding.block_bytes);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37 % 61);
    std::vector<float> all(n_all);
    decode_row(encoding, bytes.data(), n_all, all.data());
    for (size_t n = 0; n <= n_all; n += n < 70 ? 1 : 31) {
      std::vector<float> row(n_all + 1, 777.0F);
      decode_row(encoding, bytes.data(), n, row.data());
      for (size_t i = 0; i < n_all + 1; ++i) {
        const float want = i < n ? all[i] : 777.0F;
        ASSERT_EQ(std::bit_cast<uint32_t>(row[i]), std::bit_cast<uint32_t>(want))
            << encoding.id << " " << n << " " << i;
      }
    }
  }
}

TEST(Codec, block_by_block_and_all_at_once_are_the_same) {
  for (const Encoding& encoding : kEncodings) {
    std::vector<uint8_t> bytes(size_t{2} * encoding.block_bytes);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 29 % 59);
    std::vector<float> one(size_t{2} * encoding.block_elements);
    std::vector<float> two(one.size());
    encoding.decode_blocks(bytes.data(), 2, one.data());
    encoding.decode(bytes.data(), two.data());
    encoding.decode(bytes.data() + encoding.block_bytes, two.data() + encoding.block_elements);
    EXPECT_EQ(one, two) << encoding.id;
  }
}

// From the definition of OCP MX: neighbours share a byte, the low half first.
TEST(Codec, mxfp4_pairs_follow_the_ocp_definition) {
  const float e2m1[16] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6, -0.0F, -0.5F, -1, -1.5F, -2, -3, -4, -6};
  std::vector<uint8_t> blocks(size_t{256} * 16);
  std::vector<uint8_t> scales(256);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<uint8_t>(i * 167 + i / 16);
  for (size_t i = 0; i < 256; ++i) scales[i] = static_cast<uint8_t>(i);
  std::vector<float> out(size_t{256} * 32);
  decode_mxfp4(blocks.data(), scales.data(), 256, out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    const int nibble = blocks[i / 2] >> (i % 2 * 4) & 15;
    const int scale = scales[i / 32];
    if (scale == 255) {
      ASSERT_TRUE(std::isnan(out[i])) << i;
    } else {
      const float want = std::ldexp(e2m1[nibble], scale - 127);
      ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(want)) << i;
    }
  }
}

}  // namespace
}  // namespace moe
