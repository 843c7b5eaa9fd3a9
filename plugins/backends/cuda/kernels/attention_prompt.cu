// Attention of prompts on tensor cores: a block takes 128 rows (token, head) that share a kv head, 16 a warp, through
// all positions that they attend to, 64 at a time, and keeps the softmax's running state in registers (Dao et al. 2022,
// arXiv 2205.14135).
#include "kernels/attention_mma.cuh"

namespace moe::cuda::attention {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = 16 * kWarps;
constexpr int kTile = 64;  // positions

template <int kDim>
struct Memory {
  static constexpr int kRow = kDim + kPad;
  uint16_t k[2][kTile * kRow];
  uint16_t v[2][kTile * kRow];
  uint16_t q[kTerms][kRows * kRow];
};

// The two rows of a thread, lane / 4 and lane / 4 + 8 of its warp's sixteen.
struct RowState {
  int64_t i, h;         // token and head; i < 0: none
  int64_t first, last;  // positions
  float largest, sum;
};

template <int kDim>
class Block {
  using Shared = Memory<kDim>;
  static constexpr int kColumns = kDim / 8;

 public:
  __device__ Block(const AttentionParams& p, Shared& m)
      : p_(p), m_(m), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32), group_(p.heads / p.kv_heads), kv_(blockIdx.y) {
    // Later tiles have more to do: they go first.
    first_row_ = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kRows;
    end_row_ = min(p.n * group_, first_row_ + kRows);
    first_token_ = first_of_prompts(p);
    for (int e = 0; e < 2; ++e) {
      const int64_t r = first_row_ + warp_ * 16 + lane_ / 4 + e * 8;
      RowState& s = rows_[e];
      s.i = r < end_row_ && r / group_ >= first_token_ ? r / group_ : -1;
      s.h = kv_ * group_ + r % group_;
      const Span span = s.i < 0 ? Span{} : span_of(p, s.i);
      s.first = span.first;
      s.last = s.i < 0 ? -1 : span.last;
      s.largest = -INFINITY;
      s.sum = 0.0F;
    }
  }

  __device__ void run() {
    load_queries();
    const int64_t end_token = (end_row_ - 1) / group_ + 1;
    // Tokens of one sequence stand together; a tile may hold several sequences.
    for (int64_t i = max(first_token_, first_row_ / group_); i < end_token;) {
      const int32_t sequence = p_.sequences[i * p_.sequences_stride];
      int64_t end = i;
      int64_t first = INT64_MAX;
      int64_t last = -1;
      for (; end < end_token && p_.sequences[end * p_.sequences_stride] == sequence; ++end) {
        const Span span = span_of(p_, end);
        if (span.last < 0) continue;
        first = min(first, span.first);
        last = max(last, span.last);
      }
      if (last >= 0) attend(i, end, first, last);
      i = end;
    }
    store();
  }

 private:
  // Rows of tokens [begin, end) through positions [first, last] of their sequence.
  __device__ void attend(int64_t begin, int64_t end, int64_t first, int64_t last) {
    span_ = span_of(p_, begin);
    int stage = 0;
    const int64_t start = first / kTile * kTile;
    __syncthreads();  // the last sequence's tiles have been read
    load(start, first, last, 0);
    for (int64_t tile = start; tile <= last; tile += kTile, stage ^= 1) {
      load(tile + kTile, first, last, stage ^ 1);
      wait_for_copies();
      __syncthreads();
      step(begin, end, tile, stage);
      __syncthreads();
    }
  }

