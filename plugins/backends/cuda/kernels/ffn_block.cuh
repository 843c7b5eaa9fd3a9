// Experts for few tokens: what both kernels (ffn_up.cu, ffn_down.cu) know of the tokens that a block treats together.
#pragma once

#include <algorithm>

#include "kernels/ffn_pairs.cuh"
#include "kernels/ffn_stage.hpp"
#include "kernels/gemv_direct.cuh"
#include "kernels/gemv_launch.hpp"
#include "kernels/gemv_product.cuh"

namespace moe::cuda {

// The tokens of a block.
struct Block {
  int64_t token0;
  int n_tokens;
  int n_pairs;
};
__device__ __forceinline__ Block block_of(const FfnParams& p, int64_t block_tokens, int64_t index) {
  const int64_t token0 = index * block_tokens;
  const int n_tokens = static_cast<int>(min(p.n - token0, block_tokens));
  return {token0, n_tokens, n_tokens * static_cast<int>(p.k)};
}

// Of a pair, numbered in the block.
__device__ __forceinline__ int expert_of(const FfnParams& p, const Block& b, int pair) {
  const int k = static_cast<int>(p.k);
  return expert_of(p, b.token0 + pair / k, pair % k);
}
__device__ __forceinline__ float weight_of(const FfnParams& p, const Block& b, int pair) {
  const int k = static_cast<int>(p.k);
  return weight_of(p, b.token0 + pair / k, pair % k);
}

// Shared memory for the converted activations of a warp that takes `share` chunks for n_tokens at a time: all of them,
// if that is not more than `most`; one chunk at least.
template <Format F, Mode M>
int64_t stage_of(int64_t share, int64_t n_tokens, int64_t most) {
  return std::max(stage_bytes<F, M>(1, n_tokens), std::min(stage_bytes<F, M>(share, n_tokens), most / 16 * 16));
}

// Tokens that a block treats together at most.
inline constexpr int64_t kMostBlockTokens = 64;
// Up to so many, an expert of many has hardly more than eight.
inline constexpr int64_t kFewBlockTokens = 32;

inline unsigned dim(int64_t n) { return static_cast<unsigned>(n); }

}  // namespace moe::cuda
