// CUDA's errors as statuses. Order matters within the last test only: poison is for ever.
#include "error.hpp"

#include <gtest/gtest.h>

namespace moe::cuda {
namespace {

Status fails(cudaError_t code) {
  MOE_CUDA_TRY(code);
  return {};
}

TEST(CudaError, names_the_call_the_place_and_the_error) {
  const auto status = check(cudaErrorInvalidValue, "cudaMemcpyAsync(to, from, n)", "cuda.cpp:17");
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, MOE_INTERNAL);
  EXPECT_EQ(status.error().message, "cudaMemcpyAsync (cuda.cpp:17): cudaErrorInvalidValue, invalid argument");
  EXPECT_TRUE(check(cudaSuccess, "", "").ok());
}

TEST(CudaError, the_macro_fills_in_file_and_line) {
  const auto status = fails(cudaErrorInvalidValue);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("code (error_test.cpp:"), std::string::npos) << status.error().message;
}

TEST(CudaError, memory_and_missing_devices_have_codes_of_their_own) {
  EXPECT_EQ(check(cudaErrorMemoryAllocation, "cudaMalloc", "x").error().code, MOE_RESOURCE_EXHAUSTED);
  EXPECT_EQ(check(cudaErrorNoDevice, "cudaSetDevice", "x").error().code, MOE_UNAVAILABLE);
  EXPECT_EQ(check(cudaErrorInsufficientDriver, "cudaSetDevice", "x").error().code, MOE_UNAVAILABLE);
}

TEST(CudaError, a_lost_context_poisons_every_later_call_with_the_first_error) {
  EXPECT_TRUE(poisoned().ok());
  const auto first = check(cudaErrorIllegalAddress, "cudaStreamSynchronize(s)", "cuda.cpp:1");
  EXPECT_EQ(first.error().code, MOE_UNAVAILABLE);
  EXPECT_EQ(first.error().message.rfind("POISONED: ", 0), 0U) << first.error().message;
  const auto second = check(cudaErrorLaunchFailure, "cudaMemcpy(a)", "cuda.cpp:2");
  EXPECT_EQ(second.error().message, first.error().message);
  EXPECT_EQ(poisoned().error().message, first.error().message);
}

}  // namespace
}  // namespace moe::cuda
