// cuBLAS, opened at run time. Only what the backend calls.
#pragma once

#include <cublas_v2.h>

#include <memory>

#include "error.hpp"

namespace moe::cuda {

// out[batch] (n x m, row-major, f32) = alpha * x (n x k) . w (m x k)^T + beta * out; strides in elements.
struct GemmArgs {
  int64_t n = 0;  // rows of x: tokens
  int64_t m = 0;  // rows of w: outputs
  int64_t k = 0;
  const void* x = nullptr;
  int64_t x_row = 0;
  const void* w = nullptr;
  int64_t w_row = 0;
  float* out = nullptr;
  int64_t out_row = 0;
  cudaDataType_t type = CUDA_R_16BF;  // of x and w: CUDA_R_32F, CUDA_R_16F or CUDA_R_16BF
  float alpha = 1.0F;
  float beta = 0.0F;
  int64_t batch = 1;
  int64_t x_batch = 0;
  int64_t w_batch = 0;
  int64_t out_batch = 0;
};

class Blas {
 public:
  // MOE_UNAVAILABLE: the library is not installed, with the places that were searched.
  static Result<std::unique_ptr<Blas>> open(cudaStream_t stream);
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  // Enqueues it on the stream of open(). Products of f32 stay f32 (no TF32). [compute-thread]
  Status gemm(const GemmArgs& args) const;

 private:
  struct Calls;
  Blas() = default;
  std::unique_ptr<Calls> calls_;
  cublasHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
};

}  // namespace moe::cuda
