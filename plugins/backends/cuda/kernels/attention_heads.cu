// Attention of few tokens on tensor cores: sixteen heads that share a kv head are the rows of one tile, and a block
// takes them through one chunk of positions, a tile of eight a warp at a time, while the next tile is on its way.
// Memory bounds it, so products may cost: queries and exponentials, which are f32, are multiplied as a sum of two bf16.
#include <algorithm>

#include "kernels/attention_mma.cuh"
#include "kernels/launch.hpp"

namespace moe::cuda::attention {
namespace {

constexpr int kRows = 16;

// Where a block's shared memory lies. kShared: values are the front of the keys' rows (latent attention).
template <int kKDim, int kVDim, bool kShared, int kW>
struct Memory {
  static constexpr int kWarps = kW;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTile = kWarps * 8;  // positions
  static constexpr int kKRow = kKDim + kPad;
  static constexpr int kVRow = kShared ? kKRow : kVDim + kPad;
  static constexpr int kPRow = kTile + kPad;
  uint16_t k[2][kTile * kKRow];
  uint16_t v[2][kShared ? 8 : kTile * kVRow];
  uint16_t q[kTerms][kRows * kKRow];
  uint16_t p[kTerms][kRows * kPRow];
  float scores[kRows][kTile + 1];
  float correction[kRows];

  __device__ const uint16_t* values(int stage) const { return kShared ? k[stage] : v[stage]; }
};

template <int kKDim, int kVDim, bool kShared, int kW>
class Block {
  using Shared = Memory<kKDim, kVDim, kShared, kW>;
  static constexpr int kWarps = Shared::kWarps;
  static constexpr int kThreads = Shared::kThreads;
  static constexpr int kTile = Shared::kTile;
  static constexpr int kVTiles = kVDim / kWarps / 8;  // of a warp: tiles of eight columns
  static constexpr int kRowThreads = kThreads / kRows;

 public:
  __device__ Block(const AttentionParams& p, Shared& m)
      : p_(p), m_(m), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32) {
    const int group = static_cast<int>(p.heads / p.kv_heads);
    const int tiles = (group + kRows - 1) / kRows;
    i_ = blockIdx.x / (p.kv_heads * tiles);
    kv_ = blockIdx.x / tiles % p.kv_heads;
    first_head_ = kv_ * group + blockIdx.x % tiles * kRows;
    n_rows_ = min(kRows, group - static_cast<int>(blockIdx.x % tiles) * kRows);
    span_ = span_of(p, i_);
    if (span_.last < 0) return;
    const Cut cut = cut_of(p, span_);
    const int64_t first = cut.base + blockIdx.y * cut.size;
    begin_ = max(span_.first, first) / kTile * kTile;
    end_ = min(span_.last + 1, first + cut.size);
  }
  [[nodiscard]] __device__ bool empty() const { return max(begin_, span_.first) >= end_ || is_of_prompt(p_, i_); }

