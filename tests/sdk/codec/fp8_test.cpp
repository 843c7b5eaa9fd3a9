// The format "fp8": its definition against plain arithmetic, and how a source comes to it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "moe/sdk/growth.hpp"
#include "moe/sdk/quant.hpp"
#include "moe/sdk/tensor.hpp"
#include "moe/sdk/weight_format.hpp"

namespace moe {
namespace {

struct Quantised {
  Quantised(const std::vector<float>& x, int64_t n_rows, int64_t n_in)
      : codes(x.size()), scales(static_cast<size_t>(fp8_blocks(n_in))) {
    quantize_fp8(x.data(), n_rows, n_in, codes.data(), n_in, scales.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const auto column = static_cast<int64_t>(i) % n_in;
      values.push_back(fp8_weight(codes[i], scales[static_cast<size_t>(column / kFp8Block)]));
    }
  }
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<float> values;
};

std::vector<float> random_values(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<float> out(n);
  for (float& v : out) v = normal(random);
  return out;
}

TEST(Fp8, a_block_has_the_scale_of_its_largest_number_and_every_number_is_the_nearest) {
  for (const auto& [n_rows, n_in] :
       {std::pair<int64_t, int64_t>{1, 1}, {128, 128}, {5, 127}, {77, 129}, {128, 300}, {3, 256}}) {
    const std::vector<float> x = random_values(static_cast<size_t>(n_rows * n_in), 3);
    const Quantised q(x, n_rows, n_in);
    for (int64_t c = 0; c < n_in; ++c) {
      float largest = 0.0F;
      const int64_t begin = c / 128 * 128;
      for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t k = begin; k < std::min(n_in, begin + 128); ++k)
          largest = std::max(largest, std::fabs(x[static_cast<size_t>(r * n_in + k)]));
      }
      const float scale = q.scales[static_cast<size_t>(c / 128)];
      ASSERT_EQ(scale, largest / 448.0F) << n_rows << " x " << n_in << " column " << c;
      for (int64_t r = 0; r < n_rows; ++r) {
        const auto i = static_cast<size_t>(r * n_in + c);
        const float target = x[i] / scale;
        const float here = std::fabs(f8_e4m3_to_f32(q.codes[i]) - target);
        for (const int other : {q.codes[i] - 1, q.codes[i] + 1}) {
          if ((other & 0x7F) == 0x7F || other < 0 || other > 255) continue;
          ASSERT_LE(here, std::fabs(f8_e4m3_to_f32(static_cast<uint8_t>(other)) - target))
              << x[i] << " scale " << scale;
        }
      }
    }
  }
}

TEST(Fp8, what_it_gives_is_kept_by_a_second_time) {
  const Quantised once(random_values(128 * 384, 5), 128, 384);
  const Quantised twice(once.values, 128, 384);
  EXPECT_EQ(twice.codes, once.codes);
  for (size_t i = 0; i < once.scales.size(); ++i) EXPECT_NEAR(twice.scales[i] / once.scales[i], 1.0F, 1.2e-7F);
}

TEST(Fp8, zeros_stay_zeros_and_a_number_that_is_not_finite_makes_its_block_nan) {
  std::vector<float> x(2 * 300, 0.0F);
  x[130] = 1.0F;
  x[299] = INFINITY;
  const Quantised q(x, 2, 300);
  EXPECT_EQ(q.scales[0], 0.0F);
  for (const size_t i : {0, 127, 300, 427}) EXPECT_EQ(q.values[i], 0.0F) << i;
  EXPECT_EQ(q.values[130], 1.0F);
  EXPECT_EQ(q.values[131], 0.0F);
  for (const size_t i : {256, 299, 556, 599}) EXPECT_TRUE(std::isnan(q.values[i])) << i;
}

// A matrix [n_out, n_in] in memory, by codes and scales where `stored`, else as f32.
struct Source {
  Source(int64_t n_out, int64_t n_in, bool stored) : n_in_(n_in) {
    std::mt19937 random(static_cast<unsigned>(n_out + n_in));
    abi.encoding = "f32";
    abi.wanted = "fp8";
    abi.n_groups = 1;
    abi.n_out = n_out;
    abi.n_in = n_in;
    abi.uses = MOE_USE_MATMUL;
    abi.context = this;
    for (int64_t i = 0; i < n_out * n_in; ++i) {
      const auto code = static_cast<uint8_t>(random());
      codes.push_back((code & 0x7F) == 0x7F ? uint8_t{0x80} : code);
    }
    for (int64_t i = 0; i < fp8_blocks(n_out) * fp8_blocks(n_in); ++i)
      scales.push_back(1e-3F * static_cast<float>(random() % 1000 + 1));
    abi.read_f32 = [](void* context, int64_t, int64_t row, int64_t n_rows, float* out) {
      const auto& it = *static_cast<Source*>(context);
      for (int64_t i = 0; i < n_rows * it.n_in_; ++i) out[i] = it.value(row * it.n_in_ + i);
    };
    if (!stored) return;
    abi.block_encoding = "f8_e4m3";
    abi.block_rows = abi.block_cols = 128;
    abi.read_block_row = [](void* context, int64_t, int64_t index, void* elements, int64_t stride, float* to) {
      const auto& it = *static_cast<Source*>(context);
      for (int64_t r = 0; r < fp8_rows(it.abi, index); ++r)
        std::memcpy(static_cast<char*>(elements) + r * stride, it.codes.data() + (index * 128 + r) * it.n_in_,
                    static_cast<size_t>(it.n_in_));
      std::copy_n(it.scales.data() + index * fp8_blocks(it.n_in_), fp8_blocks(it.n_in_), to);
    };
  }
  [[nodiscard]] float value(int64_t i) const {
    const int64_t block = i / n_in_ / 128 * fp8_blocks(n_in_) + i % n_in_ / 128;
    return fp8_weight(codes[static_cast<size_t>(i)], scales[static_cast<size_t>(block)]);
  }
  int64_t n_in_;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  moe_weight_source abi = make<moe_weight_source>();
};

