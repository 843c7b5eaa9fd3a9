// What the backend `cuda` does where there is no GPU, and what of it needs none.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <set>

#include "kernels/weight.hpp"
#include "support/plugin_library.hpp"
#include "support/test_host.hpp"
#include "tools/conformance/ops/op_run.hpp"

namespace patchbay::test {
namespace {

using namespace conformance;  // NOLINT: the cases and their runs

using moe::cuda::Format;

bool has_device() {
  int n = 0;
  return cudaGetDeviceCount(&n) == cudaSuccess && n > 0;
}

TEST(Cuda, without_a_device_it_scores_0_and_opening_it_says_why) {
  if (has_device()) GTEST_SKIP() << "there is a device";
  TestHost host;
  auto library = PluginLibrary::open("cuda", host.get());
  ASSERT_TRUE(library.ok()) << library.error().message;
  const moe_backend* backend = library.value()->backend("cuda");
  ASSERT_NE(backend, nullptr);
  const auto* score = static_cast<const moe_backend_score*>(backend->component.get_extension(MOE_BACKEND_SCORE_ID));
  ASSERT_NE(score, nullptr);
  moe::MessageBuffer message;
  EXPECT_EQ(score->score(message.get()), 0);
  EXPECT_EQ(message.text().rfind("no CUDA device: ", 0), 0U) << message.text();
  const auto opened = BackendUnderTest::open(*backend, host.get());
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code, MOE_UNAVAILABLE);
  EXPECT_EQ(opened.error().message.rfind("no CUDA device: ", 0), 0U) << opened.error().message;
}

TEST(Cuda, with_a_device_it_scores_above_every_cpu) {
  if (!has_device()) GTEST_SKIP() << "there is no device";
  TestHost host;
  auto library = PluginLibrary::open("cuda", host.get());
  ASSERT_TRUE(library.ok()) << library.error().message;
  const auto* score = static_cast<const moe_backend_score*>(
      library.value()->backend("cuda")->component.get_extension(MOE_BACKEND_SCORE_ID));
  EXPECT_GT(score->score(nullptr), 100);
}

// Heads as large models have them, for which tensor cores are used.
TEST(Cuda, attention_of_large_heads_agrees_with_the_loops) {
  if (!has_device()) GTEST_SKIP() << "there is no device";
  TestHost host;
  auto library = PluginLibrary::open("cuda", host.get());
  ASSERT_TRUE(library.ok()) << library.error().message;
  auto opened = BackendUnderTest::open(*library.value()->backend("cuda"), host.get());
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const AttentionShape shapes[] = {{2, 16, 20, 2, 4, 4, 128, 128},  {3, 16, 40, 5, 2, 16, 128, 128},
                                   {1, 16, 9, 1, 1, 20, 64, 64},    {4, 4, 33, 40, 1, 3, 64, 64},
                                   {2, 16, 17, 3, 2, 4, 256, 256},  {1, 16, 70, 100, 2, 8, 128, 128},
                                   {1, 16, 100, 2, 1, 1, 128, 128}, {1, 16, 130, 1, 1, 12, 64, 64}};
  const AttentionShape latent_shapes[] = {
      {2, 16, 12, 2, 1, 16, 512, 576}, {1, 16, 20, 7, 1, 20, 512, 576}, {1, 16, 100, 1, 1, 16, 512, 576}};
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    for (const int32_t dtype : {MOE_BF16, MOE_F16}) {
      const auto check = [&](const AttentionShape& shape, bool latent) {
        CaseBuilder<moe_attention_args> b(MOE_OP_ATTENTION, seed);
        const OpCase c = attention_case_of(b, shape, dtype, latent);
        const Outcome outcome = CaseRun(*opened.value(), c, "f32").compare();
        EXPECT_EQ(outcome.kind, Outcome::kSame) << c.text << ": " << outcome.text;
      };
      for (const auto& shape : shapes) check(shape, false);
      for (const auto& shape : latent_shapes) check(shape, true);
    }
  }
}

// Every byte of a row of integers is one element's, or two's.
TEST(WeightLayout, quantised_elements_have_places_of_their_own) {
  for (const auto& [format, elements_a_byte] : {std::pair{Format::kI8, 1}, std::pair{Format::kI4, 2}}) {
    const int64_t row = 3 * moe::cuda::row_group(format);
    std::multiset<int64_t> bytes;
    for (int64_t k = 0; k < row; ++k) bytes.insert(moe::cuda::quant_byte(format, k));
    for (int64_t b = 0; b < row / elements_a_byte; ++b) {
      EXPECT_EQ(bytes.count(b), static_cast<size_t>(elements_a_byte)) << "byte " << b;
    }
    EXPECT_EQ(bytes.size(), static_cast<size_t>(row));
  }
}

// Two elements of kI4 that share a byte differ in which half they take: one is below 16 of its group, one is not.
TEST(WeightLayout, int4_elements_that_share_a_byte_take_different_halves) {
  std::set<std::pair<int64_t, bool>> places;
  for (int64_t k = 0; k < 256; ++k) places.emplace(moe::cuda::quant_byte(Format::kI4, k), k % 32 < 16);
  EXPECT_EQ(places.size(), 256U);
}

}  // namespace
}  // namespace patchbay::test
