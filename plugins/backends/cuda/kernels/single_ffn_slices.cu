// The experts of one token (single.hpp) with weights of integers or kF8.
#include <algorithm>

#include "kernels/gemv_launch.hpp"
#include "kernels/single.hpp"
#include "kernels/single_pairs.cuh"
#include "kernels/single_slices.cuh"

namespace moe::cuda {
namespace single {
namespace {

// Rows that a warp takes together, fewer where they are so long that these do not fit, and how many times as many are
// on their way to it. (With more on their way the first ones come later: 110 KB a multiprocessor instead of 74 took
// int4's first product from 6.8 to 7.1 us.)
constexpr int kMostUpRows = 2;
constexpr int kMostDownRows = 4;
constexpr int kPlaces = 2;

// A block takes neighbouring rows of gate and of up over all experts. Shared memory: rings, the token's activations.
template <Format F, int R>
__global__ void __launch_bounds__(kWarps * 32)
    up_kernel(const __grid_constant__ FfnParams p, const Hidden hidden, const Parts parts, const Divider per_expert) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Pair pairs_of[kWarps][kMostPairs];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto row = static_cast<int>(p.gate.row);
  const auto width = static_cast<int>(p.gate.n_out);
  const bool both = p.up.data != nullptr;
  Pair* pairs = pairs_of[warp];
  pdl_wait();
  pdl_launch();  // only now: the next kernel takes it that the ids are there
  SliceFilling<F, 4, 1> filling(p.gate, {nullptr, 0}, warp, kWarps);
  filling.ask(p.x);
  const int n = find_pairs(p, pairs, nullptr);
  if (n == 0) return;
  const int first = part_begin(parts, static_cast<int>(blockIdx.x)) + warp;
  const int end = min(part_begin(parts, static_cast<int>(blockIdx.x) + 1), n * static_cast<int>(per_expert.by));
  const auto row_of = [per_expert](int t, int at) { return (t - at * static_cast<int>(per_expert.by)) * R; };
  const auto find = [&](int i, Slice& slice) {
    const int t = first + (both ? i / 2 : i) * kWarps;
    if (t >= end) return false;
    const int at = divided(t, per_expert);
    slice = slice_of<F>(both && i % 2 != 0 ? p.up : p.gate, pairs[at].expert, row_of(t, at));
    return true;
  };
  const int ring_bytes = kPlaces * slice_bytes_of(F, row, R);
  SliceStream<F, R, kPlaces, decltype(find)> stream(memory + warp * ring_bytes, row, find);
  stream.ask(0, 1);
  char* stage = memory + kWarps * ring_bytes;
  filling.finish(stage, 1.0F, p.activation);
  stream.ask(1, kPlaces);
  __syncthreads();
  const int n_segments = segments_of<F>(row);
  Part<F> part;
  if (n_segments == 1) part.load(stage, row, 0);
#pragma unroll 1
  for (int t = first; t < end; t += kWarps) {
    float sums[2 * R] = {};  // of gate, of up
#pragma unroll 1
    for (int of_up = 0; of_up <= (both ? 1 : 0); ++of_up) {
      const char* rows = stream.take();
      float one[R] = {};
      multiply_rows<F, R>(rows, stage, row, n_segments, true, part, one);
      stream.give_back();
#pragma unroll
      for (int r = 0; r < R; ++r) (of_up != 0 ? sums[R + r] : sums[r]) = one[r];
    }
    float g = warp_sums(sums);
    float u = __shfl_xor_sync(kFullWarp, g, 16);
    const int r = lane / (16 / R);
    if (lane >= 16 || lane % (16 / R) != 0) continue;
    const int at = divided(t, per_expert);
    const int o = row_of(t, at) + r;
    const Pair pair = pairs[at];
    if (p.gate_bias != nullptr) g += p.gate_bias[pair.expert * p.gate_bias_row + o];
    if (p.up_bias != nullptr) u += p.up_bias[pair.expert * p.up_bias_row + o];
    hidden.data[pair.slot * hidden.row + o] = gated(p.gating, g, u);
  }
  // What is beyond the width, up to a whole row of the next weight.
  if (static_cast<int>(blockIdx.x) >= n) return;
#pragma unroll 1
  for (int k = width + static_cast<int>(threadIdx.x); k < hidden.row; k += kWarps * 32)
    hidden.data[pairs[blockIdx.x].slot * hidden.row + k] = 0.0F;
}

// A block takes neighbouring rows of every expert, a warp some of one. Shared memory: rings, the activations of each
// expert, the sums of each.
template <Format F, int R>
__global__ void __launch_bounds__(kWarps * 32)
    down_kernel(const __grid_constant__ FfnParams p, const Hidden hidden, const Parts parts, int expert_warps) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Pair pairs_of[kWarps][kMostPairs];
  __shared__ float weights[kMostPairs];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto row = static_cast<int>(p.down.row);
  const auto n_out = static_cast<int>(p.down.n_out);
  Pair* pairs = pairs_of[warp];
  pdl_launch();
  // They were there before the kernel before this one let this one begin.
  const int n = find_pairs(p, pairs, warp == 0 ? weights : nullptr);
  const int begin = part_begin(parts, static_cast<int>(blockIdx.x)) * R;
  const int end = part_begin(parts, static_cast<int>(blockIdx.x) + 1) * R;
  const int most_rows = (parts.least + 1) * R;
  const int n_tasks = n * (end - begin) / R;
  const ByPairs by_pairs(n);
  const auto find = [&](int i, Slice& slice) {
    const int t = warp + i * kWarps;
    if (t >= n_tasks) return false;
    const int group = by_pairs.divide(t);
    slice = slice_of<F>(p.down, pairs[t - group * n].expert, begin + group * R);
    return true;
  };
  const int ring_bytes = kPlaces * slice_bytes_of(F, row, R);
  SliceStream<F, R, kPlaces, decltype(find)> stream(memory + warp * ring_bytes, row, find);
  char* stages = memory + kWarps * ring_bytes;
  const int stage_bytes = stage_bytes_of(F, row);
  auto* sums_of = reinterpret_cast<float*>(stages + n * stage_bytes);  // [n][most_rows]
  pdl_wait();
  // Before weights, behind which they would come.
  SliceFilling<F, 8, 2> filling(p.down, {nullptr, 0}, warp % expert_warps, expert_warps);
  const int at_once = kWarps / expert_warps;  // experts
  int filled = warp / expert_warps;
  if (filled < n) filling.ask(hidden.data + pairs[filled].slot * hidden.row);
  const int of_block = begin + static_cast<int>(threadIdx.x);
  const float before = p.accumulate && of_block < end ? p.out[of_block] : 0.0F;
  const float scale = scale_of(p, 0);
  stream.ask(0, kPlaces);
#pragma unroll 1
  for (; filled < n; filled += at_once) {
    filling.finish(stages + filled * stage_bytes, 1.0F, p.activation);
    if (filled + at_once < n) filling.ask(hidden.data + pairs[filled + at_once].slot * hidden.row);
  }
  __syncthreads();
  const int n_segments = segments_of<F>(row);
  Part<F> part;
  int loaded = -1;  // the expert whose activations `part` has
#pragma unroll 1
  for (int t = warp; t < n_tasks; t += kWarps) {
    const int group = by_pairs.divide(t);
    const int at = t - group * n;
    const char* rows = stream.take();
    float sums[R] = {};
    multiply_rows<F, R>(rows, stages + at * stage_bytes, row, n_segments, loaded == at, part, sums);
    loaded = at;
    stream.give_back();
    const float sum = warp_sums(sums);
    if (lane % (32 / R) == 0) sums_of[at * most_rows + group * R + lane / (32 / R)] = sum;
  }
  __syncthreads();
  if (of_block >= end) return;
  float y = 0.0F;
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    float sum = sums_of[i * most_rows + of_block - begin];
    if (p.down_bias != nullptr) sum += p.down_bias[pairs[i].expert * p.down_bias_row + of_block];
    y = fmaf(weights[i], sum, y);
  }
  p.out[of_block] = p.accumulate ? fmaf(scale, y, before) : scale * y;
}

