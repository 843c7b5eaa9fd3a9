// The feed-forward of a set of experts (MOE_OP_FFN), from one token to a long prompt.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/weight.hpp"
#include "moe/abi/ops.h"

namespace moe::cuda {

// As moe_ffn_args says it. Pointers are device memory; strides are in elements between rows, and elements of a row are
// contiguous.
struct FfnParams {
  WeightView gate;         // n_experts x [width, d_model]
  WeightView up;           // like gate, in format too; data null: ungated
  WeightView down;         // n_experts x [d_model, width]
  const float* gate_bias;  // [n_experts, width], or null; the same for the others
  int64_t gate_bias_row;
  const float* up_bias;
  int64_t up_bias_row;
  const float* down_bias;  // [n_experts, d_model], or null
  int64_t down_bias_row;
  const float* x;  // [n, d_model]
  int64_t x_row;
  const int32_t* ids;  // [n, k], or null: every row goes to group 0 with weight 1 (k is 1 then)
  int64_t ids_row;
  const float* weights;  // [n, k]
  int64_t weights_row;
  const int32_t* count;  // [n], or null: k everywhere
  int64_t count_stride;
  const float* row_gate;  // [n], or null
  int64_t row_gate_stride;
  float* out;  // [n, d_model]; not x
  int64_t out_row;
  int64_t n;
  int64_t k;
  int64_t first_expert;
  moe_gating gating;
  int32_t activation;  // MOE_F32, MOE_BF16, MOE_F16, MOE_I8
  int32_t weight_on;   // MOE_WEIGHT_ON_*
  float scale;
  bool accumulate;
  // The same bits for a row whatever n is: no kernels that sum in another order for many rows.
  bool deterministic;
  // One token may take the kernels of single.hpp; never where deterministic.
  bool single;
  // Programmatic dependent launch between the kernels of the call, and after what came before it on the stream.
  bool pdl;
  void* workspace;  // ffn_workspace() bytes, 256-byte aligned, not zeroed
};

// Why a call is not possible; null if it is. Depends on shapes, formats and enums only.
const char* ffn_refusal(const FfnParams& p);

// Bytes of workspace for these shapes, or fewer rows.
size_t ffn_workspace(const FfnParams& p);

// Enqueues; never allocates, waits or looks at device memory from the host, so a graph may capture it. Sums of floats
// are made in a fixed order: the same call gives the same bits.
cudaError_t launch_ffn(const FfnParams& p, cudaStream_t stream);

}  // namespace moe::cuda