  __device__ void run() {
    // What earlier steps stored may be asked for before the kernel that stores this step's rows is through.
    const bool early = p_.pdl && is_alone() && begin_ + kTile <= span_.last;
    if (early) load(begin_, 0);
#if __CUDA_ARCH__ >= 900
    if (p_.pdl) asm volatile("griddepcontrol.launch_dependents;\n griddepcontrol.wait;" ::: "memory");
#endif
    if (!early) load(begin_, 0);
    load_queries();
    float acc[kVTiles][4] = {};
    float largest = -INFINITY;  // of row threadIdx.x / kRowThreads
    float sum = 0.0F;
    int stage = 0;
    for (int64_t tile = begin_; tile < end_; tile += kTile, stage ^= 1) {
      load(tile + kTile, stage ^ 1);
      wait_for_copies();
      __syncthreads();
      score(tile, stage);
      __syncthreads();
      exponentiate(largest, sum);
      __syncthreads();
      mix(acc, stage);
      __syncthreads();
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    store(acc, largest, sum);
  }

 private:
  // Whether no other token of the call belongs to this sequence.
  [[nodiscard]] __device__ bool is_alone() const {
    if (p_.n > 64) return false;
    bool shared = false;
    const int32_t mine = p_.sequences[i_ * p_.sequences_stride];
    for (int64_t j = lane_; j < p_.n; j += 32)
      shared = shared || (j != i_ && p_.sequences[j * p_.sequences_stride] == mine);
    return __any_sync(kFullWarp, shared) == 0;
  }

  // Asks for the rows of positions [tile, tile + kTile); those outside of the span become zero. Always commits a group.
  __device__ void load(int64_t tile, int stage) {
    constexpr int kUnits = kKDim / 8;  // of 16 bytes
    constexpr int kVUnits = kVDim / 8;
    if (tile < end_) {
      for (int at = threadIdx.x; at < kTile * kUnits; at += kThreads) {
        const int r = at / kUnits;
        const int64_t row = row_of(tile + r);
        const auto* k = static_cast<const uint16_t*>(p_.k) + max(row, int64_t{0}) * p_.k_row + kv_ * p_.k_head;
        copy_async(&m_.k[stage][r * Shared::kKRow + at % kUnits * 8], k + at % kUnits * 8, row >= 0);
      }
      for (int at = threadIdx.x; !kShared && at < kTile * kVUnits; at += kThreads) {
        const int r = at / kVUnits;
        const int64_t row = row_of(tile + r);
        const auto* v = static_cast<const uint16_t*>(p_.v) + max(row, int64_t{0}) * p_.v_row + kv_ * p_.v_head;
        copy_async(&m_.v[stage][r * Shared::kVRow + at % kVUnits * 8], v + at % kVUnits * 8, row >= 0);
      }
    }
    commit_copies();
  }
  [[nodiscard]] __device__ int64_t row_of(int64_t position) const {
    return position >= span_.first && position <= span_.last ? cache_row(p_, span_, position) : -1;
  }

  __device__ void load_queries() {
    constexpr int kUnits = kRows * kKDim / 4;  // of four
    constexpr int kEach = (kUnits + kThreads - 1) / kThreads;
    constexpr int kAtOnce = kEach < 9 ? kEach : 9;  // on their way together
    const float* rows = p_.q.data + i_ * p_.q.stride + first_head_ * p_.q.head_stride;
    for (int first = threadIdx.x; first < kUnits; first += kAtOnce * kThreads) {
      float4 q[kAtOnce];
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        const int at = first + e * kThreads;
        const int r = at / (kKDim / 4);
        q[e] = float4{};
        if (at < kUnits && r < n_rows_) q[e] = load_four(rows + r * p_.q.head_stride + at % (kKDim / 4) * 4);
      }
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        const int at = first + e * kThreads;
        if (at >= kUnits) break;
        uint32_t low[kTerms];
        uint32_t high[kTerms];
        split(q[e].x * span_.scale, q[e].y * span_.scale, low);
        split(q[e].z * span_.scale, q[e].w * span_.scale, high);
        for (int t = 0; t < kTerms; ++t) {
          *reinterpret_cast<uint2*>(&m_.q[t][at / (kKDim / 4) * Shared::kKRow + at % (kKDim / 4) * 4]) =
              make_uint2(low[t], high[t]);
        }
      }
    }
  }
  static __device__ float4 load_four(const float* x) {
    if (reinterpret_cast<uintptr_t>(x) % 16 == 0) return *reinterpret_cast<const float4*>(x);
    return make_float4(x[0], x[1], x[2], x[3]);
  }