// How a launch is cut.
struct Cut {
  int rows;  // that a warp takes together; 0: it cannot be cut
  int blocks;
  Parts parts;
  int bytes;  // of shared memory
};
// With as many rows as fit, `most` or fewer. cut_of(rows) tries.
template <typename CutOf>
Cut cut_that_fits(const WeightView& w, int most, CutOf&& cut_of) {
  for (int rows = most; rows > 0; rows /= 2) {
    if (!slices_lie_even(w, rows)) continue;
    Cut cut = cut_of(rows);
    cut.bytes = std::max(kLeastBytes, cut.bytes);
    if (cut.bytes <= kMostBytes) return cut;
  }
  return {};
}
Cut cut_up(const FfnParams& p, int blocks) {
  return cut_that_fits(p.gate, kMostUpRows, [&](int rows) {
    const int bytes = kWarps * kPlaces * slice_bytes(p.gate, rows) + stage_bytes_of(p.gate.format, p.gate.row);
    return Cut{rows, blocks, parts_of(p.k * (p.gate.n_out / rows), blocks), bytes};
  });
}
Cut cut_down(const FfnParams& p, int blocks) {
  return cut_that_fits(p.down, kMostDownRows, [&](int rows) {
    const Parts parts = parts_of(p.down.n_out / rows, blocks);
    const int bytes =
        kWarps * kPlaces * slice_bytes(p.down, rows) +
        static_cast<int>(p.k) * (stage_bytes_of(p.down.format, p.down.row) + (parts.least + 1) * rows * 4);
    return Cut{rows, blocks, parts, bytes};
  });
}

