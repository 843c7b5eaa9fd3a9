// Products by mma.sync for few tokens: how a warp reads 16 rows of a weight straight into the registers that the tensor
// cores want, and how activations become the other operand.
//
// A tile is 16 rows of a weight by 8 tokens. A weight's row is cut into chunks of 64 bytes; lane (g, t) = (lane / 4,
// lane % 4) reads 16 bytes of rows g and g + 8. Which k those are does not matter to a sum as long as both operands
// agree, so nothing is shuffled and nothing goes through shared memory. Of the activations lane (g, t) converts the
// same k of token g.
//
// The sum of an output runs over its chunks in ascending order in one accumulator, whatever the other tokens are.
#pragma once

#include <cuda_fp8.h>

#include "kernels/device.cuh"

namespace moe::cuda {

// How a product is carried out.
enum class Mode {
  kBf16,   // activations rounded to bf16
  kF16,    // activations rounded to f16, weights f16
  kSplit,  // activations as the sum of three bf16, which holds all of an f32; weights as one bf16 (f16: two) and a
           // scale, exact
  kI8,     // integer sums of groups of 32, weights kI8 or kI4
  kFma     // f32 multiply-adds, weights f32
};

inline constexpr int kChunkBytes = 64;
inline constexpr int kTileRows = 16;
inline constexpr int kTileTokens = 8;

// Blocks of 32 k that a chunk holds: a lane has eight k of each (kF32: four of 16).
template <Format F>
inline constexpr int kBlocks = F == Format::kI4                       ? 4
                               : F == Format::kI8 || F == Format::kF8 ? 2
                                                                      : 1;
template <Format F>
inline constexpr int kChunk = F == Format::kF32 ? 16 : 32 * kBlocks<F>;

__device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void pdl_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Weights are read once: past the first cache, whole lines of the second.
__device__ __forceinline__ uint4 load_stream(const uint4* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}

// --- weights

// Where a lane reads rows r and r + 8 of a matrix; rows that do not exist are the last one (their sums mean nothing).
struct RowPair {
  const uint4* w[2];
  const uint16_t* scale[2];  // kI8, kI4
  const float* block;        // kF8
};

template <Format F>
__device__ __forceinline__ RowPair row_pair(const WeightView& w, int64_t group, int64_t first, int lane) {
  RowPair p{};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t row = group * w.n_out + min(first + lane / 4 + 8 * i, w.n_out - 1);
    p.w[i] = static_cast<const uint4*>(w.data) + row * (w.row / kChunk<F> * (kChunkBytes / 16)) + lane % 4;
    if constexpr (F == Format::kI8 || F == Format::kI4) {
      p.scale[i] = static_cast<const uint16_t*>(w.scales) + row * (w.row / kQuantScale);
    }
  }
  if constexpr (F == Format::kF8) {
    const int64_t blocks = (w.n_in + kF8Block - 1) / kF8Block;
    const int64_t block_rows = (w.n_out + kF8Block - 1) / kF8Block;
    p.block = static_cast<const float*>(w.scales) + (group * block_rows + min(first, w.n_out - 1) / kF8Block) * blocks;
  }
  return p;
}

// A lane's part of one chunk of a tile.
struct Chunk {
  uint4 w[2];
  uint2 scale[2];
};

template <Format F>
__device__ __forceinline__ void load_chunk(const RowPair& p, int chunk, Chunk& out) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    out.w[i] = load_stream(p.w[i] + chunk * 4);
    if constexpr (F == Format::kI8) out.scale[i].x = __ldg(reinterpret_cast<const unsigned*>(p.scale[i]) + chunk);
    if constexpr (F == Format::kI4) out.scale[i] = __ldg(reinterpret_cast<const uint2*>(p.scale[i]) + chunk);
  }
  if constexpr (F == Format::kF8) out.scale[0].x = __float_as_uint(__ldg(p.block + chunk * kChunk<F> / kF8Block));
}

// The scale of row pair member i in block b.
template <Format F>
__device__ __forceinline__ float chunk_scale(const Chunk& c, int i, int b) {
  if constexpr (F == Format::kF8) return __uint_as_float(c.scale[0].x);
  const uint32_t word = b < 2 ? c.scale[i].x : c.scale[i].y;
  return from_f16_bits(static_cast<uint16_t>(b % 2 == 0 ? word : word >> 16));
}

__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
  return *reinterpret_cast<const uint32_t*>(&v);
}
__device__ __forceinline__ uint32_t pack_f16(float lo, float hi) {
  const __half2 v = __floats2half2_rn(lo, hi);
  return *reinterpret_cast<const uint32_t*>(&v);
}
__device__ __forceinline__ float low_bf16(uint32_t v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float high_bf16(uint32_t v) { return __uint_as_float(v & 0xFFFF0000U); }
__device__ __forceinline__ uint32_t subtract_bf16(uint32_t a, uint32_t b) {
  const __nv_bfloat162 v =
      __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&a), *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&v);
}

