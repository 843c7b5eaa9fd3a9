// The experts of one token (single.hpp): hidden = act(gate x, up x), then out = sum of weight * (down hidden).
#include <algorithm>

#include "kernels/gemv_launch.hpp"
#include "kernels/single.hpp"
#include "kernels/single_pairs.cuh"
#include "kernels/single_rows.cuh"

namespace moe::cuda {
namespace single {
namespace {

constexpr int64_t kMostStageBytes = 96 * 1024;

// A block takes rows of gate and of up of one expert (so that few pages of memory are asked for by a multiprocessor), a
// warp every so-many-th row. Shared memory: rings, the token's activations.
template <Format F, Mode M>
__global__ void __launch_bounds__(kWarps * 32) up_kernel(const __grid_constant__ FfnParams p, const Hidden hidden) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Pair pairs_of[kWarps][kMostPairs];
  const int warp = threadIdx.x / 32;
  Pair* pairs = pairs_of[warp];
  pdl_wait();
  pdl_launch();  // only now: the next kernel takes it that the ids are there
  Filling<F, M> filling(p.gate, {nullptr, 0}, warp, kWarps);
  filling.ask(p.x);
  const int n = find_pairs(p, pairs, nullptr);
  if (n == 0) return;
  const bool both = p.up.data != nullptr;
  const auto width = static_cast<int>(p.gate.n_out);
  const auto block = static_cast<int>(blockIdx.x);
  const ByPairs by_pairs(n);
  const int begin = by_pairs.divide(block);
  const Pair pair = pairs[block - begin * n];
  const int sharing = by_pairs.divide(static_cast<int>(gridDim.x) - 1 - (block - begin * n)) + 1;  // of this expert
  const int first = warp * sharing + begin;
  const int step = sharing * kWarps;
  auto next = [&p, both, width, step, e = pair.expert, o = first, of_up = false](const uint4*& row) mutable {
    if (o >= width) return false;
    row = row_of<F>(of_up ? p.up : p.gate, e, o);
    of_up = both && !of_up;
    if (!of_up) o += step;
    return true;
  };
  RowStream<F, M, decltype(next)> stream(memory + warp * kRingBytes, p.gate, next);
  char* staged = memory + kWarps * kRingBytes;
  const float factor = p.weight_on == MOE_WEIGHT_ON_INPUT ? weight_of(p, 0, pair.slot) : 1.0F;
  filling.finish(staged, factor, p.activation);
  __syncthreads();
  const Activations x = activations_at<F, M>(staged, static_cast<int>(p.gate.row));
  float* out = hidden.data + pair.slot * hidden.row;
#pragma unroll 1
  for (int o = first; o < width; o += step) {
    float g = 0.0F;
    float u = 0.0F;
#pragma unroll 1
    for (int of_up = 0; of_up <= (both ? 1 : 0); ++of_up) {
      const float sum = stream.multiply(x);
      (of_up != 0 ? u : g) = sum;
    }
    g = warp_sum(g);
    u = warp_sum(u);
    if (threadIdx.x % 32 != 0) continue;
    if (p.gate_bias != nullptr) g += p.gate_bias[pair.expert * p.gate_bias_row + o];
    if (p.up_bias != nullptr) u += p.up_bias[pair.expert * p.up_bias_row + o];
    out[o] = gated(p.gating, g, u);
  }
  // What is beyond the width, up to a whole row of the next weight.
#pragma unroll 1
  for (int o = width + static_cast<int>(threadIdx.x); begin == 0 && o < hidden.row; o += kWarps * 32) out[o] = 0.0F;
}

// A warp takes row o of every expert, each warp beginning with another one. Shared memory: rings, the activations of
// each.
template <Format F, Mode M>
__global__ void __launch_bounds__(kWarps * 32)
    down_kernel(const __grid_constant__ FfnParams p, const Hidden hidden, int expert_warps) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Pair pairs_of[kWarps][kMostPairs];
  __shared__ float weights[kMostPairs];
  const int warp = threadIdx.x / 32;
  Pair* pairs = pairs_of[warp];
  pdl_launch();
  // They were there before the kernel before this one let this one begin.
  const int n = find_pairs(p, pairs, warp == 0 ? weights : nullptr);
  const auto n_out = static_cast<int>(p.down.n_out);
  const int first = static_cast<int>(blockIdx.x) * kWarps + warp;
  const int step = static_cast<int>(gridDim.x) * kWarps;
  const int first_at = n > 0 ? warp - ByPairs(n).divide(warp) * n : 0;
  const auto turned = [n, first_at](int i) { return first_at + i < n ? first_at + i : first_at + i - n; };
  auto next = [&p, turned, pairs, n, n_out, step, o = first, i = 0](const uint4*& row) mutable {
    if (o >= n_out || n == 0) return false;
    row = row_of<F>(p.down, pairs[turned(i)].expert, o);
    if (++i == n) {
      i = 0;
      o += step;
    }
    return true;
  };
  RowStream<F, M, decltype(next)> stream(memory + warp * kRingBytes, p.down, next);
  pdl_wait();
  char* staged = memory + kWarps * kRingBytes;
  const auto n_row = static_cast<int>(p.down.row);
  const auto per_stage = static_cast<int>(activation_bytes<F, M>(n_row));
  Filling<F, M> filling(p.down, {nullptr, 0}, warp % expert_warps, expert_warps);
  int at = warp / expert_warps;
  if (at < n) filling.ask(hidden.data + pairs[at].slot * hidden.row);
#pragma unroll 1
  while (at < n) {
    filling.finish(staged + at * per_stage, 1.0F, p.activation);
    at += kWarps / expert_warps;
    if (at < n) filling.ask(hidden.data + pairs[at].slot * hidden.row);
  }
  __syncthreads();
  const float scale = scale_of(p, 0);
#pragma unroll 1
  for (int o = first; o < n_out; o += step) {
    const float before = p.accumulate && threadIdx.x % 32 == 0 ? p.out[o] : 0.0F;
    float y = 0.0F;
#pragma unroll 1
    for (int i = 0; i < n; ++i) {
      const int which = turned(i);
      float sum = stream.multiply(activations_at<F, M>(staged + which * per_stage, n_row));
      if (p.down_bias != nullptr && threadIdx.x % 32 == 0)
        sum += p.down_bias[pairs[which].expert * p.down_bias_row + o];
      y = fmaf(weights[which], sum, y);
    }
    y = warp_sum(y);
    if (threadIdx.x % 32 == 0) p.out[o] = p.accumulate ? fmaf(scale, y, before) : scale * y;
  }
}

template <typename... Params, typename... More>
cudaError_t launch(void (*kernel)(Params...), const FfnParams& p, const Hidden& hidden, int64_t warps,
                   int64_t ring_bytes, int64_t stage, cudaStream_t stream, More... more) {
  int multiprocessors = 0;
  if (const cudaError_t error = count_multiprocessors(&multiprocessors); error != cudaSuccess) return error;
  const int64_t blocks = std::max(p.k, std::min<int64_t>((warps + kWarps - 1) / kWarps, multiprocessors));
  const LaunchShape shape{dim3(static_cast<unsigned>(blocks)), kWarps * 32,
                          static_cast<size_t>(kWarps * ring_bytes + stage), p.pdl};
  return launch_kernel(kernel, shape, stream, p, hidden, more...);
}

template <Format F, Mode M>
int64_t up_stage(const FfnParams& p) {
  return activation_bytes<F, M>(p.gate.row);
}
template <Format F, Mode M>
int64_t down_stage(const FfnParams& p) {
  return activation_bytes<F, M>(p.down.row) * p.k;
}

}  // namespace
}  // namespace single

