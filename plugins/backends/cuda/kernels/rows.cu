#include "kernels/device.cuh"
#include "kernels/launch.hpp"
#include "kernels/rows.hpp"

namespace moe::cuda {
namespace {

constexpr int kThreads = 256;

// Blocks of kThreads for n items; a kernel strides over what is beyond them.
unsigned blocks_for(int64_t n) {
  constexpr int64_t kMost = 4096;
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMost ? blocks : kMost);
}

// Calls f(i) for i in [0, n), spread over the grid.
template <typename F>
__global__ void for_each(int64_t n, F f) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    f(i);
  }
}
#define MOE_FOR_EACH(n, ...)                                                        \
  do {                                                                              \
    const int64_t n_items_ = (n);                                                   \
    if (n_items_ == 0) return cudaSuccess;                                          \
    for_each<<<blocks_for(n_items_), kThreads, 0, stream>>>(n_items_, __VA_ARGS__); \
    return MOE_CUDA_LAUNCHED();                                                     \
  } while (false)

// One row by one block: x += residual, then y = (x - mean) / sqrt(var + eps) * weight + bias.
__global__ void norm_kernel(const __grid_constant__ NormParams p) {
  __shared__ float shared[32];
  if (p.pdl) begin_early();
  const int64_t i = blockIdx.x / p.heads;
  const int64_t h = blockIdx.x % p.heads;
  float* x = p.x.data + i * p.x.stride + h * p.x.head_stride;
  const float* residual =
      p.residual.data == nullptr ? nullptr : p.residual.data + i * p.residual.stride + h * p.residual.head_stride;
  float* out = p.out.data + i * p.out.stride + h * p.out.head_stride;
  const int threads = static_cast<int>(blockDim.x);
  float sum = 0.0F;
  float squares = 0.0F;
  for (int64_t c = threadIdx.x; c < p.dim; c += threads) {
    float v = x[c];
    if (residual != nullptr) {
      v += residual[c];
      x[c] = v;
    }
    sum += v;
    squares = fmaf(v, v, squares);
  }
  float mean = 0.0F;
  if (p.layer) {
    mean = block_sum(sum, shared) / static_cast<float>(p.dim);
    squares = 0.0F;
    for (int64_t c = threadIdx.x; c < p.dim; c += threads) squares = fmaf(x[c] - mean, x[c] - mean, squares);
  }
  const float inverse = 1.0F / sqrtf(block_sum(squares, shared) / static_cast<float>(p.dim) + p.eps);
  uint16_t* narrow = p.narrow == nullptr ? nullptr : p.narrow + i * p.narrow_row;
  for (int64_t c = threadIdx.x; c < p.dim; c += threads) {
    float y = (x[c] - mean) * inverse;
    if (p.weight != nullptr) y *= p.weight[c];
    if (p.bias != nullptr) y += p.bias[c];
    if (narrow == nullptr) {
      out[c] = y;
    } else {
      narrow[c] = p.narrow_type == MOE_BF16 ? to_bf16_bits(y) : to_f16_bits(y);
    }
  }
  for (int64_t c = p.dim + threadIdx.x; narrow != nullptr && c < p.narrow_row; c += threads) narrow[c] = 0;
}

// One token by one block.
__global__ void rope_kernel(RopeParams p) {
  extern __shared__ float2 turns[];
  const int64_t t = blockIdx.x;
  const int32_t position = p.positions[t * p.positions_stride];
  for (int64_t i = threadIdx.x; i < p.half; i += blockDim.x) turns[i] = turn_of(position, p.inv_freq[i], p.scale);
  __syncthreads();
  for (int64_t at = threadIdx.x; at < p.half * p.heads; at += blockDim.x) {
    const int64_t i = at % p.half;
    const int64_t h = at / p.half;
    const int64_t first = p.offset + (p.interleaved ? 2 * i : i);
    const int64_t second = p.interleaved ? first + 1 : first + p.half;
    const float* x = p.x.data + t * p.x.stride + h * p.x.head_stride;
    float* out = p.out.data + t * p.out.stride + h * p.out.head_stride;
    const float2 pair = turned(x[first], x[second], turns[i]);
    out[first] = pair.x;
    out[second] = pair.y;
  }
}

// The larger of two candidates, ties to the lower index. kBroken (a row with NaN or +inf) beats everything, kNone
// nothing.
struct Largest {
  static constexpr int32_t kNone = INT32_MAX;
  static constexpr int32_t kBroken = -1;
  float value = -INFINITY;
  int32_t at = kNone;

