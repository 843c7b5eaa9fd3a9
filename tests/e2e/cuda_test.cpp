// What the program says of the backend `cuda` on a machine without a GPU, and what it takes instead.
#include <gtest/gtest.h>

#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {
namespace {

const std::string kModel = fixture_dir("olmoe").string();

TEST(CudaAbsent, naming_it_is_one_clear_error) {
  const auto result =
      run_program({"run", "--backend", "cuda", "--model", kModel, "--max-tokens", "1", "--prompt-ids=[1]"});
  if (result.exit_code == 0) GTEST_SKIP() << "there is a device";
  expect_one_clear_error(result, {"backend \"cuda\": no CUDA device: "});
}

TEST(CudaAbsent, auto_takes_the_cpu) {
  if (why_unusable("cuda").empty()) GTEST_SKIP() << "there is a device";
  const auto result = run_program(
      {"bench", "--json", "--model", kModel, "--rounds", "1", "--prompt-tokens", "3", "--decode-tokens", "2"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("moe.op.ffn/1 (cpu, "), std::string::npos) << result.out;
}

}  // namespace
}  // namespace patchbay::e2e
