#include "kernels/chain.hpp"
#include "kernels/device.cuh"
#include "kernels/launch.hpp"

namespace moe::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

// One row by `threads` threads of which this is number `t`; `sum` adds up over them.
template <typename Sum>
__device__ void norm_row(const NormParams& p, int64_t i, int64_t h, int t, int threads, Sum&& sum) {
  float* x = p.x.data + i * p.x.stride + h * p.x.head_stride;
  float* out = p.out.data + i * p.out.stride + h * p.out.head_stride;
  float mean = 0.0F;
  if (p.layer) {
    float part = 0.0F;
    for (int64_t c = t; c < p.dim; c += threads) part += x[c];
    mean = sum(part) / static_cast<float>(p.dim);
  }
  float squares = 0.0F;
  for (int64_t c = t; c < p.dim; c += threads) squares += (x[c] - mean) * (x[c] - mean);
  const float inverse = 1.0F / sqrtf(sum(squares) / static_cast<float>(p.dim) + p.eps);
  for (int64_t c = t; c < p.dim; c += threads) {
    float y = (x[c] - mean) * inverse;
    if (p.weight != nullptr) y *= p.weight[c];
    if (p.bias != nullptr) y += p.bias[c];
    out[c] = y;
  }
}

// Short rows by a warp each, long ones by the block: both for any number of heads.
__device__ void norm(const NormParams& p, int64_t i, float* shared) {
  if (p.dim <= 256) {
    for (int64_t h = threadIdx.x / 32; h < p.heads; h += kWarps) {
      norm_row(p, i, h, threadIdx.x % 32, 32, [](float v) { return warp_sum(v); });
    }
    return;
  }
  for (int64_t h = 0; h < p.heads; ++h) {
    norm_row(p, i, h, threadIdx.x, kThreads, [&](float v) { return block_sum(v, shared); });
  }
}

__device__ void rope(const RopeParams& p, int64_t i, const float2* turns) {
  for (int64_t at = threadIdx.x; at < p.half * p.heads; at += kThreads) {
    const int64_t pair = at % p.half;
    const int64_t h = at / p.half;
    const int64_t first = p.offset + (p.interleaved ? 2 * pair : pair);
    const int64_t second = p.interleaved ? first + 1 : first + p.half;
    const float* x = p.x.data + i * p.x.stride + h * p.x.head_stride;
    float* out = p.out.data + i * p.out.stride + h * p.out.head_stride;
    const float a = x[first];
    const float b = x[second];
    out[first] = a * turns[pair].x - b * turns[pair].y;
    out[second] = a * turns[pair].y + b * turns[pair].x;
  }
}

__device__ void store(const CacheStoreParams& p, int64_t i) {
  const int64_t to = p.rows[i * p.rows_stride];
  if (to < 0) return;
  for (int64_t c = threadIdx.x; c < p.dim; c += kThreads) {
    const float v = p.x.data[i * p.x.stride + c];
    if (p.dtype == MOE_F32) {
      static_cast<float*>(p.cache)[to * p.cache_stride + c] = v;
    } else {
      static_cast<uint16_t*>(p.cache)[to * p.cache_stride + c] = p.dtype == MOE_BF16 ? to_bf16_bits(v) : to_f16_bits(v);
    }
  }
}

__global__ void __launch_bounds__(kThreads) chain_kernel(const __grid_constant__ ChainParams p) {
  __shared__ float2 turns[kChainPairs];
  __shared__ float shared[32];
  const int64_t i = blockIdx.x;
  int64_t pairs = 0;
  for (int s = 0; s < p.n_steps; ++s) {
    if (p.steps[s].kind != ChainStep::kRope) continue;
    const RopeParams& r = p.steps[s].rope;
    const double position = r.positions[i * r.positions_stride];
    for (int64_t pair = threadIdx.x; pair < r.half; pair += kThreads) {
      double sine;
      double cosine;
      sincos(position * r.inv_freq[pair], &sine, &cosine);
      turns[pairs + pair] = {static_cast<float>(r.scale * cosine), static_cast<float>(r.scale * sine)};
    }
    pairs += r.half;
  }
#if __CUDA_ARCH__ >= 900
  if (p.pdl) asm volatile("griddepcontrol.launch_dependents;\n griddepcontrol.wait;" ::: "memory");
#endif
  pairs = 0;
  for (int s = 0; s < p.n_steps; ++s) {
    __syncthreads();  // what the step before wrote
    const ChainStep& step = p.steps[s];
    if (step.kind == ChainStep::kNorm) {
      norm(step.norm, i, shared);
    } else if (step.kind == ChainStep::kRope) {
      rope(step.rope, i, turns + pairs);
      pairs += step.rope.half;
    } else {
      store(step.store, i);
    }
  }
}

}  // namespace

cudaError_t launch_chain(const ChainParams& p, cudaStream_t stream) {
  if (p.n == 0 || p.n_steps == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(p.n));
  return launch_kernel(chain_kernel, {grid, kThreads, 0, p.pdl}, stream, p);
}

}  // namespace moe::cuda