// fn.operator()<R>() with R as `rows` says, kMost or fewer.
template <int kMost, typename Fn>
cudaError_t with_rows(int rows, Fn&& fn) {
  if constexpr (kMost > 1) {
    if (rows < kMost) return with_rows<kMost / 2>(rows, fn);
  }
  return fn.template operator()<kMost>();
}

template <typename... Params, typename... More>
cudaError_t launch(void (*kernel)(Params...), const Cut& cut, const FfnParams& p, const Hidden& hidden,
                   cudaStream_t stream, More... more) {
  const LaunchShape shape{dim3(static_cast<unsigned>(cut.blocks)), kWarps * 32, static_cast<size_t>(cut.bytes), p.pdl};
  return launch_kernel(kernel, shape, stream, p, hidden, cut.parts, more...);
}

}  // namespace

bool slices_fit(const FfnParams& p) {
  if (p.weight_on == MOE_WEIGHT_ON_INPUT) return false;
  if (!slices_take(p.gate, p.activation) || !slices_take(p.down, p.activation)) return false;
  int blocks = 0;
  if (count_multiprocessors(&blocks) != cudaSuccess) return false;
  const Cut up = cut_up(p, blocks);
  const Cut down = cut_down(p, blocks);
  if (up.rows == 0 || down.rows == 0 || (down.parts.least + 1) * down.rows > kWarps * 32) return false;
  const int64_t per_expert = p.gate.n_out / up.rows;
  return p.k * per_expert * per_expert <= UINT32_MAX;
}

cudaError_t launch_slices_up(const FfnParams& p, const Hidden& hidden, cudaStream_t stream) {
  int blocks = 0;
  if (const cudaError_t error = count_multiprocessors(&blocks); error != cudaSuccess) return error;
  const Cut cut = cut_up(p, blocks);
  return with_slices(p.gate.format, [&]<Format F>() {
    return with_rows<kMostUpRows>(cut.rows, [&]<int R>() {
      return launch(up_kernel<F, R>, cut, p, hidden, stream, divider_of(p.gate.n_out / R));
    });
  });
}

cudaError_t launch_slices_down(const FfnParams& p, const Hidden& hidden, cudaStream_t stream) {
  int blocks = 0;
  if (const cudaError_t error = count_multiprocessors(&blocks); error != cudaSuccess) return error;
  const Cut cut = cut_down(p, blocks);
  return with_slices(p.down.format, [&]<Format F>() {
    return with_rows<kMostDownRows>(cut.rows, [&]<int R>() {
      return launch(down_kernel<F, R>, cut, p, hidden, stream, warps_of_expert(p.k, kWarps));
    });
  });
}

}  // namespace single
}  // namespace moe::cuda