// Two int8 of a word (bytes kSelect) as bf16, exact: 128 + the low seven bits, less 128 or 256.
template <uint32_t kSelect>
__device__ __forceinline__ uint32_t int8_to_bf16(uint32_t word) {
  const uint32_t low = __byte_perm(word & 0x7F7F7F7FU, 0x43434343U, kSelect);
  const uint32_t sign = __byte_perm(word & 0x80808080U, 0x43434343U, kSelect);
  return subtract_bf16(low, sign);
}
// Two e4m3 as bf16, exact.
__device__ __forceinline__ uint32_t e4m3_to_bf16(uint32_t two) {
  const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3);
  return pack_bf16(from_f16_bits(h.x), from_f16_bits(h.y));
}

// Number of bf16 (or f16) that add up to a weight.
template <Format F, Mode M>
inline constexpr int kWeightPlanes = F == Format::kF16&& M == Mode::kSplit ? 2 : 1;

// A lane's eight weights of block b as pairs: out[plane][pair].
template <Format F, Mode M>
__device__ __forceinline__ void weight_pairs(const uint4& v, int b, uint32_t (&out)[kWeightPlanes<F, M>][4]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  if constexpr (F == Format::kBF16 || (F == Format::kF16 && M == Mode::kF16)) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[0][i] = words[i];
  } else if constexpr (F == Format::kF16) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float lo = from_f16_bits(static_cast<uint16_t>(words[i]));
      const float hi = from_f16_bits(static_cast<uint16_t>(words[i] >> 16));
      out[0][i] = pack_bf16(lo, hi);
      out[1][i] = pack_bf16(lo - low_bf16(out[0][i]), hi - high_bf16(out[0][i]));
    }
  } else if constexpr (F == Format::kI8) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t word = words[2 * b + i];
      out[0][2 * i] = int8_to_bf16<0x4140>(word);
      out[0][2 * i + 1] = int8_to_bf16<0x4342>(word);
    }
  } else if constexpr (F == Format::kI4) {
    constexpr uint32_t k136 = 0x43084308U;  // 128 + 8
    const uint32_t low = words[b] & 0x0F0F0F0FU;
    const uint32_t high = words[b] >> 4 & 0x0F0F0F0FU;
    out[0][0] = subtract_bf16(__byte_perm(low, 0x43434343U, 0x4140), k136);
    out[0][1] = subtract_bf16(__byte_perm(low, 0x43434343U, 0x4342), k136);
    out[0][2] = subtract_bf16(__byte_perm(high, 0x43434343U, 0x4140), k136);
    out[0][3] = subtract_bf16(__byte_perm(high, 0x43434343U, 0x4342), k136);
  } else if constexpr (F == Format::kF8) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[0][i] = e4m3_to_bf16(words[2 * b + i / 2] >> (i % 2 * 16) & 0xFFFFU);
  }
}

// A lane's eight integers of block b, four a word.
template <Format F>
__device__ __forceinline__ void weight_bytes(const uint4& v, int b, uint32_t (&out)[2]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  if constexpr (F == Format::kI8) {
    out[0] = words[2 * b];
    out[1] = words[2 * b + 1];
  } else {
    // q + 8 to q, byte by byte: no borrow passes the top bit.
#pragma unroll
    for (int i = 0; i < 2; ++i)
      out[i] = (((words[b] >> (4 * i) & 0x0F0F0F0FU) | 0x80808080U) - 0x08080808U) ^ 0x80808080U;
  }
}

// --- activations

// A lane's token of a tile; null: there is none, and it counts as zeros.
struct TokenRow {
  const float* x;
  float factor;
};

// The lane's k of block b of a chunk (kF32: four of them). A row is padded with zeros to the weight's row and begins on
// 16 bytes.
template <Format F>
__device__ __forceinline__ void load_token(const TokenRow& row, int chunk, int b, int t, float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = 0.0F;
  if (row.x == nullptr) return;
  const int first = F == Format::kF8    ? 16 * t + 8 * b
                    : F == Format::kI4  ? 32 * b + 4 * t
                    : F == Format::kF32 ? 4 * t
                                        : 32 * b + 8 * t;
  const auto* x = reinterpret_cast<const float4*>(row.x + chunk * kChunk<F> + first);
  const float4 lo = x[0];
  v[0] = lo.x * row.factor, v[1] = lo.y * row.factor, v[2] = lo.z * row.factor, v[3] = lo.w * row.factor;
  if constexpr (F != Format::kF32) {
    const float4 hi = x[F == Format::kI4 ? 4 : 1];
    v[4] = hi.x * row.factor, v[5] = hi.y * row.factor, v[6] = hi.z * row.factor, v[7] = hi.w * row.factor;
  }
}