  // Scores of eight positions a warp, as four sums that do not wait for each other.
  __device__ void score(int64_t tile, int stage) {
    float sums[2 * kTerms][4] = {};
    const uint16_t* k = &m_.k[stage][(warp_ * 8 + lane_ % 8) * Shared::kKRow + lane_ / 8 * 8];
    const int q_at = lane_ % 16 * Shared::kKRow + lane_ / 16 * 8;
#pragma unroll 4
    for (int d = 0; d < kKDim; d += 32) {
      const Fragment b = load_matrices(k + d);
#pragma unroll
      for (int t = 0; t < kTerms; ++t) {
        multiply(sums[2 * t], load_matrices(&m_.q[t][q_at + d]), b.r[0], b.r[1]);
        multiply(sums[2 * t + 1], load_matrices(&m_.q[t][q_at + d + 16]), b.r[2], b.r[3]);
      }
    }
    float c[4];
    for (int e = 0; e < 4; ++e) {
      c[e] = sums[2 * kTerms - 1][e];
      for (int t = 2 * kTerms - 2; t >= 0; --t) c[e] += sums[t][e];
    }
    const int column = warp_ * 8 + lane_ % 4 * 2;
    for (int e = 0; e < 4; ++e) {
      const int64_t position = tile + column + e % 2;
      const bool valid = position >= span_.first && position < end_;
      m_.scores[lane_ / 4 + e / 2 * 8][column + e % 2] = valid ? capped(p_, c[e]) : -INFINITY;
    }
  }

  // kRowThreads a row: exponentials as sums of bf16, and what the rows so far are multiplied by.
  __device__ void exponentiate(float& largest, float& sum) {
    const int row = threadIdx.x / kRowThreads;
    const int first = threadIdx.x % kRowThreads * 4;
    float s[4];
    float most = largest;
    for (int e = 0; e < 4; ++e) {
      s[e] = m_.scores[row][first + e];
      most = fmaxf(most, s[e]);
    }
    for (int step = kRowThreads / 2; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, step));
    float part = 0.0F;
    for (int e = 0; e < 4; ++e) {
      s[e] = below(s[e], most);
      part += s[e];
      split(s[e], &m_.p[0][row * Shared::kPRow + first + e], kRows * Shared::kPRow);
    }
    for (int step = kRowThreads / 2; step > 0; step /= 2) part += __shfl_xor_sync(kFullWarp, part, step);
    const float correction = share(largest, most);
    sum = fmaf(sum, correction, part);
    largest = most;
    if (threadIdx.x % kRowThreads == 0) m_.correction[row] = correction;
  }

  // Its share of the columns a warp.
  __device__ void mix(float (*acc)[4], int stage) {
    const float upper = m_.correction[lane_ / 4];
    const float lower = m_.correction[lane_ / 4 + 8];
    for (int n = 0; n < kVTiles; ++n) {
      acc[n][0] *= upper;
      acc[n][1] *= upper;
      acc[n][2] *= lower;
      acc[n][3] *= lower;
    }
    const uint16_t* v = m_.values(stage) + warp_ * (kVDim / kWarps) + lane_ / 16 * 8;
#pragma unroll
    for (int k = 0; k < kTile; k += 16) {
      Fragment a[kTerms];
      for (int t = 0; t < kTerms; ++t) a[t] = load_matrices(&m_.p[t][lane_ % 16 * Shared::kPRow + lane_ / 16 * 8 + k]);
#pragma unroll
      for (int n = 0; n < kVTiles; n += 2) {
        const Fragment b = load_matrices_transposed(v + (k + lane_ % 16) * Shared::kVRow + n * 8);
        for (int t = kTerms - 1; t >= 0; --t) {
          multiply(acc[n], a[t], b.r[0], b.r[1]);
          multiply(acc[n + 1], a[t], b.r[2], b.r[3]);
        }
      }
    }
  }

  __device__ void store(const float (*acc)[4], float largest, float sum) const {
    const auto result = [&](int row) { return chunk_result(p_, i_ * p_.heads + first_head_ + row, blockIdx.y); };
    const int mine = threadIdx.x / kRowThreads;
    if (threadIdx.x % kRowThreads == 0 && mine < n_rows_)
      *reinterpret_cast<float2*>(result(mine).stats) = make_float2(largest, sum);
    for (int e = 0; e < 4; e += 2) {
      const int row = lane_ / 4 + e / 2 * 8;
      if (row >= n_rows_) continue;
      float* mix = result(row).mix + warp_ * (kVDim / kWarps) + lane_ % 4 * 2;
      for (int n = 0; n < kVTiles; ++n) *reinterpret_cast<float2*>(mix + n * 8) = make_float2(acc[n][e], acc[n][e + 1]);
    }
  }

  const AttentionParams& p_;
  Shared& m_;
  int lane_, warp_;
  int64_t i_, kv_, first_head_;
  int n_rows_;
  Span span_;
  int64_t begin_ = 0;
  int64_t end_ = 0;
};

