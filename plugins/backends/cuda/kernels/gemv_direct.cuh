// Products of 16-bit weights with activations rounded to the same type: cheap enough to convert activations as they are
// needed, by every warp that reads them. Weights wait in registers. The sums are the same bits as those of
// gemv_product.cuh.
#pragma once

#include "kernels/gemv_product.cuh"

namespace moe::cuda {

template <Format F, Mode M>
inline constexpr bool kDirect = (F == Format::kBF16 && M == Mode::kBf16) || (F == Format::kF16 && M == Mode::kF16);

// Chunks [begin, end) of MT tiles of rows by NT tiles of tokens, the weights of kAhead chunks on their way at any time,
// in memory of the caller's: what one stream has used up the next one may prime. prime() may be called before the
// activations exist.
template <Format F, Mode M, int MT, int NT, int kAhead>
class DirectStream {
 public:
  __device__ __forceinline__ DirectStream(const RowPair (&rows)[MT], int begin, int end) : begin_(begin), end_(end) {
#pragma unroll
    for (int m = 0; m < MT; ++m) rows_[m] = rows[m];
  }

  template <int kMost>
  __device__ __forceinline__ void prime(uint4 (&ahead)[kMost][MT][2]) const {
    static_assert(kAhead <= kMost);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (begin_ + u < end_) load(begin_ + u, ahead[u]);
    }
  }

  // tokens: the lane's of each tile; x null: none, and it counts as zeros.
  template <int kMost>
  __device__ __forceinline__ void run(const TokenRow (&tokens)[NT], const NormRow& norm, int lane,
                                      uint4 (&ahead)[kMost][MT][2], float (&sums)[MT][NT][4]) const {
    for (int c = begin_; c < end_; c += kAhead) {
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (c + u >= end_) break;
        multiply(ahead[u], tokens, norm, c + u, lane, sums);
        if (c + u + kAhead < end_) load(c + u + kAhead, ahead[u]);
      }
    }
  }

 private:
  __device__ __forceinline__ void load(int chunk, uint4 (&to)[MT][2]) const {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) to[m][i] = load_stream(rows_[m].w + (chunk * 4 + i * rows_[m].w_second), policy_);
    }
  }

  static __device__ __forceinline__ void multiply(const uint4 (&w)[MT][2], const TokenRow (&tokens)[NT],
                                                  const NormRow& norm, int chunk, int lane, float (&sums)[MT][NT][4]) {
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float v[8] = {};
      if (tokens[j].x != nullptr) load_block<F>(tokens[j], norm, chunk, lane % 4, v);
      uint32_t x[1][4];
      token_pairs<M>(v, 0, x);
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        const uint32_t lo[1][4] = {{w[m][0].x, w[m][0].y, w[m][0].z, w[m][0].w}};
        const uint32_t hi[1][4] = {{w[m][1].x, w[m][1].y, w[m][1].z, w[m][1].w}};
        block_product<M, 1>(lo, hi, x, sums[m][j]);
      }
    }
  }

  RowPair rows_[MT];
  int begin_;
  int end_;
  uint64_t policy_ = evict_first();
};

}  // namespace moe::cuda
