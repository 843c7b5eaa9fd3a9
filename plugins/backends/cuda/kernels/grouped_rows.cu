// Sorting pairs by expert, gathering their rows, and the weighted sum at the end (ffn_stage.hpp).
#include <algorithm>

#include "kernels/ffn_pairs.cuh"
#include "kernels/ffn_stage.hpp"
#include "kernels/gemv_launch.hpp"
#include "kernels/gemv_product.cuh"

namespace moe::cuda {
namespace {

constexpr int kSortThreads = 256;
constexpr int kPairsPerThread = static_cast<int>(kSortPairs) / kSortThreads;

struct SortParams {
  FfnParams ffn;
  int64_t token0;
  int32_t n_pairs;
  Sorted sorted;
};

__device__ int pair_expert(const SortParams& p, int pair) {
  const int k = static_cast<int>(p.ffn.k);
  return expert_of(p.ffn, p.token0 + pair / k, pair % k);
}

// counts[block, :]: how many pairs of the block each expert has.
__global__ void __launch_bounds__(kSortThreads) count_kernel(const __grid_constant__ SortParams p) {
  extern __shared__ int32_t counts[];
  const int n_experts = static_cast<int>(p.ffn.gate.n_groups);
  for (int e = threadIdx.x; e < n_experts; e += kSortThreads) counts[e] = 0;
  pdl_launch();
  pdl_wait();
  __syncthreads();
  const int first = static_cast<int>(blockIdx.x) * static_cast<int>(kSortPairs);
#pragma unroll
  for (int i = 0; i < kPairsPerThread; ++i) {
    const int pair = first + i * kSortThreads + static_cast<int>(threadIdx.x);
    const int e = pair < p.n_pairs ? pair_expert(p, pair) : -1;
    if (e >= 0) atomicAdd(counts + e, 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < n_experts; e += kSortThreads)
    p.sorted.counts[static_cast<int64_t>(blockIdx.x) * n_experts + e] = counts[e];
}

// Sum over the lanes up to and with this one.
__device__ int sum_upto(int v) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kFullWarp, v, step);
    if (lane >= step) v += other;
  }
  return v;
}