  __device__ void offer(float v, int32_t index) {
    if (at == kBroken) return;
    if (!(v < INFINITY)) {
      at = kBroken;
    } else if (v > value) {
      value = v;
      at = index;
    }
  }
  __device__ void reduce() {
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(kFullWarp, value, step);
      const int32_t other_at = __shfl_xor_sync(kFullWarp, at, step);
      if (at == kBroken || other_at == kNone) continue;
      if (other_at == kBroken || at == kNone || other > value || (other == value && other_at < at)) {
        value = other;
        at = other_at;
      }
    }
  }
};

// One row by one block.
__global__ void argmax_kernel(ArgmaxParams p) {
  constexpr int kAtOnce = 4;  // loads on their way
  __shared__ float values[32];
  __shared__ int32_t indices[32];
  const float* x = p.x.data + blockIdx.x * p.x.stride;
  const auto threads = static_cast<int>(blockDim.x);
  const auto dim = static_cast<int>(p.dim);
  Largest best;
  int c = static_cast<int>(threadIdx.x);
  for (; c < dim - (kAtOnce - 1) * threads; c += kAtOnce * threads) {
    float v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) v[i] = x[c + i * threads];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) best.offer(v[i], c + i * threads);
  }
  for (; c < dim; c += threads) best.offer(x[c], c);
  best.reduce();
  const int lane = threadIdx.x % 32;
  if (lane == 0) {
    values[threadIdx.x / 32] = best.value;
    indices[threadIdx.x / 32] = best.at;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = Largest{};
  if (lane < threads / 32) best = Largest{values[lane], indices[lane]};
  best.reduce();
  if (lane == 0) p.ids[blockIdx.x * p.ids_stride] = best.at == Largest::kNone ? -1 : best.at;
}

// A warp for 32 elements of a row, one group of MOE_I8.
__global__ void round_kernel(RoundParams p, int64_t n_groups) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (warp >= p.n * n_groups) return;
  const int64_t r = warp / n_groups;
  const int64_t c = warp % n_groups * 32 + lane;
  float v = c < p.dim ? p.x.data[r * p.x.stride + c] : 0.0F;
  if (p.activation == MOE_I8) {
    const float scale = warp_max(fabsf(v)) / 127.0F;
    const bool finite = __all_sync(kFullWarp, isfinite(v)) != 0;
    v = !finite         ? __int_as_float(0x7FC00000)
        : scale == 0.0F ? 0.0F
                        : fminf(fmaxf(rintf(v / scale), -127.0F), 127.0F) * scale;
  }
  if (c >= p.out_dim) return;
  const int64_t to = r * p.out_stride + c;
  if (!p.narrow) {
    static_cast<float*>(p.out)[to] = c < p.dim ? rounded(p.activation, v) : 0.0F;
  } else {
    static_cast<uint16_t*>(p.out)[to] = p.activation == MOE_BF16 ? to_bf16_bits(v) : to_f16_bits(v);
  }
}

}  // namespace

cudaError_t launch_embed(const EmbedParams& p, cudaStream_t stream) {
  MOE_FOR_EACH(p.n * p.table.n_in, [p] __device__(int64_t at) {
    const int64_t i = at / p.table.n_in;
    const int64_t c = at % p.table.n_in;
    const int32_t id = p.ids[i * p.ids_stride];
    const bool known = id >= 0 && id < p.table.n_out;
    p.out.data[i * p.out.stride + c] = known ? p.scale * weight_element(p.table, id, c) : __int_as_float(0x7FC00000);
  });
}

cudaError_t launch_norm(const NormParams& p, cudaStream_t stream) {
  const int64_t rows = p.n * p.heads;
  if (rows == 0 || p.dim == 0) return cudaSuccess;
  const int threads = p.dim <= 256 ? 32 : 512;  // as a chain's: the same sums
  const LaunchShape shape{dim3(static_cast<unsigned>(rows)), static_cast<unsigned>(threads), 0, p.pdl};
  return launch_kernel(norm_kernel, shape, stream, p);
}

cudaError_t launch_rope(const RopeParams& p, cudaStream_t stream) {
  if (p.n == 0 || p.half == 0 || p.heads == 0) return cudaSuccess;
  rope_kernel<<<static_cast<unsigned>(p.n), kThreads, static_cast<size_t>(p.half) * sizeof(float2), stream>>>(p);
  return MOE_CUDA_LAUNCHED();
}

