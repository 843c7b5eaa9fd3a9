#include "kernels/chain.hpp"
#include "kernels/device.cuh"
#include "kernels/launch.hpp"

namespace moe::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

// Loops are not unrolled: of one token they go once or a few times around, and code that a multiprocessor has not seen
// lately takes longer to come than it saves (`route_row.cuh`).

constexpr int kKept = 4;  // elements of a row that a thread has room for

// A row that its threads can hold: read once. The sums are those of norm_row, bit for bit.
template <typename Sum>
__device__ void norm_kept(const NormParams& p, const float* x, float* out, int t, int threads, Sum& sum) {
  const auto dim = static_cast<int>(p.dim);
  float v[kKept];
  float w[kKept];
  float part = 0.0F;
#pragma unroll
  for (int e = 0; e < kKept; ++e) {
    const int c = t + e * threads;
    v[e] = c < dim ? x[c] : 0.0F;
    w[e] = c < dim && p.weight != nullptr ? p.weight[c] : 1.0F;
  }
  float mean = 0.0F;
  if (p.layer) {
#pragma unroll
    for (int e = 0; e < kKept; ++e) part += v[e];
    mean = sum(part) / static_cast<float>(dim);
  }
  float squares = 0.0F;
#pragma unroll
  for (int e = 0; e < kKept; ++e) {
    if (t + e * threads < dim) squares = fmaf(v[e] - mean, v[e] - mean, squares);
  }
  const float inverse = 1.0F / sqrtf(sum(squares) / static_cast<float>(dim) + p.eps);
#pragma unroll
  for (int e = 0; e < kKept; ++e) {
    const int c = t + e * threads;
    if (c >= dim) continue;
    const float y = (v[e] - mean) * inverse * w[e];
    out[c] = p.bias == nullptr ? y : y + p.bias[c];
  }
}

// One row by `threads` threads of which this is number `t`; `sum` adds up over them.
template <typename Sum>
__device__ void norm_row(const NormParams& p, int64_t i, int64_t h, int t, int threads, Sum&& sum) {
  float* x = p.x.data + i * p.x.stride + h * p.x.head_stride;
  float* out = p.out.data + i * p.out.stride + h * p.out.head_stride;
  if (p.dim <= int64_t{kKept} * threads) {
    norm_kept(p, x, out, t, threads, sum);
    return;
  }
  float mean = 0.0F;
  if (p.layer) {
    float part = 0.0F;
#pragma unroll 1
    for (int64_t c = t; c < p.dim; c += threads) part += x[c];
    mean = sum(part) / static_cast<float>(p.dim);
  }
  float squares = 0.0F;
#pragma unroll 1
  for (int64_t c = t; c < p.dim; c += threads) squares = fmaf(x[c] - mean, x[c] - mean, squares);
  const float inverse = 1.0F / sqrtf(sum(squares) / static_cast<float>(p.dim) + p.eps);
#pragma unroll 1
  for (int64_t c = t; c < p.dim; c += threads) {
    float y = (x[c] - mean) * inverse;
    if (p.weight != nullptr) y *= p.weight[c];
    if (p.bias != nullptr) y += p.bias[c];
    out[c] = y;
  }
}

// Short rows by a warp each, long ones by the block: both for any number of heads.
__device__ void norm(const NormParams& p, int64_t i, float* shared) {
  const bool small = p.dim <= 256;
  const int t = small ? static_cast<int>(threadIdx.x) % 32 : static_cast<int>(threadIdx.x);
  const auto sum = [&](float v) { return small ? warp_sum(v) : block_sum(v, shared); };
#pragma unroll 1
  for (int64_t h = small ? threadIdx.x / 32 : 0; h < p.heads; h += small ? kWarps : 1) {
    norm_row(p, i, h, t, small ? 32 : kThreads, sum);
  }
}

__device__ void rope(const RopeParams& p, int64_t i, const float2* turns) {
  const auto half = static_cast<unsigned>(p.half);  // at most kChainPairs
  const unsigned n = half * static_cast<unsigned>(p.heads);
#pragma unroll 1
  for (unsigned at = threadIdx.x; at < n; at += kThreads) {
    const int64_t pair = at % half;
    const int64_t h = at / half;
    const int64_t first = p.offset + (p.interleaved ? 2 * pair : pair);
    const int64_t second = p.interleaved ? first + 1 : first + p.half;
    const float* x = p.x.data + i * p.x.stride + h * p.x.head_stride;
    float* out = p.out.data + i * p.out.stride + h * p.out.head_stride;
    const float2 both = turned(x[first], x[second], turns[pair]);
    out[first] = both.x;
    out[second] = both.y;
  }
}

