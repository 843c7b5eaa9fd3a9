// Products by mma.sync for few tokens: tiles of 16 rows of a weight by 8 tokens.
//
// The sum of an output runs over its chunks in ascending order in one accumulator, whatever the other tokens are.
#pragma once

#include "kernels/gemv_token.cuh"
#include "kernels/gemv_weight.cuh"

namespace moe::cuda {

__device__ __forceinline__ void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_f16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                        uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_i8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                       uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Sums of a tile. In the end lane (g, t) holds (row, token): (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1). kFma
// keeps its part of (g, all tokens), (g + 8, all tokens) until finish_tile.
template <Mode M>
inline constexpr int kSums = M == Mode::kFma ? 16 : 4;

// One block of a chunk for one tile of floats; the weights of rows g and g + 8 as pairs.
template <Mode M, int kPlanes>
__device__ __forceinline__ void block_product(const uint32_t (&lo)[kPlanes][4], const uint32_t (&hi)[kPlanes][4],
                                              const uint32_t (&x)[kTokenPlanes<M>][4], float (&c)[4]) {
#pragma unroll
  for (int p = kPlanes - 1; p >= 0; --p) {
#pragma unroll
    for (int q = kTokenPlanes<M> - 1; q >= 0; --q) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (M == Mode::kF16 || M == Mode::kLifted) {
          mma_f16(c, lo[p][2 * i], hi[p][2 * i], lo[p][2 * i + 1], hi[p][2 * i + 1], x[q][2 * i], x[q][2 * i + 1]);
        } else {
          mma_bf16(c, lo[p][2 * i], hi[p][2 * i], lo[p][2 * i + 1], hi[p][2 * i + 1], x[q][2 * i], x[q][2 * i + 1]);
        }
      }
    }
  }
}

// A chunk's products in f32: lane (g, t) sums its k of rows g and g + 8 for every token.
template <int MT, int NT>
__device__ __forceinline__ void chunk_product_f32(const Chunk (&w)[MT], const TokenStage& stage, int chunk, int lane,
                                                  float (&sums)[MT][NT][16]) {
#pragma unroll
  for (int j = 0; j < NT; ++j) {
#pragma unroll
    for (int token = 0; token < kTileTokens; ++token) {
      if (j * kTileTokens + token >= stage.n_tokens) break;
      const float4 x =
          reinterpret_cast<const float4*>(stage.data)[(chunk * stage.stride + j * kTileTokens + token) * 4 + lane % 4];
#pragma unroll
      for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float& sum = sums[m][j][r * 8 + token];
          sum = fmaf(__uint_as_float(w[m].w[r].x), x.x, sum);
          sum = fmaf(__uint_as_float(w[m].w[r].y), x.y, sum);
          sum = fmaf(__uint_as_float(w[m].w[r].z), x.z, sum);
          sum = fmaf(__uint_as_float(w[m].w[r].w), x.w, sum);
        }
      }
    }
  }
}

// The scales of a block of the two tokens whose sums a lane has of a tile; 0 where there is none.
__device__ __forceinline__ float2 token_scales(const TokenStage& stage, int block, int tile, int lane) {
  const int first = tile * kTileTokens + 2 * (lane % 4);
  const float* scales = stage.scales + block * stage.stride;
  return {first < stage.n_tokens ? scales[first] : 0.0F, first + 1 < stage.n_tokens ? scales[first + 1] : 0.0F};
}

// Block b of a chunk by integers.
template <Format F, int MT, int NT>
__device__ __forceinline__ void block_product_i8(const Chunk (&w)[MT], int b, const TokenStage& stage, int block,
                                                 int lane, float (&sums)[MT][NT][4]) {
  const int t = lane % 4;
  uint32_t a[MT][2][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
    weight_bytes<F>(w[m].w[0], b, a[m][0]);
    weight_bytes<F>(w[m].w[1], b, a[m][1]);
  }
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int mine = j * kTileTokens + lane / 4;
    const uint2 x = mine < stage.n_tokens
                        ? reinterpret_cast<const uint2*>(stage.data)[(block * stage.stride + mine) * 4 + t]
                        : uint2{};
    const float2 scales = token_scales(stage, block, j, lane);
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      int c[4] = {};
      mma_i8(c, a[m][0][0], a[m][1][0], a[m][0][1], a[m][1][1], x.x, x.y);
      const float lo = chunk_scale<F>(w[m], 0, b);
      const float hi = chunk_scale<F>(w[m], 1, b);
      float(&sum)[4] = sums[m][j];
      sum[0] = fmaf(static_cast<float>(c[0]), lo * scales.x, sum[0]);
      sum[1] = fmaf(static_cast<float>(c[1]), lo * scales.y, sum[1]);
      sum[2] = fmaf(static_cast<float>(c[2]), hi * scales.x, sum[2]);
      sum[3] = fmaf(static_cast<float>(c[3]), hi * scales.y, sum[3]);
    }
  }
}

