#include "kernels/product.hpp"

#include <algorithm>

#include "kernels/device.cuh"

namespace moe::cuda {
namespace {

// 64 rows by 64 outputs by 256 threads, four by four each; k in steps of 32.
__global__ void __launch_bounds__(256) product_kernel(GroupedProductParams p) {
  constexpr int kStep = 32;
  constexpr int kOutputs = 64;
  __shared__ float xs[kStep][kTileRows + 1];
  __shared__ float ws[kStep][kOutputs + 1];
  if (blockIdx.y >= static_cast<unsigned>(p.tiles[0])) return;
  const int32_t* tile = p.tiles + 1 + 3 * blockIdx.y;
  const int64_t group = tile[0];
  const int64_t begin = tile[1];
  const int64_t end = tile[2];
  const int64_t first_out = static_cast<int64_t>(blockIdx.x) * kOutputs;
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  // Thread t loads eight elements of row t / 4, from t % 4 * 8.
  const int load_row = threadIdx.x / 4;
  const int load_k = threadIdx.x % 4 * 8;
  const int64_t r = begin + load_row;
  const int64_t o = first_out + load_row;
  float acc[4][4] = {};
  for (int64_t base = 0; base < p.w.n_in; base += kStep) {
    for (int i = load_k; i < load_k + 8; ++i) {
      const int64_t k = base + i;
      ws[i][load_row] = o < p.w.n_out && k < p.w.n_in ? weight_element(p.w, group * p.w.n_out + o, k) : 0.0F;
      xs[i][load_row] = r < end && k < p.w.n_in ? p.x[r * p.x_row + k] : 0.0F;
    }
    __syncthreads();
#pragma unroll 8
    for (int i = 0; i < kStep; ++i) {
      for (int a = 0; a < 4; ++a) {
        for (int b = 0; b < 4; ++b) acc[a][b] = fmaf(xs[i][ty * 4 + a], ws[i][tx * 4 + b], acc[a][b]);
      }
    }
    __syncthreads();
  }
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) {
      const int64_t row = begin + ty * 4 + a;
      const int64_t out = first_out + tx * 4 + b;
      if (row >= end || out >= p.w.n_out) continue;
      const float bias = p.bias == nullptr ? 0.0F : p.bias[group * p.bias_row + out];
      p.out[row * p.out_row + out] = acc[a][b] + bias;
    }
  }
}

// One warp: the tiles of all groups in order.
__global__ void tiles_kernel(const int32_t* offsets, int64_t n_groups, int32_t* tiles) {
  constexpr auto kRows = static_cast<int32_t>(kTileRows);
  const int lane = threadIdx.x;
  int32_t before = 0;
  for (int64_t base = 0; base < n_groups; base += 32) {
    const int64_t g = base + lane;
    const int32_t begin = g < n_groups ? offsets[g] : 0;
    const int32_t end = g < n_groups ? offsets[g + 1] : 0;
    const int32_t mine = (end - begin + kRows - 1) / kRows;
    int32_t upto = mine;
    for (int step = 1; step < 32; step *= 2) {
      const int32_t other = __shfl_up_sync(kFullWarp, upto, step);
      if (lane >= step) upto += other;
    }
    for (int32_t t = 0; t < mine; ++t) {
      int32_t* out = tiles + 1 + 3 * (before + upto - mine + t);
      out[0] = static_cast<int32_t>(g);
      out[1] = begin + t * kRows;
      out[2] = min(end, out[1] + kRows);
    }
    before += __shfl_sync(kFullWarp, upto, 31);
  }
  if (lane == 0) tiles[0] = before;
}

__global__ void finish_kernel(FinishParams p) {
  const int64_t all = p.n * p.n_groups * p.n_out;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < all;
       at += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t o = at % p.n_out;
    const int64_t g = at / p.n_out % p.n_groups;
    float* out = p.out + at / (p.n_out * p.n_groups) * p.out_row + g * p.out_group + o;
    float y = *out;
    if (p.bias != nullptr) y = fmaf(p.scale, p.bias[g * p.n_out + o], y);
    if (p.soft_cap > 0.0F) y = p.soft_cap * tanhf(y / p.soft_cap);
    *out = y;
  }
}

}  // namespace

cudaError_t launch_tiles(const int32_t* offsets, int64_t n_groups, int32_t* tiles, cudaStream_t stream) {
  tiles_kernel<<<1, 32, 0, stream>>>(offsets, n_groups, tiles);
  return MOE_CUDA_LAUNCHED();
}

cudaError_t launch_grouped_product(const GroupedProductParams& p, cudaStream_t stream) {
  if (p.n == 0 || p.w.n_out == 0 || p.w.n_groups == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((p.w.n_out + 63) / 64), static_cast<unsigned>(p.n / kTileRows + p.w.n_groups));
  product_kernel<<<grid, 256, 0, stream>>>(p);
  return MOE_CUDA_LAUNCHED();
}

cudaError_t launch_finish(const FinishParams& p, cudaStream_t stream) {
  const int64_t all = p.n * p.n_groups * p.n_out;
  if (all == 0 || (p.bias == nullptr && !(p.soft_cap > 0.0F))) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((all + 255) / 256, 8192));
  finish_kernel<<<blocks, 256, 0, stream>>>(p);
  return MOE_CUDA_LAUNCHED();
}

}  // namespace moe::cuda
