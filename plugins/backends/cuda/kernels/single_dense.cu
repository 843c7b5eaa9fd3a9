// A product with one row (single.hpp).
#include <algorithm>

#include "kernels/gemv_launch.hpp"
#include "kernels/gemv_norm.cuh"
#include "kernels/single.hpp"
#include "kernels/single_slices.cuh"

namespace moe::cuda {
namespace single {
namespace {

// What a row's sum is finished with, asked for before the product.
struct Finish {
  float bias;
  float before;
};
__device__ __forceinline__ float* out_of(const MatvecParams& p, int group, int o) {
  return p.out + group * p.out_group + o;
}
__device__ __forceinline__ Finish ask_finish(const MatvecParams& p, int group, int o) {
  return {p.bias != nullptr ? p.bias[group * p.w.n_out + o] : 0.0F, p.accumulate ? *out_of(p, group, o) : 0.0F};
}
__device__ __forceinline__ void store(const MatvecParams& p, int group, int o, const Finish& finish, float y) {
  if (p.bias != nullptr) y += finish.bias;
  y *= p.scale;
  if (p.accumulate) y += finish.before;
  if (p.soft_cap > 0.0F) y = p.soft_cap * tanhf(y / p.soft_cap);
  *out_of(p, group, o) = y;
}

// What x is multiplied by, 1 / sqrt(mean(x^2) + eps): the same bits as those of find_norms, for one token with
// a barrier less and in less code. sums [kWarps].
template <int kWarps>
__device__ __forceinline__ float find_norm(const MatvecParams& p, float* sums) {
  float sum = 0.0F;
#pragma unroll 1
  for (int i = threadIdx.x; i < p.w.row / 4; i += kWarps * 32) {
    const float4 v = reinterpret_cast<const float4*>(p.x)[i];
    sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0.0F;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += sums[w];
  return 1.0F / sqrtf(total / static_cast<float>(p.w.n_in) + p.norm_eps);
}

// The normalised row: each block writes a part of it.
template <int kWarps>
__device__ __forceinline__ void store_normed(const MatvecParams& p, float factor) {
  const int step = static_cast<int>(gridDim.x) * kWarps * 32;
#pragma unroll 1
  for (auto k = static_cast<int>(blockIdx.x * kWarps * 32 + threadIdx.x); k < p.w.n_in; k += step)
    p.normed[k] = p.x[k] * factor * p.norm_weight[k];
}

// What x is multiplied by, where there is a norm in front; the normalised row is stored if others want it.
template <int kWarps>
__device__ __forceinline__ float normalise(const MatvecParams& p, float* sums) {
  if (p.norm_weight == nullptr) return 1.0F;
  const float factor = find_norm<kWarps>(p, sums);
  if (p.normed != nullptr) store_normed<kWarps>(p, factor);
  return factor;
}

// Blocks: (any number, groups). Shared memory: rings, the stage.
template <Format F, Mode M>
__global__ void __launch_bounds__(kWarps * 32) dense_kernel(const __grid_constant__ MatvecParams p) {
  extern __shared__ __align__(128) char memory[];
  __shared__ float sums[kWarps];
  const int warp = threadIdx.x / 32;
  const auto group = static_cast<int>(blockIdx.y);
  const auto n_out = static_cast<int>(p.w.n_out);
  // Few rows: a block each. Many: neighbours to a warp, so that all pages of the weight are asked for at once.
  const int warps = static_cast<int>(gridDim.x) * kWarps;
  const int share = (n_out + warps - 1) / warps;
  const int first = min(n_out, (warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x)) * share);
  const int end = min(n_out, first + share);
  auto next = [&p, end, group, asked = first](const uint4*& row) mutable {
    if (asked >= end) return false;
    row = row_of<F>(p.w, group, asked++);
    return true;
  };
  Filling<F, M> filling(p.w, {p.norm_weight, static_cast<int>(p.w.n_in)}, warp, kWarps);
  RowStream<F, M, decltype(next)> stream(memory + warp * kRingBytes, p.w, next);
  pdl_launch();
  pdl_wait();
  filling.ask(p.x + group * p.x_group);
  const float factor = normalise<kWarps>(p, sums);
  char* staged = memory + kWarps * kRingBytes;
  filling.finish(staged, factor, p.activation);
  __syncthreads();
  const Activations x = activations_at<F, M>(staged, static_cast<int>(p.w.row));
#pragma unroll 1
  for (int o = first; o < end; ++o) {
    const Finish finish = ask_finish(p, group, o);
    const float y = warp_sum(stream.multiply(x));
    if (threadIdx.x % 32 == 0) store(p, group, o, finish, y);
  }
}

// The same for weights of integers and kF8. A block takes neighbouring rows, a warp R at a time, with a ring of P
// places.
template <Format F, int R, int P>
__global__ void __launch_bounds__(kWarps * 32)
    slice_dense_kernel(const __grid_constant__ MatvecParams p, const Parts parts) {
  extern __shared__ __align__(128) char memory[];
  __shared__ float sums[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto group = static_cast<int>(blockIdx.y);
  const auto row = static_cast<int>(p.w.row);
  const int first = part_begin(parts, static_cast<int>(blockIdx.x)) + warp;
  const int end = part_begin(parts, static_cast<int>(blockIdx.x) + 1);
  const auto find = [&](int i, Slice& slice) {
    const int t = first + i * kWarps;
    if (t >= end) return false;
    slice = slice_of<F>(p.w, group, t * R);
    return true;
  };
  const int ring_bytes = P * slice_bytes_of(F, row, R);
  SliceFilling<F, 4, 1> filling(p.w, {p.norm_weight, static_cast<int>(p.w.n_in)}, warp, kWarps);
  SliceStream<F, R, P, decltype(find)> stream(memory + warp * ring_bytes, row, find);
  stream.ask(0, P);
  pdl_launch();
  pdl_wait();
  filling.ask(p.x + group * p.x_group);
  const float factor = normalise<kWarps>(p, sums);
  char* stage = memory + kWarps * ring_bytes;
  filling.finish(stage, factor, p.activation);
  __syncthreads();
  const int n_segments = segments_of<F>(row);
  Part<F> part;
  if (n_segments == 1) part.load(stage, row, 0);
#pragma unroll 1
  for (int t = first; t < end; t += kWarps) {
    const int o = t * R + lane / (32 / R);
    const Finish finish = ask_finish(p, group, o);
    const char* rows = stream.take();
    float products[R] = {};
    multiply_rows<F, R>(rows, stage, row, n_segments, true, part, products);
    stream.give_back();
    const float y = warp_sums(products);
    if (lane % (32 / R) == 0) store(p, group, o, finish, y);
  }
}

// Of converted activations.
constexpr int64_t kMostStageBytes = 48 * 1024;

// Rows in a warp's ring: fewer where they are so long that these do not fit.
constexpr int kSliceRows = 4;
// Of shared memory, for rings of slices of so many rows.
int slice_memory(const MatvecParams& p, int rows, int places) {
  return std::max(kLeastBytes, kWarps * places * slice_bytes(p.w, rows) + stage_bytes_of(p.w.format, p.w.row));
}
bool are_long(const MatvecParams& p) { return slice_memory(p, 1, kSliceRows) > kMostBytes; }
bool dense_slices_fit(const MatvecParams& p) {
  if (!slices_take(p.w, p.activation)) return false;
  if (are_long(p)) return slices_lie_even(p.w, 1) && slice_memory(p, 1, kSliceRows / 2) <= kMostBytes;
  return slices_lie_even(p.w, 2);
}
template <Format F, int R, int P>
cudaError_t launch_slices(const MatvecParams& p, int64_t blocks, cudaStream_t stream) {
  const LaunchShape shape{dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(p.w.n_groups)), kWarps * 32,
                          static_cast<size_t>(slice_memory(p, R, P)), p.pdl};
  return launch_kernel(slice_dense_kernel<F, R, P>, shape, stream, p, parts_of(p.w.n_out / R, blocks));
}
cudaError_t launch_slices(const MatvecParams& p, cudaStream_t stream) {
  int multiprocessors = 0;
  if (const cudaError_t error = count_multiprocessors(&multiprocessors); error != cudaSuccess) return error;
  const int64_t blocks = std::clamp<int64_t>(multiprocessors / p.w.n_groups, 1, p.w.n_out / 2);
  constexpr int kManyRows = 8;  // of a warp
  return with_slices(p.w.format, [&]<Format F>() {
    if (are_long(p)) return launch_slices<F, 1, kSliceRows / 2>(p, blocks, stream);
    // Where there are few rows a warp takes one at a time, so that all warps have some.
    const bool two = p.w.n_out >= blocks * kWarps * kManyRows || !slices_lie_even(p.w, 1);
    return two ? launch_slices<F, 2, kSliceRows / 2>(p, blocks, stream)
               : launch_slices<F, 1, kSliceRows>(p, blocks, stream);
  });
}

template <Format F, Mode M>
cudaError_t launch(const MatvecParams& p, cudaStream_t stream) {
  int multiprocessors = 0;
  if (const cudaError_t error = count_multiprocessors(&multiprocessors); error != cudaSuccess) return error;
  const int64_t blocks = std::clamp<int64_t>(multiprocessors / p.w.n_groups, 1, p.w.n_out);
  const LaunchShape shape{dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(p.w.n_groups)), kWarps * 32,
                          static_cast<size_t>(kWarps * kRingBytes + activation_bytes<F, M>(p.w.row)), p.pdl};
  return launch_kernel(dense_kernel<F, M>, shape, stream, p);
}

}  // namespace
}  // namespace single

bool single_fits(const MatvecParams& p) {
  if (!p.single || p.n != 1 || p.w.n_in == 0 || p.w.n_groups * p.w.n_out > INT32_MAX) return false;
  if (single::come_in_slices(p.w.format)) return single::dense_slices_fit(p);
  bool fits = false;
  with_product(p.w.format, p.activation, [&]<Format F, Mode M>() {
    fits = single::kFits<F, M> && single::activation_bytes<F, M>(p.w.row) <= single::kMostStageBytes;
    return cudaSuccess;
  });
  return fits;
}

cudaError_t launch_single(const MatvecParams& p, cudaStream_t stream) {
  if (single::come_in_slices(p.w.format)) return single::launch_slices(p, stream);
  return with_product(p.w.format, p.activation, [&]<Format F, Mode M>() -> cudaError_t {
    if constexpr (single::kFits<F, M>) return single::launch<F, M>(p, stream);
    return cudaErrorNotSupported;
  });
}

}  // namespace moe::cuda
