// Attention of few tokens on tensor cores: sixteen heads that share a kv head are the rows of one tile, and a block
// takes them through one chunk of positions, a tile of eight a warp at a time, while the next tile is on its way.
// Memory bounds it, so products may cost: queries and exponentials, which are f32, are multiplied as a sum of two bf16.
#include <algorithm>
#include <cstddef>
#include <limits>

#include "kernels/attention_mma.cuh"
#include "kernels/launch.hpp"

namespace moe::cuda::attention {
namespace {

constexpr int kRows = 16;
// What launch_heads combines: so many chunks of all rows of a block, and floats of them. With 32768 (eight heads of
// Qwen3-30B) one block takes longer than a kernel of its own does: 1,062 tokens/s against 1,127.
constexpr int kMostWeights = 256;
constexpr int64_t kMostFloats = 8192;

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
  unsigned ticket;

  __device__ const uint16_t* values(int stage) const { return kShared ? k[stage] : v[stage]; }
};

// At batch 1 two or three blocks of four warps share a multiprocessor and take few tiles, so that instructions cost
// what memory does: addresses are 32 bits where they can be, and what a warp can find once it does not find in every
// thread.
template <int kKDim, int kVDim, bool kShared, int kW>
class Block {
  using Shared = Memory<kKDim, kVDim, kShared, kW>;
  static constexpr int kWarps = Shared::kWarps;
  static constexpr int kThreads = Shared::kThreads;
  static constexpr int kTile = Shared::kTile;
  static constexpr int kVTiles = kVDim / kWarps / 8;  // of a warp: tiles of eight columns
  static constexpr int kRowThreads = kThreads / kRows;
  static constexpr int kUnits = kKDim / 8;  // of 16 bytes in a key, and in a value that lies by itself
  static constexpr int kCopies = kTile * kUnits / kThreads;
  static_assert(kTile * kUnits % kThreads == 0 && (kShared || kKDim == kVDim));

 public:
  __device__ Block(const AttentionParams& p, Shared& m)
      : p_(p), m_(m), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32), i_(static_cast<int>(blockIdx.z)) {
    kv_ = static_cast<int>(p.group_tiles == 1 ? blockIdx.x : blockIdx.x / p.group_tiles);
    const int tile = static_cast<int>(blockIdx.x) - kv_ * static_cast<int>(p.group_tiles);
    const auto group = static_cast<int>(p.group);
    first_head_ = kv_ * group + tile * kRows;
    n_rows_ = min(kRows, group - tile * kRows);
    span_ = span_of(p, i_);
    if (span_.last < 0) return;
    const Cut cut = cut_of(p, span_, kTile);
    first_chunk_ = cut.first;
    n_chunks_ = cut.n;
    const int64_t first = cut.base + blockIdx.y * cut.size;
    begin_ = static_cast<int>(max(span_.first, first) / kTile * kTile);
    end_ = static_cast<int>(min(span_.last + 1, first + cut.size));
  }
  [[nodiscard]] __device__ bool empty() const {
    return max(begin_, static_cast<int>(span_.first)) >= end_ || is_of_prompt(p_, i_);
  }

  // A token that attends to nothing. By one block of its rows.
  __device__ void put_zeros() const {
    if (p_.tickets == nullptr || span_.last >= 0 || blockIdx.y > 0 || is_of_prompt(p_, i_)) return;
    if (p_.pdl) begin_early();
#pragma unroll 1
    for (int at = threadIdx.x; at < n_rows_ * kVDim; at += kThreads) out(at / kVDim)[at % kVDim] = 0.0F;
  }