// Into row `to` of the cache.
__device__ void store(const CacheStoreParams& p, int64_t i, int64_t to) {
  if (to < 0) return;
#pragma unroll 1
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
  __shared__ int64_t rows[kChainSteps];  // of the cache, that stores go to
  const int64_t i = blockIdx.x;
  const auto mine = [&](const ChainStep& step) { return step.part == static_cast<int32_t>(blockIdx.y); };
  int64_t pairs = 0;
#pragma unroll 1
  for (int s = 0; s < p.n_steps; ++s) {
    const ChainStep& step = p.steps[s];
    if (!mine(step)) continue;
    if (step.kind == ChainStep::kStore && threadIdx.x == 0) rows[s] = step.store.rows[i * step.store.rows_stride];
    if (step.kind != ChainStep::kRope) continue;
    const RopeParams& r = step.rope;
    const int32_t position = r.positions[i * r.positions_stride];
#pragma unroll 1
    for (int64_t pair = threadIdx.x; pair < r.half; pair += kThreads)
      turns[pairs + pair] = turn_of(position, r.inv_freq[pair], r.scale);
    pairs += r.half;
  }
  if (p.pdl) begin_early();
  pairs = 0;
#pragma unroll 1
  for (int s = 0; s < p.n_steps; ++s) {
    const ChainStep& step = p.steps[s];
    if (!mine(step)) continue;
    __syncthreads();  // what the step before wrote
    if (step.kind == ChainStep::kNorm) {
      norm(step.norm, i, shared);
    } else if (step.kind == ChainStep::kRope) {
      rope(step.rope, i, turns + pairs);
      pairs += step.rope.half;
    } else {
      store(step.store, i, rows[s]);
    }
  }
}

// Rows of f32 that a step reads or writes: token i's are [first + i * stride, first + i * stride + extent).
struct Extent {
  const float* first;
  int64_t stride, extent;
};

template <typename T>
Extent extent_of(const Rows<T>& rows, int64_t heads, int64_t dim) {
  return {rows.data, rows.stride, heads > 1 ? (heads - 1) * rows.head_stride + dim : dim};
}

// Whether any token's rows of one may overlap any token's of the other.
bool overlap(const Extent& a, const Extent& b, int64_t n) {
  const Extent& low = a.first <= b.first ? a : b;
  const Extent& high = a.first <= b.first ? b : a;
  const int64_t apart = high.first - low.first;
  if (apart >= (n - 1) * low.stride + low.extent) return false;
  // Interleaved, as columns of one matrix are.
  return low.stride != high.stride || low.extent > apart || apart + high.extent > low.stride;
}

// What a step touches beside the cache: at most two.
int extents_of(const ChainStep& step, Extent (&out)[2]) {
  if (step.kind == ChainStep::kNorm) {
    out[0] = extent_of(step.norm.x, step.norm.heads, step.norm.dim);
    out[1] = extent_of(step.norm.out, step.norm.heads, step.norm.dim);
    return 2;
  }
  if (step.kind == ChainStep::kRope) {
    const int64_t dim = step.rope.offset + 2 * step.rope.half;
    out[0] = extent_of(step.rope.x, step.rope.heads, dim);
    out[1] = extent_of(step.rope.out, step.rope.heads, dim);
    return 2;
  }
  out[0] = {step.store.x.data, step.store.x.stride, step.store.dim};
  return 1;
}

bool depend(const ChainStep& a, const ChainStep& b, int64_t n) {
  Extent of_a[2];
  Extent of_b[2];
  const int n_a = extents_of(a, of_a);
  const int n_b = extents_of(b, of_b);
  for (int i = 0; i < n_a; ++i) {
    for (int j = 0; j < n_b; ++j) {
      if (overlap(of_a[i], of_b[j], n)) return true;
    }
  }
  return false;
}

// Numbers the parts from 0; returns how many there are.
int32_t find_parts(ChainParams& p) {
  int32_t n_parts = 0;
  for (int32_t s = 0; s < p.n_steps; ++s) {
    int32_t part = -1;
    for (int32_t before = 0; before < s; ++before) {
      if (!depend(p.steps[before], p.steps[s], p.n)) continue;
      const int32_t other = p.steps[before].part;
      if (part < 0) part = other;
      for (int32_t joined = 0; joined < s; ++joined) {
        if (p.steps[joined].part == other) p.steps[joined].part = part;
      }
    }
    p.steps[s].part = part < 0 ? n_parts++ : part;
  }
  return n_parts;
}

}  // namespace

cudaError_t launch_chain(const ChainParams& params, cudaStream_t stream) {
  if (params.n == 0 || params.n_steps == 0) return cudaSuccess;
  ChainParams p = params;
  const auto n_parts = static_cast<unsigned>(find_parts(p));
  const dim3 grid(static_cast<unsigned>(p.n), n_parts);
  return launch_kernel(chain_kernel, {grid, kThreads, 0, p.pdl}, stream, p);
}

}  // namespace moe::cuda