cudaError_t launch_cache_store(const CacheStoreParams& p, cudaStream_t stream) {
  MOE_FOR_EACH(p.n * p.dim, [p] __device__(int64_t at) {
    const int64_t i = at / p.dim;
    const int64_t c = at % p.dim;
    const int64_t to = p.rows[i * p.rows_stride];
    if (to < 0) return;
    const float v = p.x.data[i * p.x.stride + c];
    if (p.dtype == MOE_F32) {
      static_cast<float*>(p.cache)[to * p.cache_stride + c] = v;
    } else {
      static_cast<uint16_t*>(p.cache)[to * p.cache_stride + c] = p.dtype == MOE_BF16 ? to_bf16_bits(v) : to_f16_bits(v);
    }
  });
}

cudaError_t launch_activation(const ActivationParams& p, cudaStream_t stream) {
  MOE_FOR_EACH(p.n * p.width, [p] __device__(int64_t at) {
    const int64_t i = at / p.width;
    const int64_t c = at % p.width;
    const float u = p.up.data == nullptr ? 0.0F : p.up.data[i * p.up.stride + c];
    p.out.data[i * p.out.stride + c] = gated(p.gating, p.gate.data[i * p.gate.stride + c], u);
  });
}

cudaError_t launch_gather(const GatherParams& p, cudaStream_t stream) {
  MOE_FOR_EACH(p.n * p.dim, [p] __device__(int64_t at) {
    const int64_t r = at / p.dim;
    const int64_t c = at % p.dim;
    const int64_t from = p.rows == nullptr ? r : p.rows[r * p.rows_stride];
    p.out.data[r * p.out.stride + c] = p.x.data[from * p.x.stride + c];
  });
}

cudaError_t launch_combine(const CombineParams& p, cudaStream_t stream) {
  MOE_FOR_EACH(p.n * p.dim, [p] __device__(int64_t at) {
    const int64_t i = at / p.dim;
    const int64_t c = at % p.dim;
    const int32_t* slots = p.slots.data + i * p.slots.stride;
    const float* weights = p.weights.data + i * p.weights.stride;
    float sum = 0.0F;
    for (int64_t j = 0; j < p.k; ++j) {
      if (slots[j] >= 0) sum = fmaf(weights[j], p.x.data[slots[j] * p.x.stride + c], sum);
    }
    float* out = p.out.data + i * p.out.stride + c;
    *out = p.accumulate ? *out + sum : sum;
  });
}

cudaError_t launch_identity(const IdentityParams& p, cudaStream_t stream) {
  MOE_FOR_EACH(p.n * p.dim, [p] __device__(int64_t at) {
    const int64_t i = at / p.dim;
    const int64_t c = at % p.dim;
    const int64_t k = p.count == nullptr ? p.k : p.count[i * p.count_stride];
    float sum = 0.0F;
    for (int64_t j = 0; j < k; ++j) {
      if (p.ids.data[i * p.ids.stride + j] >= p.first) sum += p.weights.data[i * p.weights.stride + j];
    }
    float* out = p.out.data + i * p.out.stride + c;
    if (sum != 0.0F) *out = fmaf(p.scale * sum, p.x.data[i * p.x.stride + c], *out);
  });
}

cudaError_t launch_add(const AddParams& p, cudaStream_t stream) {
  MOE_FOR_EACH(p.n * p.dim, [p] __device__(int64_t at) {
    const int64_t i = at / p.dim;
    const int64_t c = at % p.dim;
    const float x = p.alpha * p.x.data[i * p.x.stride + c];
    p.out.data[i * p.out.stride + c] = p.y.data == nullptr ? x : fmaf(p.beta, p.y.data[i * p.y.stride + c], x);
  });
}

cudaError_t launch_clamp(const ClampParams& p, cudaStream_t stream) {
  MOE_FOR_EACH(p.n * p.dim, [p] __device__(int64_t at) {
    const int64_t i = at / p.dim;
    const int64_t c = at % p.dim;
    const float x = p.x.data[i * p.x.stride + c];
    p.out.data[i * p.out.stride + c] = x > p.limit ? p.limit : (x < -p.limit ? -p.limit : x);
  });
}

cudaError_t launch_argmax(const ArgmaxParams& p, cudaStream_t stream) {
  if (p.n == 0) return cudaSuccess;
  const int threads = p.dim > 4096 ? 1024 : 256;
  argmax_kernel<<<static_cast<unsigned>(p.n), threads, 0, stream>>>(p);
  return MOE_CUDA_LAUNCHED();
}

cudaError_t launch_round(const RoundParams& p, cudaStream_t stream) {
  const int64_t n_groups = (p.out_dim + 31) / 32;
  const int64_t warps = p.n * n_groups;
  if (warps == 0) return cudaSuccess;
  round_kernel<<<static_cast<unsigned>((warps * 32 + kThreads - 1) / kThreads), kThreads, 0, stream>>>(p, n_groups);
  return MOE_CUDA_LAUNCHED();
}

}  // namespace moe::cuda