struct Read {
  explicit Read(const moe_weight_source& source) {
    const int64_t blocks = fp8_blocks(source.n_in);
    constexpr int64_t kBeyond = 3;  // rows may lie apart
    const int64_t stride = source.n_in + kBeyond;
    codes.assign(static_cast<size_t>(source.n_out * stride), 0xAA);
    scales.resize(static_cast<size_t>(fp8_blocks(source.n_out) * blocks));
    values.resize(static_cast<size_t>(source.n_out * source.n_in));
    std::vector<float> scratch;
    for (int64_t index = 0; index < fp8_blocks(source.n_out); ++index) {
      read_fp8(source, 0, index, codes.data() + index * 128 * stride, stride, scales.data() + index * blocks, scratch);
      read_fp8_as_f32(source, 0, index, values.data() + index * 128 * source.n_in);
    }
  }
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<float> values;
};

TEST(Fp8, stored_blocks_are_taken_over_as_they_are) {
  for (const auto& [n_out, n_in] : {std::pair<int64_t, int64_t>{1, 1}, {128, 128}, {129, 131}, {300, 64}, {64, 300}}) {
    const Source source(n_out, n_in, true);
    ASSERT_TRUE(is_stored_as_fp8(source.abi));
    const Read read(source.abi);
    EXPECT_EQ(read.scales, source.scales);
    for (int64_t i = 0; i < n_out * n_in; ++i) {
      ASSERT_EQ(read.codes[static_cast<size_t>(i / n_in * (n_in + 3) + i % n_in)],
                source.codes[static_cast<size_t>(i)]);
      ASSERT_EQ(read.values[static_cast<size_t>(i)], source.value(i)) << n_out << " x " << n_in << " element " << i;
    }
  }
}

TEST(Fp8, other_numbers_are_quantised_row_of_blocks_by_row_of_blocks) {
  const Source source(300, 200, false);
  EXPECT_FALSE(is_stored_as_fp8(source.abi));
  const Read read(source.abi);
  for (int64_t index = 0; index < 3; ++index) {
    const int64_t n_rows = fp8_rows(source.abi, index);
    std::vector<float> x(static_cast<size_t>(n_rows * 200));
    source.abi.read_f32(source.abi.context, 0, index * 128, n_rows, x.data());
    const Quantised want(x, n_rows, 200);
    for (int64_t i = 0; i < n_rows * 200; ++i) {
      const int64_t row = index * 128 + i / 200;
      ASSERT_EQ(read.codes[static_cast<size_t>(row * 203 + i % 200)], want.codes[static_cast<size_t>(i)]);
      ASSERT_EQ(read.values[static_cast<size_t>(row * 200 + i % 200)], want.values[static_cast<size_t>(i)]);
    }
  }
}

TEST(Fp8, blocks_of_another_size_or_encoding_are_not_taken_for_it) {
  Source source(10, 10, true);
  source.abi.block_cols = 64;
  EXPECT_FALSE(is_stored_as_fp8(source.abi));
  source.abi.block_cols = 128;
  source.abi.block_encoding = "f8_e5m2";
  EXPECT_FALSE(is_stored_as_fp8(source.abi));
}

std::string format_of(moe_weight_source source) {
  const auto format = choose_weight_format(source, "test");
  return format.ok() ? kWeightFormats[*format] : format.error().message;
}

TEST(Fp8, is_chosen_where_it_is_asked_for_and_not_by_auto_or_for_a_table) {
  Source source(10, 10, true);
  EXPECT_EQ(format_of(source.abi), "fp8");
  source.abi.uses = MOE_USE_EMBED;
  EXPECT_EQ(format_of(source.abi), "f32");
  source.abi.uses = MOE_USE_EMBED | MOE_USE_MATMUL;
  EXPECT_EQ(format_of(source.abi), "fp8");
  source.abi.wanted = "auto";
  EXPECT_EQ(format_of(source.abi), "f32");
  source.abi.wanted = "fp4";
  EXPECT_EQ(format_of(source.abi).rfind("encoding: expected auto, f32, f16, bf16, int8, int4 or fp8", 0), 0U);
}

// A host of before writes a source that ends earlier.
TEST(Fp8, a_source_of_an_older_host_has_no_blocks) {
  const Source source(10, 10, true);
  moe_weight_source old = source.abi;
  old.struct_size = 104;
  ASSERT_TRUE(check_struct(&old, "source").ok());
  EXPECT_FALSE(is_stored_as_fp8(*Grown(old)));
  old.struct_size = 103;
  EXPECT_FALSE(check_struct(&old, "source").ok());
}

}  // namespace
}  // namespace moe