// By the first block: experts by falling number of slots (the lower first where they are equal), and their tiles.
__device__ void order_experts(const SortParams& p, const int32_t* totals, int n_experts, int32_t* ordered) {
  for (int e = threadIdx.x; e < n_experts; e += kSortThreads) {
    int rank = 0;
    for (int other = 0; other < n_experts; ++other) {
      rank += totals[other] > totals[e] || (totals[other] == totals[e] && other < e) ? 1 : 0;
    }
    p.sorted.order[rank] = e;
    ordered[rank] = totals[e];
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  int before = 0;
  for (int base = 0; base < n_experts; base += 32) {
    const int i = base + static_cast<int>(threadIdx.x);
    const int mine = i < n_experts ? (ordered[i] + static_cast<int>(kTileSlots) - 1) / static_cast<int>(kTileSlots) : 0;
    const int upto = before + sum_upto(mine);
    if (i < n_experts) p.sorted.tiles[i] = upto - mine;
    before = __shfl_sync(kFullWarp, upto, 31);
  }
  if (threadIdx.x == 0) p.sorted.tiles[n_experts] = before;
}

// Places the block's pairs. A warp takes 256 pairs in ascending order, 32 at a time, so that the order inside an expert
// is that of pairs.
__global__ void __launch_bounds__(kSortThreads) place_kernel(const __grid_constant__ SortParams p) {
  extern __shared__ int32_t shared[];  // totals, next [8 warps], by expert
  const int n_experts = static_cast<int>(p.ffn.gate.n_groups);
  constexpr int kWarps = kSortThreads / 32;
  int32_t* totals = shared;
  int32_t* next = shared + n_experts;  // [kWarps][n_experts]
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < kWarps * n_experts; i += kSortThreads) next[i] = 0;
  pdl_launch();
  pdl_wait();
  __syncthreads();
  int expert[kPairsPerThread];
  const int first = static_cast<int>(blockIdx.x) * static_cast<int>(kSortPairs) + warp * 32 * kPairsPerThread;
#pragma unroll
  for (int i = 0; i < kPairsPerThread; ++i) {
    const int pair = first + i * 32 + lane;
    expert[i] = pair < p.n_pairs ? pair_expert(p, pair) : -1;
    if (expert[i] >= 0) atomicAdd(next + warp * n_experts + expert[i], 1);
  }
  __syncthreads();
  // Before this block: other experts' pairs, and this expert's in earlier blocks.
  for (int e = threadIdx.x; e < n_experts; e += kSortThreads) {
    int before = 0;
    int total = 0;
    for (int b = 0; b < static_cast<int>(gridDim.x); ++b) {
      const int count = p.sorted.counts[static_cast<int64_t>(b) * n_experts + e];
      total += count;
      before += b < static_cast<int>(blockIdx.x) ? count : 0;
    }
    totals[e] = total;
    for (int w = 0; w < kWarps; ++w) {
      const int mine = next[w * n_experts + e];
      next[w * n_experts + e] = before;
      before += mine;
    }
  }
  __syncthreads();
  if (warp == 0) {
    int base_slot = 0;
    for (int base = 0; base < n_experts; base += 32) {
      const int e = base + lane;
      const int mine = e < n_experts ? totals[e] : 0;
      const int upto = base_slot + sum_upto(mine);
      if (e < n_experts) {
        for (int w = 0; w < kWarps; ++w) next[w * n_experts + e] += upto - mine;
        if (blockIdx.x == 0) p.sorted.offsets[e] = upto - mine;
      }
      base_slot = __shfl_sync(kFullWarp, upto, 31);
    }
    if (blockIdx.x == 0 && lane == 0) p.sorted.offsets[n_experts] = base_slot;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kPairsPerThread; ++i) {
    const int pair = first + i * 32 + lane;
    const unsigned same = __match_any_sync(kFullWarp, expert[i]);
    const int before = __popc(same & ((1U << lane) - 1U));
    int slot = -1;
    if (expert[i] >= 0) slot = next[warp * n_experts + expert[i]] + before;
    __syncwarp();
    if (expert[i] >= 0 && before == 0) next[warp * n_experts + expert[i]] += __popc(same);
    __syncwarp();
    if (pair < p.n_pairs) p.sorted.slots[pair] = slot;
  }
  __syncthreads();
  if (blockIdx.x == 0) order_experts(p, totals, n_experts, next);
}

// A block for each token: eight elements a thread and turn.
constexpr int kRowThreads = 256;

__global__ void __launch_bounds__(kRowThreads)
    gather_kernel(const __grid_constant__ FfnParams p, int64_t token0, const int32_t* slots, const FfnGatherParams g) {
  pdl_launch();
  pdl_wait();
  const int64_t token = token0 + blockIdx.x;
  const int k = static_cast<int>(p.k);
  const float* x = p.x + token * p.x_row;
  const bool aligned = p.x_row % 4 == 0 && reinterpret_cast<uintptr_t>(p.x) % 16 == 0;
  const int n_in = static_cast<int>(p.gate.n_in);
  for (int c = static_cast<int>(threadIdx.x) * 8; c < g.row; c += kRowThreads * 8) {
    float v[8] = {};
    if (aligned && c + 8 <= n_in) {
      const float4 lo = *reinterpret_cast<const float4*>(x + c);
      const float4 hi = *reinterpret_cast<const float4*>(x + c + 4);
      v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w, v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
    } else {
      for (int i = 0; i < 8; ++i) v[i] = c + i < n_in ? x[c + i] : 0.0F;
    }
    for (int j = 0; j < k; ++j) {
      const int slot = slots[static_cast<int64_t>(blockIdx.x) * k + j];
      if (slot < 0) continue;
      const float factor = p.weight_on == MOE_WEIGHT_ON_INPUT ? weight_of(p, token, j) : 1.0F;
      float rest[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) rest[i] = v[i] * factor;
      for (int plane = 0; plane < g.planes; ++plane) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          w[i] = g.bf16 ? pack_bf16(rest[2 * i], rest[2 * i + 1]) : pack_f16(rest[2 * i], rest[2 * i + 1]);
          rest[2 * i] -= low_bf16(w[i]);
          rest[2 * i + 1] -= high_bf16(w[i]);
        }
        *reinterpret_cast<uint4*>(g.rows + (static_cast<int64_t>(slot) * g.planes + plane) * g.row + c) =
            make_uint4(w[0], w[1], w[2], w[3]);
      }
    }
  }
}