bool single_fits(const FfnParams& p) {
  using namespace single;
  if (!p.single || p.n != 1 || p.k < 1 || p.k > kMostPairs || p.gate.format != p.down.format) return false;
  if (p.gate.n_in == 0 || p.down.n_in == 0 || p.k * p.down.row > int64_t{1} << 30) return false;
  if (p.gate.n_groups * std::max(p.gate.n_out, p.down.n_out) > INT32_MAX) return false;
  if (come_in_slices(p.gate.format)) return slices_fit(p);
  bool fits = false;
  with_product(p.gate.format, p.activation, [&]<Format F, Mode M>() {
    fits = kFits<F, M> && up_stage<F, M>(p) <= kMostStageBytes && down_stage<F, M>(p) <= kMostStageBytes;
    return cudaSuccess;
  });
  return fits;
}

cudaError_t launch_single_up(const FfnParams& p, const Hidden& hidden, cudaStream_t stream) {
  if (single::come_in_slices(p.gate.format)) return single::launch_slices_up(p, hidden, stream);
  return with_product(p.gate.format, p.activation, [&]<Format F, Mode M>() -> cudaError_t {
    if constexpr (single::kFits<F, M>) {
      return single::launch(single::up_kernel<F, M>, p, hidden, p.k * p.gate.n_out, single::kRingBytes,
                            single::up_stage<F, M>(p), stream);
    }
    return cudaErrorNotSupported;
  });
}

cudaError_t launch_single_down(const FfnParams& p, const Hidden& hidden, cudaStream_t stream) {
  if (single::come_in_slices(p.gate.format)) return single::launch_slices_down(p, hidden, stream);
  return with_product(p.down.format, p.activation, [&]<Format F, Mode M>() -> cudaError_t {
    if constexpr (single::kFits<F, M>) {
      return single::launch(single::down_kernel<F, M>, p, hidden, p.down.n_out, single::kRingBytes,
                            single::down_stage<F, M>(p), stream, single::warps_of_expert(p.k, single::kWarps));
    }
    return cudaErrorNotSupported;
  });
}

}  // namespace moe::cuda
