// CUDA's errors as statuses: the call, the place, and what the driver says. An error that the context does not survive
// poisons the backend: it is logged once, and every later call fails with it.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "moe/sdk/result.hpp"

namespace moe::cuda {

// MOE_RESOURCE_EXHAUSTED for memory, MOE_UNAVAILABLE without a device or after one was lost, MOE_INTERNAL otherwise;
// names `call` and `place`. [thread-safe]
Status check(cudaError_t code, const char* call, const char* place);

// The status that poisoned the backend, if one has. [thread-safe]
Status poisoned();

// Poisons the backend with an error of cuBLAS or the like that CUDA does not report itself.
Error poison(std::string message);

}  // namespace moe::cuda

#define MOE_CUDA_TEXT_(x) #x
#define MOE_CUDA_TEXT(x) MOE_CUDA_TEXT_(x)
// Returns the error of a call of CUDA from the enclosing function; otherwise goes on.
#define MOE_CUDA_TRY(call) MOE_TRY(::moe::cuda::check((call), #call, __FILE_NAME__ ":" MOE_CUDA_TEXT(__LINE__)))