template <int kKDim, int kVDim, bool kShared, int kW>
__global__ void __launch_bounds__(Memory<kKDim, kVDim, kShared, kW>::kThreads)
    heads_kernel(const __grid_constant__ AttentionParams p) {
  extern __shared__ __align__(128) unsigned char memory[];
  Block<kKDim, kVDim, kShared, kW> block(p, *reinterpret_cast<Memory<kKDim, kVDim, kShared, kW>*>(memory));
  if (!block.empty()) block.run();
}

template <int kKDim, int kVDim, bool kShared, int kW>
cudaError_t launch(const AttentionParams& p, cudaStream_t stream) {
  using Shared = Memory<kKDim, kVDim, kShared, kW>;
  const int64_t group = p.heads / p.kv_heads;
  const dim3 grid(static_cast<unsigned>(p.n * p.kv_heads * ((group + kRows - 1) / kRows)),
                  static_cast<unsigned>(p.n_chunks));
  return launch_kernel(heads_kernel<kKDim, kVDim, kShared, kW>, {grid, Shared::kThreads, sizeof(Shared), p.pdl}, stream,
                       p);
}

bool is_latent(const AttentionParams& p) {
  return p.v == p.k && p.v_row == p.k_row && p.kv_heads == 1 && p.v_dim < p.k_dim;
}

// Calls fn.operator()<k_dim, v_dim, latent, warps>() for the heads of p.
template <typename Fn>
auto with_heads(const AttentionParams& p, Fn&& fn) {
  switch (p.k_dim) {
    case 64:
      return fn.template operator()<64, 64, false, 4>();
    case 128:
      return fn.template operator()<128, 128, false, 4>();
    case 256:
      return fn.template operator()<256, 256, false, 4>();
    default:
      // Eight warps where a block may have what they need: compute capability 9.0.
      if (p.shared_bytes >= sizeof(Memory<576, 512, true, 8>)) return fn.template operator()<576, 512, true, 8>();
      return fn.template operator()<576, 512, true, 4>();
  }
}

}  // namespace

bool fits_tensor_cores(const AttentionParams& p) {
  if (p.dtype != MOE_BF16 || p.kv_heads < 1 || p.heads % p.kv_heads != 0) return false;
  const auto aligned = [](const void* base, int64_t row, int64_t head) {
    return reinterpret_cast<uintptr_t>(base) % 16 == 0 && row % 8 == 0 && head % 8 == 0;
  };
  if (!aligned(p.k, p.k_row, p.k_head) || !aligned(p.v, p.v_row, p.v_head)) return false;
  const bool plain = p.k_dim == p.v_dim && (p.k_dim == 64 || p.k_dim == 128 || p.k_dim == 256);
  if (!plain && !(p.k_dim == 576 && p.v_dim == 512 && is_latent(p))) return false;
  return with_heads(p, [&]<int kKDim, int kVDim, bool kShared, int kW>() {
    return sizeof(Memory<kKDim, kVDim, kShared, kW>) <= p.shared_bytes;
  });
}

HeadsShape heads_shape(const AttentionParams& p) {
  return with_heads(p, [&]<int kKDim, int kVDim, bool kShared, int kW>() {
    using Shared = Memory<kKDim, kVDim, kShared, kW>;
    return HeadsShape{Shared::kTile, std::clamp<int64_t>(static_cast<int64_t>(p.shared_bytes / sizeof(Shared)), 1, 4)};
  });
}

cudaError_t launch_heads(const AttentionParams& p, cudaStream_t stream) {
  return with_heads(
      p, [&]<int kKDim, int kVDim, bool kShared, int kW>() { return launch<kKDim, kVDim, kShared, kW>(p, stream); });
}

}  // namespace moe::cuda::attention
