// How the blocks of one token's kernels share the work.
#pragma once

#include "kernels/ffn_pairs.cuh"

namespace moe::cuda::single {

inline constexpr int kMostPairs = 16;

// A slot of the token that has an expert.
struct Pair {
  int slot;
  int expert;
};

// Puts them in order into `pairs`, the warp's own, and their weights, where wanted, into `weights`; the number of them.
__device__ __forceinline__ int find_pairs(const FfnParams& p, Pair* pairs, float* weights) {
  const auto j = static_cast<int>(threadIdx.x) % 32;
  const bool weighted = weights != nullptr && j < p.k && p.weight_on != MOE_WEIGHT_ON_INPUT;
  const float weight = weighted ? weight_of(p, 0, j) : 1.0F;  // on its way together with the id
  const int e = j < p.k ? expert_of(p, 0, j) : -1;
  const unsigned found = __ballot_sync(kFullWarp, e >= 0);
  const int at = __popc(found & ((1U << j) - 1U));
  if (e >= 0) {
    pairs[at] = {j, e};
    if (weights != nullptr) weights[at] = weight;
  }
  __syncwarp();
  return __popc(found);
}

// Divides numbers below 65,536 by the number of pairs.
class ByPairs {
 public:
  __device__ __forceinline__ explicit ByPairs(int n) {
    asm("rcp.approx.f32 %0, %1;" : "=f"(of_one_) : "f"(static_cast<float>(n)));
  }
  __device__ __forceinline__ int divide(int v) const {
    return static_cast<int>((static_cast<float>(v) + 0.5F) * of_one_);
  }

 private:
  float of_one_;
};

// Warps that convert the activations of one expert, with so many experts at most.
inline int warps_of_expert(int64_t k, int n_warps) {
  int warps = 1;
  while (warps * 2 * k <= n_warps) warps *= 2;
  return warps;
}

}  // namespace moe::cuda::single