// Block b of a chunk by floats of 16 bits.
template <Format F, Mode M, int MT, int NT>
__device__ __forceinline__ void block_product_f16(const Chunk (&w)[MT], int b, const TokenStage& stage, int block,
                                                  int lane, float (&sums)[MT][NT][4]) {
  uint32_t lo[MT][kWeightPlanes<F, M>][4];
  uint32_t hi[MT][kWeightPlanes<F, M>][4];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
    weight_pairs<F, M>(w[m].w[0], b, lo[m]);
    weight_pairs<F, M>(w[m].w[1], b, hi[m]);
  }
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    uint32_t x[kTokenPlanes<M>][4];
    read_pairs<M>(stage, block, j * kTileTokens + lane / 4, lane % 4, x);
    float2 scales{1.0F, 1.0F};
    if constexpr (kTokenScales<M>) scales = token_scales(stage, block, j, lane);
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      float(&sum)[4] = sums[m][j];
      if constexpr (kTokenScales<M>) {  // kF8, whose two rows share a scale
        float c[4] = {};
        block_product<M, kWeightPlanes<F, M>>(lo[m], hi[m], x, c);
        const float scale = chunk_scale<F>(w[m], 0, b);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] = fmaf(c[i], scale * (i % 2 == 0 ? scales.x : scales.y), sum[i]);
      } else if constexpr (kScaled<F>) {
        float c[4] = {};
        block_product<M, kWeightPlanes<F, M>>(lo[m], hi[m], x, c);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] = fmaf(c[i], chunk_scale<F>(w[m], i / 2, b), sum[i]);
      } else {
        block_product<M, kWeightPlanes<F, M>>(lo[m], hi[m], x, sum);
      }
    }
  }
}

// One chunk, the `chunk`-th of the stage, of MT tiles of rows by NT tiles of tokens.
template <Format F, Mode M, int MT, int NT>
__device__ __forceinline__ void chunk_product(const Chunk (&w)[MT], const TokenStage& stage, int chunk, int lane,
                                              float (&sums)[MT][NT][kSums<M>]) {
  if constexpr (M == Mode::kFma) {
    chunk_product_f32<MT, NT>(w, stage, chunk, lane, sums);
  } else {
#pragma unroll
    for (int b = 0; b < kBlocks<F>; ++b) {
      const int block = chunk * kBlocks<F> + b;
      if constexpr (M == Mode::kI8) {
        block_product_i8<F, MT, NT>(w, b, stage, block, lane, sums);
      } else {
        block_product_f16<F, M, MT, NT>(w, b, stage, block, lane, sums);
      }
    }
  }
}

// Gives each lane its four sums of a tile (see kSums).
template <Mode M>
__device__ __forceinline__ void finish_tile(const float (&sums)[kSums<M>], int lane, float (&out)[4]) {
  if constexpr (M == Mode::kFma) {
    const int t = lane % 4;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float sum = sums[i];
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      if (i % 8 / 2 == t) out[i / 8 * 2 + i % 2] = sum;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = sums[i];
  }
}

// The weights of a warp's tiles, one tile after the other, kAhead chunks on their way at any time. next(RowPair
// (&rows)[MT], int& begin, int& count) gives the next tile: chunks [begin, begin + count) of its rows, at least one;
// false when there is none. Nothing of it depends on activations, so it may begin before they exist.
template <Format F, int MT, int kAhead>
inline constexpr int kRingBytes = kAhead* MT* kSlotBytes<F>;

template <Format F, int MT, int kAhead, typename Next>
class WeightRing {
 public:
  // `memory`: the warp's own kRingBytes of shared memory, on 16 bytes.
  __device__ __forceinline__ WeightRing(char* memory, Next next)
      : memory_(memory), address_(static_cast<uint32_t>(__cvta_generic_to_shared(memory))), next_(next) {
    more_ = next_(rows_, begin_, left_);
    for (int slot = 0; slot < kAhead; ++slot) ask(slot);
  }

  // Calls use(const Chunk (&)[MT], chunk) for chunks from, ..., to - 1, the next of the current tile.
  template <typename Use>
  __device__ __forceinline__ void run(int from, int to, const Use& use) {
    const int lane = threadIdx.x % 32;
    for (int c = from; c < to; ++c) {
      wait_copies<kAhead - 1>();
      if constexpr (kScaled<F>) __syncwarp();  // scales come from other lanes
      Chunk chunk[MT];
#pragma unroll
      for (int m = 0; m < MT; ++m) read_chunk<F>(memory_ + (slot_ * MT + m) * kSlotBytes<F>, lane, chunk[m]);
      use(chunk, c);
      if constexpr (kScaled<F>) __syncwarp();
      ask(slot_);
      slot_ = slot_ + 1 == kAhead ? 0 : slot_ + 1;
    }
  }

 private:
  __device__ __forceinline__ void ask(int slot) {
    if (more_ && left_ == 0) more_ = next_(rows_, begin_, left_);
    if (more_) {
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        copy_chunk<F>(rows_[m], begin_, address_ + static_cast<uint32_t>((slot * MT + m) * kSlotBytes<F>),
                      static_cast<int>(threadIdx.x) % 32);
      }
      ++begin_;
      --left_;
    }
    commit_copies();  // an empty group counts, too
  }

  char* memory_;
  uint32_t address_;
  RowPair rows_[MT];
  int begin_ = 0;
  int left_ = 0;
  int slot_ = 0;
  Next next_;
  bool more_;
};

}  // namespace moe::cuda
