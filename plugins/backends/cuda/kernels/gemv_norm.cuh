// The norm in front of a product (MatvecParams::norm_weight), by each of its blocks.
#pragma once

#include "kernels/device.cuh"
#include "kernels/matvec.hpp"

namespace moe::cuda {

// 1 / sqrt(mean(x^2) + eps) of each of the block's tokens into inverse [NT * 8]; sums [n_warps][NT * 8]. All threads.
__device__ inline void find_norms(const MatvecParams& p, int64_t token0, int n_tokens, int stride, float* sums,
                                  float* inverse) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  for (int token = 0; token < n_tokens; ++token) {
    const auto* x = reinterpret_cast<const float4*>(p.x + (token0 + token) * p.x_row);
    float sum = 0.0F;
    for (int i = threadIdx.x; i < p.w.row / 4; i += static_cast<int>(blockDim.x)) {
      const float4 v = x[i];
      sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[warp * stride + token] = sum;
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < n_tokens) {
    float sum = 0.0F;
    for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) sum += sums[w * stride + threadIdx.x];
    inverse[threadIdx.x] = 1.0F / sqrtf(sum / static_cast<float>(p.w.n_in) + p.norm_eps);
  }
  __syncthreads();
}

// The normalised rows: each block writes a part of them.
__device__ inline void store_normed(const MatvecParams& p, int64_t token0, int n_tokens, const float* inverse) {
  const int64_t total = n_tokens * p.w.n_in;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < total; i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t token = i / p.w.n_in;
    const int64_t k = i % p.w.n_in;
    p.normed[(token0 + token) * p.normed_row + k] =
        p.x[(token0 + token) * p.x_row + k] * inverse[token] * p.norm_weight[k];
  }
}

}  // namespace moe::cuda
