// From gate logits to a plan, in one launch.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/rows.hpp"

namespace moe::cuda {

struct RouteParams {
  Rows<const float> logits;
  const float* bias;  // null: none
  Rows<int32_t> ids;
  Rows<float> weights;
  int32_t* count;  // null: none
  int64_t count_stride;
  int64_t n;
  int32_t n_experts, top_k, score, group_score, n_groups, top_groups, fill, renorm, dynamic, k_min;
  float threshold, renorm_eps, scale, logit_cap, sparse_eps;
  bool pdl;  // programmatic dependent launch
};

// Bytes of shared memory that a row takes; a call needs them at most 96 KiB.
inline int64_t route_bytes(const RouteParams& p) {
  const int64_t groups = p.n_groups > 0 ? p.n_groups : 0;
  return (2 * (groups + p.n_experts) + groups + 2 * int64_t{p.top_k}) * 4;
}
inline constexpr int64_t kRouteMostBytes = 96 * 1024;

cudaError_t launch_route(const RouteParams& p, cudaStream_t stream);

}  // namespace moe::cuda