  __device__ void load(int64_t tile, int64_t first, int64_t last, int stage) {
    constexpr int kUnits = kDim / 8;
    for (int at = threadIdx.x; tile <= last && at < kTile * kUnits; at += kThreads) {
      const int r = at / kUnits;
      const int c = at % kUnits * 8;
      const int64_t position = tile + r;
      const bool valid = position >= first && position <= last;
      const int64_t row = valid ? cache_row(p_, span_, position) : 0;
      copy_async(&m_.k[stage][r * Shared::kRow + c],
                 static_cast<const uint16_t*>(p_.k) + row * p_.k_row + kv_ * p_.k_head + c, valid);
      copy_async(&m_.v[stage][r * Shared::kRow + c],
                 static_cast<const uint16_t*>(p_.v) + row * p_.v_row + kv_ * p_.v_head + c, valid);
    }
    commit_copies();
  }

  __device__ void load_queries() {
    for (int at = threadIdx.x; at < kRows * kDim; at += kThreads) {
      const int64_t r = first_row_ + at / kDim;
      const int c = at % kDim;
      float q = 0.0F;
      if (r < end_row_) {
        const int64_t i = r / group_;
        q = p_.q.data[i * p_.q.stride + (kv_ * group_ + r % group_) * p_.q.head_stride + c] * span_of(p_, i).scale;
      }
      split(q, &m_.q[0][at / kDim * Shared::kRow + c], kRows * Shared::kRow);
    }
  }

  __device__ void step(int64_t begin, int64_t end, int64_t tile, int stage) {
    float s[kTile / 8][4] = {};
    score(s, stage);
    for (int e = 0; e < 2; ++e) mask(s, e, begin, end, tile);
    float correction[2];
    for (int e = 0; e < 2; ++e) correction[e] = exponentiate(s, e);
    for (int n = 0; n < kColumns; ++n) {
      for (int e = 0; e < 4; ++e) acc_[n][e] *= correction[e / 2];
    }
    mix(s, stage);
  }