// A block for each token and 1,024 columns: four a thread.
constexpr int kCombineColumns = kRowThreads * 4;

__global__ void __launch_bounds__(kRowThreads) combine_kernel(const __grid_constant__ FfnParams p, int64_t token0,
                                                              const int32_t* slots, const float* y, int64_t y_row) {
  pdl_launch();
  pdl_wait();
  const int64_t token = token0 + blockIdx.x;
  const int k = static_cast<int>(p.k);
  const int64_t o = static_cast<int64_t>(blockIdx.y) * kCombineColumns + threadIdx.x * 4;
  if (o >= p.down.n_out) return;
  float sum[4] = {};
#pragma unroll 4
  for (int j = 0; j < k; ++j) {
    const int slot = slots[static_cast<int64_t>(blockIdx.x) * k + j];
    if (slot < 0) continue;
    const float w = p.weight_on == MOE_WEIGHT_ON_INPUT ? 1.0F : weight_of(p, token, j);
    const float4 row = *reinterpret_cast<const float4*>(y + slot * y_row + o);  // y_row is a multiple of 32
    float v[4] = {row.x, row.y, row.z, row.w};
    if (p.down_bias != nullptr) {
      const float* bias = p.down_bias + expert_of(p, token, j) * p.down_bias_row + o;
      for (int i = 0; i < 4; ++i) v[i] += o + i < p.down.n_out ? bias[i] : 0.0F;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = fmaf(w, v[i], sum[i]);
  }
  const float scale = scale_of(p, token);
  float* out = p.out + token * p.out_row + o;
  for (int i = 0; i < 4 && o + i < p.down.n_out; ++i)
    out[i] = p.accumulate ? fmaf(scale, sum[i], out[i]) : scale * sum[i];
}

unsigned dim(int64_t n) { return static_cast<unsigned>(n); }

}  // namespace

cudaError_t launch_ffn_sort(const FfnParams& p, int64_t token0, int64_t n, const Sorted& sorted, cudaStream_t stream) {
  const SortParams params{p, token0, static_cast<int32_t>(n * p.k), sorted};
  const dim3 grid(dim(sort_blocks(n * p.k)));
  const auto bytes = static_cast<size_t>(p.gate.n_groups) * 4;
  const cudaError_t error = launch_kernel(count_kernel, {grid, kSortThreads, bytes, p.pdl}, stream, params);
  if (error != cudaSuccess) return error;
  return launch_kernel(place_kernel, {grid, kSortThreads, bytes * (1 + kSortThreads / 32), p.pdl}, stream, params);
}

cudaError_t launch_ffn_gather(const FfnParams& p, int64_t token0, int64_t n, const Sorted& sorted,
                              const FfnGatherParams& g, cudaStream_t stream) {
  return launch_kernel(gather_kernel, {dim3(dim(n)), kRowThreads, 0, p.pdl}, stream, p, token0, sorted.slots, g);
}

cudaError_t launch_ffn_combine(const FfnParams& p, int64_t token0, int64_t n, const Sorted& sorted, const float* y,
                               int64_t y_row, cudaStream_t stream) {
  const dim3 grid(dim(n), dim((p.down.n_out + kCombineColumns - 1) / kCombineColumns));
  return launch_kernel(combine_kernel, {grid, kRowThreads, 0, p.pdl}, stream, p, token0, sorted.slots, y, y_row);
}

}  // namespace moe::cuda
