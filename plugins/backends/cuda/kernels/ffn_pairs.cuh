// What kernels ask of a pair (ffn_stage.hpp): its expert and its weight.
#pragma once

#include "kernels/device.cuh"
#include "kernels/ffn.hpp"

namespace moe::cuda {

// The group that pair j of a token goes to; -1: none of these experts', or beyond the token's count.
__device__ __forceinline__ int expert_of(const FfnParams& p, int64_t token, int j) {
  if (p.ids == nullptr) return 0;
  if (p.count != nullptr && j >= p.count[token * p.count_stride]) return -1;
  const int64_t e = p.ids[token * p.ids_row + j] - p.first_expert;
  return e >= 0 && e < p.gate.n_groups ? static_cast<int>(e) : -1;
}
__device__ __forceinline__ float weight_of(const FfnParams& p, int64_t token, int j) {
  return p.ids == nullptr ? 1.0F : p.weights[token * p.weights_row + j];
}
// What the weighted sum of a token is multiplied by.
__device__ __forceinline__ float scale_of(const FfnParams& p, int64_t token) {
  return p.row_gate == nullptr ? p.scale : p.scale * sigmoid(p.row_gate[token * p.row_gate_stride]);
}

}  // namespace moe::cuda
