#include "blas.hpp"

#include <dlfcn.h>

#include <limits>

namespace moe::cuda {

// The C form; the header has overloads of the same name.
using GemmCall = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                                    const void* alpha, const void* a, cudaDataType, int lda, long long stride_a,
                                    const void* b, cudaDataType, int ldb, long long stride_b, const void* beta, void* c,
                                    cudaDataType, int ldc, long long stride_c, int batch, cublasComputeType_t,
                                    cublasGemmAlgo_t);

struct Blas::Calls {
  void* library = nullptr;
  decltype(&cublasCreate) create = nullptr;
  decltype(&cublasDestroy) destroy = nullptr;
  decltype(&cublasSetStream) set_stream = nullptr;
  decltype(&cublasSetWorkspace) set_workspace = nullptr;
  GemmCall gemm = nullptr;
  decltype(&cublasGetStatusName) status_name = nullptr;
};

namespace {

#define MOE_CUBLAS_NAME_(x) #x
#define MOE_CUBLAS_NAME(x) MOE_CUBLAS_NAME_(x)  // cublasCreate is a macro for cublasCreate_v2

template <typename F>
bool load(void* library, const char* name, F& out) {
  out = reinterpret_cast<F>(dlsym(library, name));
  return out != nullptr;
}

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLAS recommends for Hopper

}  // namespace

Result<std::unique_ptr<Blas>> Blas::open(cudaStream_t stream) {
  std::unique_ptr<Blas> blas(new Blas());
  blas->calls_ = std::make_unique<Calls>();
  Calls& c = *blas->calls_;
  for (const char* name : {PATCHBAY_CUBLAS, PATCHBAY_CUBLAS_DIR "/" PATCHBAY_CUBLAS}) {
    if (c.library == nullptr) c.library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (c.library == nullptr) {
    return Error{MOE_UNAVAILABLE,
                 "cuBLAS: expected " PATCHBAY_CUBLAS " in the loader's path or in " PATCHBAY_CUBLAS_DIR ", got none"};
  }
  const bool whole = load(c.library, MOE_CUBLAS_NAME(cublasCreate), c.create) &&
                     load(c.library, MOE_CUBLAS_NAME(cublasDestroy), c.destroy) &&
                     load(c.library, MOE_CUBLAS_NAME(cublasSetStream), c.set_stream) &&
                     load(c.library, MOE_CUBLAS_NAME(cublasSetWorkspace), c.set_workspace) &&
                     load(c.library, "cublasGemmStridedBatchedEx", c.gemm) &&
                     load(c.library, "cublasGetStatusName", c.status_name);
  if (!whole) return Error{MOE_UNAVAILABLE, "cuBLAS: " PATCHBAY_CUBLAS " lacks a function that the backend calls"};
  if (const cublasStatus_t status = c.create(&blas->handle_); status != CUBLAS_STATUS_SUCCESS) {
    return Error{MOE_UNAVAILABLE, std::string("cublasCreate: ") + c.status_name(status)};
  }
  MOE_CUDA_TRY(cudaMalloc(&blas->workspace_, kWorkspaceBytes));
  // A workspace of ours: cuBLAS would allocate one during a capture.
  if (c.set_stream(blas->handle_, stream) != CUBLAS_STATUS_SUCCESS ||
      c.set_workspace(blas->handle_, blas->workspace_, kWorkspaceBytes) != CUBLAS_STATUS_SUCCESS) {
    return internal("cuBLAS: the stream or the workspace was refused");
  }
  return blas;
}

Blas::~Blas() {
  // The library stays open: cuBLAS starts threads and registers handlers that outlive its handles.
  if (handle_ != nullptr) calls_->destroy(handle_);
  if (workspace_ != nullptr) cudaFree(workspace_);
}

Status Blas::gemm(const GemmArgs& a) const {
  constexpr int64_t kLimit = std::numeric_limits<int>::max();
  if (a.n > kLimit || a.m > kLimit || a.k > kLimit || a.batch > kLimit) {
    return invalid("product: expected sizes below 2^31, got more");
  }
  // cuBLAS counts columns first: out^T (m x n) = w (k x m)^T . x^T (k x n).
  const cublasStatus_t status =
      calls_->gemm(handle_, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(a.m), static_cast<int>(a.n),
                   static_cast<int>(a.k), &a.alpha, a.w, a.type, static_cast<int>(a.w_row), a.w_batch, a.x, a.type,
                   static_cast<int>(a.x_row), a.x_batch, &a.beta, a.out, CUDA_R_32F, static_cast<int>(a.out_row),
                   a.out_batch, static_cast<int>(a.batch), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  const std::string text = std::string("cublasGemmStridedBatchedEx (blas.cpp): ") + calls_->status_name(status) +
                           ", n " + std::to_string(a.n) + ", m " + std::to_string(a.m) + ", k " + std::to_string(a.k);
  return status == CUBLAS_STATUS_EXECUTION_FAILED ? poison(text) : internal(text);
}

}  // namespace moe::cuda