template <Mode M>
inline constexpr int kTokenPlanes = M == Mode::kSplit ? 3 : 1;

// Eight activations as pairs: out[plane][pair].
template <Mode M>
__device__ __forceinline__ void token_pairs(float (&v)[8], int32_t activation, uint32_t (&out)[kTokenPlanes<M>][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float lo = v[2 * i];
    float hi = v[2 * i + 1];
    if constexpr (M == Mode::kF16) {
      out[0][i] = pack_f16(lo, hi);
    } else if constexpr (M == Mode::kBf16) {
      out[0][i] = pack_bf16(lo, hi);
    } else {
      lo = rounded(activation, lo);
      hi = rounded(activation, hi);
#pragma unroll
      for (int plane = 0; plane < 3; ++plane) {
        out[plane][i] = pack_bf16(lo, hi);
        lo -= low_bf16(out[plane][i]);
        hi -= high_bf16(out[plane][i]);
      }
    }
  }
}

// MOE_I8 of a group of 32 that a quad holds (moe/sdk/quant.hpp: quantize_activation, the same numbers). A
// multiplication by the reciprocal decides all but those close to a tie, which are divided.
__device__ __forceinline__ float token_bytes(const float (&v)[8], uint32_t (&out)[2]) {
  uint32_t top = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) top = max(top, __float_as_uint(v[i]) & 0x7FFFFFFFU);
  top = max(top, __shfl_xor_sync(kFullWarp, top, 1));
  top = max(top, __shfl_xor_sync(kFullWarp, top, 2));
  out[0] = out[1] = 0;
  if (top >= 0x7F800000U) return __uint_as_float(0x7FC00000U);
  const float scale = __fdiv_rn(__uint_as_float(top), 127.0F);
  if (scale == 0.0F) return scale;
  const float inverse = 1.0F / scale;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float near = v[i] * inverse;
    float q = rintf(near);
    if (!(fabsf(near - q) < 0.4995F)) q = rintf(__fdiv_rn(v[i], scale));
    const int integer = static_cast<int>(fminf(fmaxf(q, -127.0F), 127.0F));
    out[i / 4] |= (static_cast<uint32_t>(integer) & 0xFFU) << (i % 4 * 8);
  }
  return scale;
}

// --- the product of a tile

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
        if constexpr (M == Mode::kF16) {
          mma_f16(c, lo[p][2 * i], hi[p][2 * i], lo[p][2 * i + 1], hi[p][2 * i + 1], x[q][2 * i], x[q][2 * i + 1]);
        } else {
          mma_bf16(c, lo[p][2 * i], hi[p][2 * i], lo[p][2 * i + 1], hi[p][2 * i + 1], x[q][2 * i], x[q][2 * i + 1]);
        }
      }
    }
  }
}

template <Format F>
inline constexpr bool kScaled = F == Format::kI8 || F == Format::kI4 || F == Format::kF8;

// One chunk of MT tiles of rows by NT tiles of tokens.
template <Format F, Mode M, int MT, int NT>
__device__ __forceinline__ void chunk_product(const Chunk (&w)[MT], const TokenRow (&tokens)[NT], int chunk, int lane,
                                              int32_t activation, float (&sums)[MT][NT][kSums<M>]) {
  const int t = lane % 4;
#pragma unroll
  for (int b = 0; b < kBlocks<F>; ++b) {
    if constexpr (M == Mode::kFma) {
#pragma unroll
      for (int j = 0; j < NT; ++j) {
        float v[8];
        load_token<F>(tokens[j], chunk, b, t, v);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = rounded(activation, v[i]);
#pragma unroll
        for (int token = 0; token < kTileTokens; ++token) {
          float x[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) x[i] = __shfl_sync(kFullWarp, v[i], token * 4 + t);
#pragma unroll
          for (int m = 0; m < MT; ++m) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              float& sum = sums[m][j][r * 8 + token];
              sum = fmaf(__uint_as_float(w[m].w[r].x), x[0], sum);
              sum = fmaf(__uint_as_float(w[m].w[r].y), x[1], sum);
              sum = fmaf(__uint_as_float(w[m].w[r].z), x[2], sum);
              sum = fmaf(__uint_as_float(w[m].w[r].w), x[3], sum);
            }
          }
        }
      }
    } else if constexpr (M == Mode::kI8) {
      uint32_t a[MT][2][2];
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        weight_bytes<F>(w[m].w[0], b, a[m][0]);
        weight_bytes<F>(w[m].w[1], b, a[m][1]);
      }