  __device__ void run() {
    // What earlier steps stored may be asked for before the kernel that stores this step's rows is through.
    const bool early = p_.pdl && is_alone() && begin_ + kTile <= span_.last;
    clear_queries();
    float acc[kVTiles][4] = {};
    float largest = -INFINITY;  // of row threadIdx.x / kRowThreads
    float sum = 0.0F;
    int stage = 1;
    // The first time around only asks: one place that does makes less code.
#pragma unroll 1
    for (int tile = begin_ - kTile; tile < end_; tile += kTile, stage ^= 1) {
      const bool before = tile < begin_;
      if (before && p_.pdl && !early) begin_early();
      load(tile + kTile, stage ^ 1);
      if (before) {
        if (early) begin_early();
        load_queries();
        continue;
      }
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
    finish(acc, largest, sum);
  }

 private:
  // Whether no other token of the call belongs to this sequence.
  [[nodiscard]] __device__ bool is_alone() const {
    if (p_.n > 64) return false;
    bool shared = false;
    const auto n = static_cast<int>(p_.n);
    const int32_t mine = p_.sequences[i_ * p_.sequences_stride];
#pragma unroll 1
    for (int j = lane_; j < n; j += 32) shared = shared || (j != i_ && p_.sequences[j * p_.sequences_stride] == mine);
    return __any_sync(kFullWarp, shared) == 0;
  }

  // Asks for the rows of positions [tile, tile + kTile); those outside of the span become zero. Always commits a group.
  // By whole warps: each finds where a position lies once.
  __device__ void load(int tile, int stage) {
    if (tile < end_) {
      int rows[kTile / 32];
#pragma unroll
      for (int h = 0; h < kTile / 32; ++h) rows[h] = row_of(tile + h * 32 + lane_);
      const auto* k = static_cast<const uint16_t*>(p_.k) + kv_ * p_.k_head;
      const auto* v = static_cast<const uint16_t*>(p_.v) + kv_ * p_.v_head;
#pragma unroll
      for (int e = 0; e < kCopies; ++e) {
        const int at = threadIdx.x + e * kThreads;
        const int r = at / kUnits;
        const int c = at % kUnits * 8;
        int row = __shfl_sync(kFullWarp, rows[0], r % 32);
        if constexpr (kTile > 32) {
          const int upper = __shfl_sync(kFullWarp, rows[1], r % 32);
          row = r < 32 ? row : upper;
        }
        const int64_t from = max(row, 0);
        copy_async(&m_.k[stage][r * Shared::kKRow + c], k + from * static_cast<int32_t>(p_.k_row) + c, row >= 0);
        if constexpr (!kShared) {
          copy_async(&m_.v[stage][r * Shared::kVRow + c], v + from * static_cast<int32_t>(p_.v_row) + c, row >= 0);
        }
      }
    }
    commit_copies();
  }
  [[nodiscard]] __device__ int row_of(int position) const {
    const bool valid = position >= static_cast<int>(span_.first) && position <= static_cast<int>(span_.last);
    return valid ? static_cast<int>(cache_row(p_, span_, position)) : -1;
  }

  // Rows of no head.
  __device__ void clear_queries() {
    const int n = (kRows - n_rows_) * (Shared::kKRow / 8);
    for (int t = 0; t < kTerms; ++t) {
      auto* q = reinterpret_cast<uint4*>(&m_.q[t][n_rows_ * Shared::kKRow]);
#pragma unroll 1
      for (int at = threadIdx.x; at < n; at += kThreads) q[at] = uint4{};
    }
  }

  __device__ void load_queries() {
    constexpr int kRowUnits = kKDim / 4;  // of four
    constexpr int kEach = (kRows * kRowUnits + kThreads - 1) / kThreads;
    constexpr int kAtOnce = kEach < 9 ? kEach : 9;  // on their way together
    const float* rows = p_.q.data + i_ * p_.q.stride + first_head_ * p_.q.head_stride;
    const auto stride = static_cast<int>(p_.q.head_stride);
    const bool aligned = reinterpret_cast<uintptr_t>(rows) % 16 == 0 && stride % 4 == 0;
    const int end = n_rows_ * kRowUnits;
#pragma unroll 1
    for (int first = threadIdx.x; first < end; first += kAtOnce * kThreads) {
      float4 q[kAtOnce];
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        const int at = first + e * kThreads;
        if (at < end) q[e] = load_four(rows + at / kRowUnits * stride + at % kRowUnits * 4, aligned);
      }
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        const int at = first + e * kThreads;
        if (at >= end) break;
        uint32_t low[kTerms];
        uint32_t high[kTerms];
        split(__fmul_rn(q[e].x, span_.scale), __fmul_rn(q[e].y, span_.scale), low);
        split(__fmul_rn(q[e].z, span_.scale), __fmul_rn(q[e].w, span_.scale), high);
        for (int t = 0; t < kTerms; ++t) {
          *reinterpret_cast<uint2*>(&m_.q[t][at / kRowUnits * Shared::kKRow + at % kRowUnits * 4]) =
              make_uint2(low[t], high[t]);
        }
      }
    }
  }
  static __device__ float4 load_four(const float* x, bool aligned) {
    if (aligned) return *reinterpret_cast<const float4*>(x);
    return make_float4(x[0], x[1], x[2], x[3]);
  }

  // Scores of eight positions a warp, as four sums that do not wait for each other.
  __device__ void score(int tile, int stage) {
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
      const int position = tile + column + e % 2;
      const bool valid = position >= static_cast<int>(span_.first) && position < end_;
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

  [[nodiscard]] __device__ float* out(int row) const {
    return p_.out.data + i_ * p_.out.stride + (first_head_ + row) * p_.out.head_stride;
  }

 public:
  // What is kept to combine chunks, where the tiles were: of each row the largest score and the sum of exponentials
  // below it; what each chunk of each row counts; mixes of as many rows as there is room for.
  static constexpr int kMixes = (static_cast<int>(sizeof(Shared)) - kRows * 8 - kMostWeights * 4 - 16) / 4 / 4 * 4;

 private:
  struct Combined {
    float2 rows[kRows];
    float weights[kMostWeights];
    float mixes[kMixes];
  };
  static_assert(sizeof(Combined) <= offsetof(Shared, ticket) && kMixes >= kRows * kVDim);

  __device__ void finish(const float (*acc)[4], float largest, float sum) {
    auto& c = *reinterpret_cast<Combined*>(&m_);
    const ChunkResult result = chunk_result(p_, i_ * p_.heads + first_head_, blockIdx.y);
    const auto n_chunks = static_cast<int>(p_.n_chunks);
    const bool only = p_.tickets != nullptr && n_chunks_ == 1;
    store(acc, largest, sum, only ? c.rows : reinterpret_cast<float2*>(result.stats), only ? 1 : n_chunks,
          only ? c.mixes : result.mix, (only ? 1 : n_chunks) * kVDim);
    if (only || (p_.tickets != nullptr && is_last())) combine(c, only);
  }

  // Rows of the chunk's result, `stats_row` and `mix_row` elements from each other.
  __device__ void store(const float (*acc)[4], float largest, float sum, float2* stats, int stats_row, float* mix,
                        int mix_row) const {
    const int mine = threadIdx.x / kRowThreads;
    if (threadIdx.x % kRowThreads == 0 && mine < n_rows_) stats[mine * stats_row] = make_float2(largest, sum);
    for (int e = 0; e < 4; e += 2) {
      const int row = lane_ / 4 + e / 2 * 8;
      if (row >= n_rows_) continue;
      float* to = mix + row * mix_row + warp_ * (kVDim / kWarps) + lane_ % 4 * 2;
      for (int n = 0; n < kVTiles; ++n) *reinterpret_cast<float2*>(to + n * 8) = make_float2(acc[n][e], acc[n][e + 1]);
    }
  }

  // Whether all other chunks of these rows have been stored, for every thread: true for one block of them.
  __device__ bool is_last() {
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned ticket = 0;
      // Publishes this chunk and sees those before; the last leaves 0.
      asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                   : "=r"(ticket)
                   : "l"(p_.tickets + blockIdx.z * gridDim.x + blockIdx.x), "r"(n_chunks_ - 1)
                   : "memory");
      m_.ticket = ticket;
    }
    __syncthreads();
    return m_.ticket == static_cast<unsigned>(n_chunks_ - 1);
  }

  // Combines the chunks of all rows; the sums are those of combine_kernel, bit for bit. `only`: there is one chunk, and
  // it is in `c`.
  __device__ void combine(Combined& c, bool only) {
    const ChunkResult results = chunk_result(p_, i_ * p_.heads + first_head_, first_chunk_);
    const int at_once = kMixes / (n_chunks_ * kVDim);
#pragma unroll 1
    for (int first = 0; first < n_rows_; first += at_once) {
      const int n = min(at_once, n_rows_ - first);
      if (only) {
        __syncthreads();
        weigh_only(c);
      } else {
        fetch(c, results, first, n);
      }
      __syncthreads();
      put_rows(c, first, n);
      __syncthreads();
    }
  }

  __device__ void weigh_only(Combined& c) const {
    if (threadIdx.x >= kRows) return;
    c.weights[threadIdx.x] = share(c.rows[threadIdx.x].x, c.rows[threadIdx.x].x);
    c.rows[threadIdx.x].y *= c.weights[threadIdx.x];
  }

  // The mixes of rows [first, first + n) and, the first time, what each chunk of all rows counts.
  __device__ void fetch(Combined& c, const ChunkResult& results, int first, int n) const {
    const int row_floats = n_chunks_ * kVDim;
#pragma unroll 1
    for (int row = 0; row < n; ++row) {
      const float* from = results.mix + static_cast<int64_t>(first + row) * (static_cast<int>(p_.n_chunks) * kVDim);
#pragma unroll 4
      for (int at = threadIdx.x * 4; at < row_floats; at += kThreads * 4)
        copy_async(&c.mixes[row * row_floats + at], from + at, true);
    }
    if (first == 0) {
      const auto* stats = reinterpret_cast<const float2*>(results.stats);
#pragma unroll 1
      for (int row = warp_; row < n_rows_; row += kWarps) weigh(c, row, stats + row * static_cast<int>(p_.n_chunks));
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
  }

  // What each chunk of a row counts, by a warp. The sum is in the order of warps that have a chunk a thread.
  __device__ void weigh(Combined& c, int row, const float2* stats) const {
    float* weights = c.weights + row * n_chunks_;
    const float2 first_stats = lane_ < n_chunks_ ? __ldcg(stats + lane_) : make_float2(-INFINITY, 0.0F);
    float largest = first_stats.x;
#pragma unroll 1
    for (int chunk = lane_ + 32; chunk < n_chunks_; chunk += 32) largest = fmaxf(largest, __ldcg(stats + chunk).x);
    largest = warp_max(largest);
    float mine = 0.0F;
#pragma unroll 1
    for (int first = 0; first < n_chunks_; first += 32) {
      const int chunk = first + lane_;
      float part = 0.0F;
      if (chunk < n_chunks_) {
        const float2 s = first == 0 ? first_stats : __ldcg(stats + chunk);
        weights[chunk] = share(s.x, largest);
        part = weights[chunk] * s.y;
      }
      part = warp_sum(part);
      if (lane_ == first / 32) mine = part;
    }
    const float sum = n_chunks_ <= 32 ? __shfl_sync(kFullWarp, mine, 0) : warp_sum(mine);
    if (lane_ == 0) c.rows[row] = make_float2(largest, sum);
  }

  // The output of rows [first, first + n), whose mixes are the first in `c`.
  __device__ void put_rows(const Combined& c, int first, int n) const {
#pragma unroll 1
    for (int at = threadIdx.x; at < n * kVDim; at += kThreads) {
      const int row = first + at / kVDim;
      const float* weights = c.weights + row * n_chunks_;
      const float* mixes = c.mixes + at / kVDim * n_chunks_ * kVDim + at % kVDim;
      float acc[kChunkSums] = {};
#pragma unroll 2
      for (int chunk = 0; chunk < n_chunks_; chunk += kChunkSums) {
#pragma unroll
        for (int e = 0; e < kChunkSums; ++e) {
          if (chunk + e < n_chunks_) acc[e] = fmaf(weights[chunk + e], mixes[(chunk + e) * kVDim], acc[e]);
        }
      }
      for (int e = 1; e < kChunkSums; ++e) acc[0] += acc[e];
      out(row)[at % kVDim] = finished(p_, first_head_ + row, c.rows[row].x, c.rows[row].y, acc[0]);
    }
  }

  const AttentionParams& p_;
  Shared& m_;
  int lane_, warp_;
  int i_;
  int kv_ = 0;
  int first_head_ = 0;
  int n_rows_ = 0;
  Span span_;
  int begin_ = 0;
  int end_ = 0;
  int first_chunk_ = 0;
  int n_chunks_ = 0;  // of this token's rows
};

