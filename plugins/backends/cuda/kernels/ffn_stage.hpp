// The kernels that launch_ffn is made of (ffn.hpp). Not for others.
#pragma once

#include "kernels/ffn.hpp"

namespace moe::cuda {

// --- few tokens

// A pair is one (token, j): number token * k + j. Its activations between the products: hidden[pair, :], f32, with
// zeros from `width` on.
struct Hidden {
  float* data;
  int64_t row;  // that of the weight down
};

// Two launches, each reads the weights of the chosen experts once for every block of up to 64 tokens. Any number of
// tokens is right. x must be as the products read it (reads_in_place, rounds_before), and so must hidden be for the
// second.
cudaError_t launch_ffn_up(const FfnParams& p, const Hidden& hidden, cudaStream_t stream);
cudaError_t launch_ffn_down(const FfnParams& p, const Hidden& hidden, cudaStream_t stream);

// --- many tokens: sort, gather, product, product, combine

// Rows by expert: each pair that has an expert gets a slot, and those of one expert lie together, in ascending order of
// pairs. All device.
struct Sorted {
  int32_t* offsets;  // [n_experts + 1]: slots of each expert
  int32_t* slots;    // [n_pairs]: the slot of a pair; -1: it has none
  int32_t* order;    // [n_experts]: experts, those with the most slots first
  int32_t* tiles;    // [n_experts + 1]: tiles of kTileSlots slots that come before the i-th of `order`
  int32_t* counts;   // [sort_blocks(n_pairs), n_experts]: for the sort itself
};
inline constexpr int64_t kTileSlots = 256;
inline constexpr int64_t kSortPairs = 2048;  // that a block sorts
inline int64_t sort_blocks(int64_t n_pairs) { return (n_pairs + kSortPairs - 1) / kSortPairs; }
// Tokens [token0, token0 + n) of the call; pairs are numbered from the first of them.
cudaError_t launch_ffn_sort(const FfnParams& p, int64_t token0, int64_t n, const Sorted& sorted, cudaStream_t stream);

// rows[slot, plane, :] = plane of x[token, :] (times the pair's weight where it is on the input) as bf16 or f16, with
// zeros from n_in on. One plane is x rounded, three add up to all of it.
struct FfnGatherParams {
  uint16_t* rows;
  int64_t row;
  int32_t planes;
  bool bf16;
};
cudaError_t launch_ffn_gather(const FfnParams& p, int64_t token0, int64_t n, const Sorted& sorted,
                              const FfnGatherParams& g, cudaStream_t stream);

// A product of the rows of each expert with its weight: either hidden = act(gate x, up x) or y = down x.
struct GroupedParams {
  WeightView weight;
  WeightView up;  // hidden only; data null: ungated
  Sorted sorted;
  const uint16_t* x;  // [n_slots, planes, weight.row]
  int64_t n_slots;    // at most
  int32_t planes;
  const float* bias;  // hidden only: gate's, [n_experts, n_out], or null
  int64_t bias_row;
  const float* up_bias;
  int64_t up_bias_row;
  moe_gating gating;
  uint16_t* hidden;  // [n_slots, planes, out_row], or null
  float* y;          // [n_slots, out_row], or null
  int64_t out_row;   // a multiple of 32
  // With n_ranks > 0 only for the experts sorted.order[first_rank .. first_rank + n_ranks), whose matrices stand in
  // that order in the weights.
  int32_t first_rank;
  int32_t n_ranks;
  bool pdl;
};
// Whether the weight, the activation type and the device are for launch_grouped_wgmma: bf16 and f16 on compute
// capability 9.
bool grouped_wgmma_fits(const WeightView& w, int32_t activation);
cudaError_t launch_grouped_wgmma(const GroupedParams& g, cudaStream_t stream);

// out (+)= scale * sum of weight * (y[slot] + bias), in ascending j.
cudaError_t launch_ffn_combine(const FfnParams& p, int64_t token0, int64_t n, const Sorted& sorted, const float* y,
                               int64_t y_row, cudaStream_t stream);

}  // namespace moe::cuda