#pragma unroll
      for (int j = 0; j < NT; ++j) {
        float v[8];
        uint32_t x[2];
        load_token<F>(tokens[j], chunk, b, t, v);
        const float scale = token_bytes(v, x);
        const float scale0 = __shfl_sync(kFullWarp, scale, 8 * t);
        const float scale1 = __shfl_sync(kFullWarp, scale, 8 * t + 4);
#pragma unroll
        for (int m = 0; m < MT; ++m) {
          int c[4] = {};
          mma_i8(c, a[m][0][0], a[m][1][0], a[m][0][1], a[m][1][1], x[0], x[1]);
          const float lo = chunk_scale<F>(w[m], 0, b);
          const float hi = chunk_scale<F>(w[m], 1, b);
          float(&sum)[4] = sums[m][j];
          sum[0] = fmaf(static_cast<float>(c[0]), lo * scale0, sum[0]);
          sum[1] = fmaf(static_cast<float>(c[1]), lo * scale1, sum[1]);
          sum[2] = fmaf(static_cast<float>(c[2]), hi * scale0, sum[2]);
          sum[3] = fmaf(static_cast<float>(c[3]), hi * scale1, sum[3]);
        }
      }
    } else {
      uint32_t lo[MT][kWeightPlanes<F, M>][4];
      uint32_t hi[MT][kWeightPlanes<F, M>][4];
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        weight_pairs<F, M>(w[m].w[0], b, lo[m]);
        weight_pairs<F, M>(w[m].w[1], b, hi[m]);
      }
#pragma unroll
      for (int j = 0; j < NT; ++j) {
        float v[8];
        uint32_t x[kTokenPlanes<M>][4];
        load_token<F>(tokens[j], chunk, b, t, v);
        token_pairs<M>(v, activation, x);
#pragma unroll
        for (int m = 0; m < MT; ++m) {
          float(&sum)[4] = sums[m][j];
          if constexpr (kScaled<F>) {
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

// Chunks [begin, end) of a warp's tiles, kAhead of them on their way at any time. prime() may be called before the
// activations exist.
template <Format F, Mode M, int MT, int NT, int kAhead>
class Stream {
 public:
  __device__ __forceinline__ Stream(const RowPair (&rows)[MT], int begin, int end) : begin_(begin), end_(end) {
#pragma unroll
    for (int m = 0; m < MT; ++m) rows_[m] = rows[m];
  }

  __device__ __forceinline__ void prime() {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (begin_ + u < end_) load(begin_ + u, ahead_[u]);
    }
  }

  __device__ __forceinline__ void run(const TokenRow (&tokens)[NT], int lane, int32_t activation,
                                      float (&sums)[MT][NT][kSums<M>]) {
    for (int c = begin_; c < end_; c += kAhead) {
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (c + u >= end_) break;
        chunk_product<F, M, MT, NT>(ahead_[u], tokens, c + u, lane, activation, sums);
        if (c + u + kAhead < end_) load(c + u + kAhead, ahead_[u]);
      }
    }
  }

 private:
  __device__ __forceinline__ void load(int chunk, Chunk (&to)[MT]) {
#pragma unroll
    for (int m = 0; m < MT; ++m) load_chunk<F>(rows_[m], chunk, to[m]);
  }

  RowPair rows_[MT];
  int begin_;
  int end_;
  Chunk ahead_[kAhead][MT];
};

// Calls fn.operator()<Format, Mode>() for a weight and an activation type; MOE_I8 with weights that are no integers
// counts as MOE_F32.
template <typename Fn>
cudaError_t with_product(Format format, int32_t activation, Fn&& fn) {
  switch (format) {
    case Format::kF32:
      return fn.template operator()<Format::kF32, Mode::kFma>();
    case Format::kF16:
      if (activation == MOE_F16) return fn.template operator()<Format::kF16, Mode::kF16>();
      return fn.template operator()<Format::kF16, Mode::kSplit>();
    case Format::kBF16:
      if (activation == MOE_BF16) return fn.template operator()<Format::kBF16, Mode::kBf16>();
      return fn.template operator()<Format::kBF16, Mode::kSplit>();
    case Format::kI8:
      if (activation == MOE_I8) return fn.template operator()<Format::kI8, Mode::kI8>();
      return fn.template operator()<Format::kI8, Mode::kSplit>();
    case Format::kI4:
      if (activation == MOE_I8) return fn.template operator()<Format::kI4, Mode::kI8>();
      return fn.template operator()<Format::kI4, Mode::kSplit>();
    default:
      if (activation == MOE_BF16) return fn.template operator()<Format::kF8, Mode::kBf16>();
      return fn.template operator()<Format::kF8, Mode::kSplit>();
  }
}

// Whether activations must be rounded by launch_round before a product: MOE_I8 where the products are not of integers.
inline bool rounds_before(Format format, int32_t activation) {
  return activation == MOE_I8 && format != Format::kI8 && format != Format::kI4;
}

}  // namespace moe::cuda