template <int kKDim, int kVDim, bool kShared, int kW>
__global__ void __launch_bounds__(Memory<kKDim, kVDim, kShared, kW>::kThreads)
    heads_kernel(const __grid_constant__ AttentionParams p) {
  extern __shared__ __align__(128) unsigned char memory[];
  Block<kKDim, kVDim, kShared, kW> block(p, *reinterpret_cast<Memory<kKDim, kVDim, kShared, kW>*>(memory));
  if (block.empty()) {
    block.put_zeros();
  } else {
    block.run();
  }
}

template <int kKDim, int kVDim, bool kShared, int kW>
cudaError_t launch(const AttentionParams& p, cudaStream_t stream) {
  using Shared = Memory<kKDim, kVDim, kShared, kW>;
  const dim3 grid(static_cast<unsigned>(p.kv_heads * p.group_tiles), static_cast<unsigned>(p.n_chunks),
                  static_cast<unsigned>(p.n));
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
  constexpr int64_t kMostStride = std::numeric_limits<int32_t>::max() / kRows;
  if (p.q.head_stride > kMostStride) return false;
  const auto aligned = [](const void* base, int64_t row, int64_t head) {
    return reinterpret_cast<uintptr_t>(base) % 16 == 0 && row % 8 == 0 && head % 8 == 0 && row <= kMostStride;
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

bool heads_combine(const AttentionParams& p) {
  if (p.tickets == nullptr || !fits_tensor_cores(p)) return false;
  const int64_t group = p.heads / p.kv_heads;
  const int64_t blocks = p.n * p.kv_heads * ((group + kRows - 1) / kRows);
  const int64_t chunks = std::min<int64_t>(group, kRows) * p.n_chunks;  // of a block
  const int64_t row_floats = p.n_chunks * p.v_dim;
  constexpr int64_t kMostChunks = 256;  // of a row: beyond, the sums would be others than combine_kernel's
  return blocks <= p.n_tickets && p.n_chunks <= kMostChunks && chunks <= kMostWeights &&
         chunks * p.v_dim <= kMostFloats && with_heads(p, [&]<int kKDim, int kVDim, bool kShared, int kW>() {
           return row_floats <= Block<kKDim, kVDim, kShared, kW>::kMixes;
         });
}

cudaError_t launch_heads(const AttentionParams& call, cudaStream_t stream) {
  AttentionParams p = call;
  if (!heads_combine(p)) p.tickets = nullptr;
  p.group = p.heads / p.kv_heads;
  p.group_tiles = (p.group + kRows - 1) / kRows;
  return with_heads(
      p, [&]<int kKDim, int kVDim, bool kShared, int kW>() { return launch<kKDim, kVDim, kShared, kW>(p, stream); });
}

}  // namespace moe::cuda::attention
