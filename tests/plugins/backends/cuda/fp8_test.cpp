// Weights kept as fp8: the bytes that a checkpoint holds, and products of more rows than the conformance kit has, for
// which codes become bf16.
#include <cmath>
#include <cstring>

#include "moe/sdk/numeric.hpp"
#include "moe/sdk/quant.hpp"
#include "moe/sdk/weight_format.hpp"
#include "plugins/backends/cuda/on_device.hpp"

namespace patchbay::test {
namespace {

// n_groups x [n_out, n_in] of codes and scales.
struct Stored {
  Stored(int64_t n_groups, int64_t n_out, int64_t n_in) : down(moe::fp8_blocks(n_out)), across(moe::fp8_blocks(n_in)) {
    Random random(static_cast<uint64_t>(n_out * 7 + n_in));
    codes.resize(static_cast<size_t>(n_groups * n_out * n_in));
    for (uint8_t& c : codes) {
      c = static_cast<uint8_t>(random.below(256));
      if ((c & 0x7F) == 0x7F) c = 0x80;
    }
    scales.resize(static_cast<size_t>(n_groups * down * across));
    for (float& s : scales) s = static_cast<float>(random.uniform(1e-4, 0.1));
    abi.name = abi.role = "stored";
    abi.encoding = "f32";
    abi.wanted = "fp8";
    abi.n_groups = n_groups;
    abi.n_out = n_out;
    abi.n_in = n_in;
    abi.uses = MOE_USE_MATMUL;
    abi.context = this;
    abi.block_encoding = "f8_e4m3";
    abi.block_rows = abi.block_cols = 128;
    abi.read_block_row = [](void* context, int64_t group, int64_t index, void* elements, int64_t stride, float* to) {
      const auto& it = *static_cast<Stored*>(context);
      const auto& s = it.abi;
      for (int64_t r = 0; r < moe::fp8_rows(s, index); ++r) {
        std::memcpy(static_cast<char*>(elements) + r * stride,
                    it.codes.data() + (group * s.n_out + index * 128 + r) * s.n_in, static_cast<size_t>(s.n_in));
      }
      std::copy_n(it.scales.data() + (group * it.down + index) * it.across, it.across, to);
    };
  }
  Stored(const Stored&) = delete;
  Stored& operator=(const Stored&) = delete;
  [[nodiscard]] float value(int64_t group, int64_t row, int64_t col) const {
    return moe::fp8_weight(codes[static_cast<size_t>((group * abi.n_out + row) * abi.n_in + col)],
                           scales[static_cast<size_t>((group * down + row / 128) * across + col / 128)]);
  }
  int64_t down, across;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  moe_weight_source abi = moe::make<moe_weight_source>();
};

class Fp8Weights : public Fused {
 protected:
  // Rows of x [n, groups, n_in] times a weight of n_groups x [n_out, n_in] with bf16 activations, against sums in
  // double over weights rounded to bf16. Of the outputs every `step`-th is looked at.
  void check_many_rows(OnDevice& device, const moe_weight* weight, int64_t n, int64_t n_groups, int64_t n_out,
                       int64_t n_in, int64_t step) {
    Random random(9);
    const std::vector<float> x = numbers(random, n * n_groups * n_in, 3.0);
    auto args = moe::op_args<moe_matmul_args>();
    args.weight = weight;
    args.x = device.put(x, {n, n_groups, n_in});
    args.out = device.put(std::vector<float>(static_cast<size_t>(n * n_groups * n_out), NAN), {n, n_groups, n_out});
    args.scale = 1.0F;
    args.activation = MOE_BF16;
    device.launch(MOE_OP_MATMUL, args.header);
    const auto got = device.get<float>(args.out.data, n * n_groups * n_out);
    const auto bf16 = [](float v) { return static_cast<double>(moe::bf16_to_f32(moe::f32_to_bf16(v))); };
    std::vector<float> scratch(static_cast<size_t>(n_in));
    for (int64_t g = 0; g < n_groups; ++g) {
      for (int64_t o = 0; o < n_out; o += step) {
        const float* row = backend_->rows()->row(weight, g, o, scratch.data());
        for (int64_t i = 0; i < n; ++i) {
          double want = 0;
          double size = 0;
          for (int64_t k = 0; k < n_in; ++k) {
            const double product = bf16(row[k]) * bf16(x[static_cast<size_t>((i * n_groups + g) * n_in + k)]);
            want += product;
            size += std::fabs(product);
          }
          const float here = got[static_cast<size_t>((i * n_groups + g) * n_out + o)];
          ASSERT_TRUE(std::fabs(here - want) <= 1e-5 * size + 1e-6)
              << n << " rows, " << n_groups << " x [" << n_out << ", " << n_in << "]: row " << i << " output " << o
              << " of " << g << ": " << here << ", expected " << want;
        }
      }
    }
  }
};

// More than one buffer of the upload's in the last one.
TEST_F(Fp8Weights, codes_and_scales_are_kept_as_they_are_stored) {
  for (const auto& [n_out, n_in] :
       {std::pair<int64_t, int64_t>{1, 1}, {128, 128}, {130, 140}, {300, 64}, {64, 300}, {3000, 4000}}) {
    Stored source(2, n_out, n_in);
    auto prepared = moe::make<moe_prepared>();
    moe::MessageBuffer message;
    ASSERT_EQ(backend_->backend().prepare(backend_->instance(), &source.abi, &prepared, message.get()), MOE_OK)
        << message.text();
    EXPECT_STREQ(prepared.encoding, "fp8");
    EXPECT_LT(prepared.n_bytes, static_cast<uint64_t>(2 * n_out * (n_in + 127) * 33 / 32 + 2048));
    std::vector<float> scratch(static_cast<size_t>(n_in));
    for (int64_t g = 0; g < 2; ++g) {
      for (int64_t r = 0; r < n_out; ++r) {
        const float* row = backend_->rows()->row(prepared.weight, g, r, scratch.data());
        for (int64_t c = 0; c < n_in; ++c)
          ASSERT_EQ(row[c], source.value(g, r, c)) << n_out << " x " << n_in << ": " << g << ", " << r << ", " << c;
      }
    }
    prepared.release(&prepared);
  }
}

TEST_F(Fp8Weights, other_numbers_are_quantised_as_the_sdk_does) {
  constexpr int64_t kOut = 300;
  constexpr int64_t kIn = 200;
  Random random(4);
  const std::vector<float> values = numbers(random, kOut * kIn, 0.05);
  OnDevice device(*backend_);
  const moe_weight* weight = device.weight(values, kOut, kIn, "fp8");
  std::vector<float> scratch(kIn);
  for (int64_t first = 0; first < kOut; first += 128) {
    const int64_t n = std::min<int64_t>(128, kOut - first);
    std::vector<uint8_t> codes(static_cast<size_t>(n * kIn));
    std::vector<float> scales(2);
    moe::quantize_fp8(values.data() + first * kIn, n, kIn, codes.data(), kIn, scales.data());
    for (int64_t i = 0; i < n * kIn; ++i) {
      const float* row = backend_->rows()->row(weight, 0, first + i / kIn, scratch.data());
      ASSERT_EQ(row[i % kIn],
                moe::fp8_weight(codes[static_cast<size_t>(i)], scales[static_cast<size_t>(i % kIn / 128)]));
    }
  }
}

TEST_F(Fp8Weights, many_rows_are_multiplied_with_weights_rounded_to_bf16) {
  for (const auto& [n_groups, n_out, n_in] :
       {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {1, 128, 256}, {1, 300, 130}, {3, 70, 200}, {1, 513, 640}}) {
    Stored source(n_groups, n_out, n_in);
    auto prepared = moe::make<moe_prepared>();
    moe::MessageBuffer message;
    ASSERT_EQ(backend_->backend().prepare(backend_->instance(), &source.abi, &prepared, message.get()), MOE_OK)
        << message.text();
    {
      OnDevice device(*backend_);
      check_many_rows(device, prepared.weight, 65, n_groups, n_out, n_in, 1);
    }
    prepared.release(&prepared);
  }
}

// So many outputs that they are unpacked in two parts.
TEST_F(Fp8Weights, many_rows_of_a_large_weight_are_multiplied_part_by_part) {
  constexpr int64_t kOut = 66000;
  constexpr int64_t kIn = 2048;
  Random random(6);
  OnDevice device(*backend_);
  const moe_weight* weight = device.weight(numbers(random, kOut * kIn, 0.05), kOut, kIn, "fp8");
  check_many_rows(device, weight, 70, 1, kOut, kIn, 331);
}

}  // namespace
}  // namespace patchbay::test