  __device__ void score(float (&s)[kTile / 8][4], int stage) const {
    const int q_at = (warp_ * 16 + lane_ % 16) * Shared::kRow + lane_ / 16 * 8;
    const uint16_t* k = &m_.k[stage][lane_ % 8 * Shared::kRow + lane_ / 8 * 8];
#pragma unroll
    for (int d = 0; d < kDim; d += 32) {
      // Eight sums are under way at a time: a product waits for the one before it on the same sums.
      Fragment b[kTile / 8];
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) b[n] = load_matrices(k + n * 8 * Shared::kRow + d);
#pragma unroll
      for (int t = kTerms - 1; t >= 0; --t) {
        const Fragment q0 = load_matrices(&m_.q[t][q_at + d]);
        const Fragment q1 = load_matrices(&m_.q[t][q_at + d + 16]);
#pragma unroll
        for (int n = 0; n < kTile / 8; ++n) multiply(s[n], q0, b[n].r[0], b[n].r[1]);
#pragma unroll
        for (int n = 0; n < kTile / 8; ++n) multiply(s[n], q1, b[n].r[2], b[n].r[3]);
      }
    }
  }

  // What row e of this thread does not attend to counts nothing.
  __device__ void mask(float (&s)[kTile / 8][4], int e, int64_t begin, int64_t end, int64_t tile) const {
    const RowState& row = rows_[e];
    const bool here = row.i >= begin && row.i < end;
    // Most tiles lie wholly before the row's own position.
    if (here && row.first <= tile && tile + kTile - 1 <= row.last && !(p_.soft_cap > 0.0F)) return;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
      for (int b = 0; b < 2; ++b) {
        const int64_t position = tile + n * 8 + lane_ % 4 * 2 + b;
        float& score = s[n][e * 2 + b];
        score = here && position >= row.first && position <= row.last ? capped(p_, score) : -INFINITY;
      }
    }
  }

  // Scores of row e become exponentials; returns what the row so far is multiplied by.
  __device__ float exponentiate(float (&s)[kTile / 8][4], int e) {
    RowState& row = rows_[e];
    float most = row.largest;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) most = fmaxf(most, fmaxf(s[n][e * 2], s[n][e * 2 + 1]));
    for (int step = 2; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, step));
    float part = 0.0F;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
      for (int b = 0; b < 2; ++b) part += s[n][e * 2 + b] = below(s[n][e * 2 + b], most);
    }
    for (int step = 2; step > 0; step /= 2) part += __shfl_xor_sync(kFullWarp, part, step);
    const float correction = share(row.largest, most);
    row.sum = fmaf(row.sum, correction, part);
    row.largest = most;
    return correction;
  }

  __device__ void mix(const float (&s)[kTile / 8][4], int stage) {
    const uint16_t* v = &m_.v[stage][lane_ % 16 * Shared::kRow + lane_ / 16 * 8];
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      // Two tiles of scores are, as they lie, the left operand of the next product.
      uint32_t a[4][kTerms];
      split(s[2 * k][0], s[2 * k][1], a[0]);
      split(s[2 * k][2], s[2 * k][3], a[1]);
      split(s[2 * k + 1][0], s[2 * k + 1][1], a[2]);
      split(s[2 * k + 1][2], s[2 * k + 1][3], a[3]);
      constexpr int kAtOnce = 4;  // pairs of sums under way
#pragma unroll
      for (int first = 0; first < kColumns; first += 2 * kAtOnce) {
        Fragment b[kAtOnce];
#pragma unroll
        for (int n = 0; n < kAtOnce; ++n) {
          b[n] = load_matrices_transposed(v + k * 16 * Shared::kRow + (first + 2 * n) * 8);
        }
#pragma unroll
        for (int t = kTerms - 1; t >= 0; --t) {
          const Fragment left{{a[0][t], a[1][t], a[2][t], a[3][t]}};
#pragma unroll
          for (int n = 0; n < kAtOnce; ++n) {
            multiply(acc_[first + 2 * n], left, b[n].r[0], b[n].r[1]);
            multiply(acc_[first + 2 * n + 1], left, b[n].r[2], b[n].r[3]);
          }
        }
      }
    }
  }

  __device__ void store() const {
    for (int e = 0; e < 2; ++e) {
      const RowState& row = rows_[e];
      if (row.i < 0) continue;
      float* out = p_.out.data + row.i * p_.out.stride + row.h * p_.out.head_stride;
      for (int n = 0; n < kColumns; ++n) {
        for (int b = 0; b < 2; ++b) {
          const float y = row.last < 0 ? 0.0F : finished(p_, row.h, row.largest, row.sum, acc_[n][e * 2 + b]);
          out[n * 8 + lane_ % 4 * 2 + b] = y;
        }
      }
    }
  }

  const AttentionParams& p_;
  Shared& m_;
  int lane_, warp_;
  int64_t group_, kv_, first_row_, end_row_, first_token_;
  Span span_{};
  RowState rows_[2];
  float acc_[kColumns][4] = {};
};

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1) prompt_kernel(const __grid_constant__ AttentionParams p) {
  extern __shared__ __align__(16) unsigned char memory[];
  Block<kDim>(p, *reinterpret_cast<Memory<kDim>*>(memory)).run();
}

template <int kDim>
cudaError_t launch(const AttentionParams& p, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(Memory<kDim>);
  const cudaError_t status =
      cudaFuncSetAttribute(prompt_kernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kBytes));
  if (status != cudaSuccess) return status;
  const int64_t rows = p.n * (p.heads / p.kv_heads);
  const dim3 grid(static_cast<unsigned>((rows + kRows - 1) / kRows), static_cast<unsigned>(p.kv_heads));
  prompt_kernel<kDim><<<grid, kThreads, kBytes, stream>>>(p);
  return MOE_CUDA_LAUNCHED();
}

}  // namespace

bool fits_prompt(const AttentionParams& p) { return fits_tensor_cores(p) && p.k_dim == p.v_dim && p.k_dim <= 128; }

cudaError_t launch_prompt(const AttentionParams& p, cudaStream_t stream) {
  return p.k_dim == 64 ? launch<64>(p, stream) : launch<128>(p, stream);
}

}  // namespace moe::cuda::attention
