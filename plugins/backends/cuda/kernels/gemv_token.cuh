// How activations become the other operand of a product with a weight (gemv_weight.cuh): each warp converts those of
// its part of k once, into shared memory, in the order in which the lanes want them.
#pragma once

#include "kernels/gemv_weight.cuh"

namespace moe::cuda {

// A token's activations: x times factor. The row begins on 16 bytes and is padded with zeros to the weight's row.
struct TokenRow {
  const float* x;
  float factor;
};

// What each of the row's k is multiplied by too; null: nothing.
struct NormRow {
  const float* weight;
  int n_in;
};
__device__ __forceinline__ float4 load_norm(const NormRow& norm, int k) {
  if (k + 4 <= norm.n_in && reinterpret_cast<uintptr_t>(norm.weight) % 16 == 0) {
    return __ldg(reinterpret_cast<const float4*>(norm.weight + k));
  }
  const auto at = [&](int i) { return k + i < norm.n_in ? __ldg(norm.weight + k + i) : 0.0F; };
  return make_float4(at(0), at(1), at(2), at(3));
}
__device__ __forceinline__ float4 scaled(const float4& x, float factor) {
  return make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor);
}
__device__ __forceinline__ float4 product(const float4& a, const float4& b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

template <Mode M>
inline constexpr int kTokenPlanes = M == Mode::kSplit ? 3 : 1;
// Whether each block of a token has a scale.
template <Mode M>
inline constexpr bool kTokenScales = M == Mode::kI8 || M == Mode::kLifted;

// kLifted: a block's numbers, of which neighbouring lanes hold eight each, `kLanes` of them, as f16 times a power of
// two, out[pair]; returns what undoes that. The largest comes to 2^14 or more, so all are exact that are not 2^-28
// times smaller; what those lose is less than 2^-39 of the largest. Whole warps.
template <int kLanes>
__device__ __forceinline__ float lifted_pairs(const float (&v)[8], uint32_t (&out)[4]) {
  uint32_t top = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) top = max(top, __float_as_uint(v[i]) & 0x7FFFFFFFU);
#pragma unroll
  for (int lane = 1; lane < kLanes; lane *= 2) top = max(top, __shfl_xor_sync(kFullWarp, top, lane));
  const uint32_t exponent = min(253U, 268U - (top >> 23));  // biased, as is that of `top`
  const float factor = __uint_as_float(exponent << 23);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    out[i] = pack_f16(rounded(MOE_BF16, v[2 * i]) * factor, rounded(MOE_BF16, v[2 * i + 1]) * factor);
  return __uint_as_float((254U - exponent) << 23);
}

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

// MOE_I8 of a group of 32 that neighbouring lanes hold, N values each (moe/sdk/quant.hpp: quantize_activation, the same
// numbers). Products with reciprocals decide all but what is close to a tie or of extreme size, which is divided.
template <int N>
struct TokenBytes {
  uint32_t words[N / 4];
  float scale;
  uint32_t top;  // the largest size, its bits
  bool sure;
};
template <int N>
__device__ __forceinline__ TokenBytes<N> near_bytes(const float (&v)[N]) {
  constexpr float kWhole = 12582912.0F;  // added to a small float, it leaves the nearest integer in the last bits
  constexpr float kPart = 1.0F / 127.0F;
  TokenBytes<N> out;
  out.top = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) out.top = max(out.top, __float_as_uint(v[i]) & 0x7FFFFFFFU);
#pragma unroll
  for (int lane = 1; lane < 32 / N; lane *= 2) out.top = max(out.top, __shfl_xor_sync(kFullWarp, out.top, lane));
  const float top = __uint_as_float(out.top);
  out.sure = top > 0x1p-100F && top < 0x1p100F;
  // As division rounds it: one step of Newton's from the rounded reciprocal.
  const float near = top * kPart;
  out.scale = fmaf(fmaf(-127.0F, near, top), kPart, near);
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(out.scale));
  uint32_t q[N];
  // v * inverse and v / scale differ by 4e-5 at most.
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float shifted = fmaf(v[i], inverse, kWhole);
    q[i] = __float_as_uint(shifted);
    out.sure = out.sure && fabsf(fmaf(v[i], inverse, kWhole - shifted)) < 0.4999F;
  }
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    out.words[i / 4] =
        __byte_perm(__byte_perm(q[i], q[i + 1], 0x0040), __byte_perm(q[i + 2], q[i + 3], 0x0040), 0x5410);
  }
  return out;
}
// The same where near_bytes is not sure.
template <int N>
__device__ __forceinline__ void exact_bytes(const float (&v)[N], TokenBytes<N>& out) {
#pragma unroll
  for (int i = 0; i < N / 4; ++i) out.words[i] = 0;
  out.scale = out.top >= 0x7F800000U ? __uint_as_float(0x7FC00000U) : __fdiv_rn(__uint_as_float(out.top), 127.0F);
  if (!(out.scale > 0.0F)) return;
#pragma unroll 1  // rare: little code matters
  for (int i = 0; i < N; ++i) {
    float one = v[0];
#pragma unroll
    for (int k = 1; k < N; ++k) one = i == k ? v[k] : one;
    const int q = static_cast<int>(fminf(fmaxf(rintf(__fdiv_rn(one, out.scale)), -127.0F), 127.0F));
#pragma unroll
    for (int k = 0; k < N / 4; ++k) out.words[k] |= i / 4 == k ? (static_cast<uint32_t>(q) & 0xFFU) << (i % 4 * 8) : 0U;
  }
}
template <int N>
__device__ __forceinline__ float token_bytes(const float (&v)[N], uint32_t (&out)[N / 4]) {
  TokenBytes<N> bytes = near_bytes(v);
  if (!bytes.sure) exact_bytes(v, bytes);
#pragma unroll
  for (int i = 0; i < N / 4; ++i) out[i] = bytes.words[i];
  return bytes.scale;
}

// Converted activations of a warp: blocks of 32 k (kF32: 16) of n_tokens tokens.
//   data    [block][plane][stride tokens][lane of the quad]: 16 bytes a lane and plane (kI8: 8)
//   scales  [block][stride tokens], where kTokenScales
struct TokenStage {
  char* data;
  float* scales;
  int stride;
  int n_tokens;
};

// Bytes of shared memory that a block of one token takes.
template <Mode M>
inline constexpr int kStageBytes = M == Mode::kI8 ? 36 : 64 * kTokenPlanes<M> + (kTokenScales<M> ? 4 : 0);

// Bytes for so many chunks of so many tokens.
template <Format F, Mode M>
constexpr int64_t stage_bytes(int64_t n_chunks, int64_t n_tokens) {
  return (kStageBytes<M> * kBlocks<F> * n_chunks * n_tokens + 31) / 16 * 16;
}
// Chunks that a stage of so many bytes holds; there must be room for one.
template <Format F, Mode M>
__device__ __forceinline__ int stage_chunks(int n_bytes, int n_tokens) {
  return (n_bytes - 16) / (kStageBytes<M> * kBlocks<F> * n_tokens);
}

template <Format F, Mode M>
__device__ __forceinline__ TokenStage make_stage(char* memory, int n_chunks, int n_tokens) {
  // Scales come first: 4 bytes each, of a number that keeps the rest on 16.
  const int scales = kTokenScales<M> ? (n_chunks * kBlocks<F> * n_tokens * 4 + 15) / 16 * 16 : 0;
  return {memory + scales, reinterpret_cast<float*>(memory), n_tokens, n_tokens};
}

// The first of the lane's k of a block.
template <Format F>
__device__ __forceinline__ int first_of_block(int block, int t) {
  constexpr int kPerChunk = kBlocks<F>;
  return F == Format::kF8    ? block / kPerChunk * kChunk<F> + 16 * t + 8 * (block % kPerChunk)
         : F == Format::kI4  ? 32 * block + 4 * t
         : F == Format::kF32 ? 16 * block + 4 * t
                             : 32 * block + 8 * t;
}

// The lane's k of a block: eight (kF32: four).
template <Format F>
__device__ __forceinline__ void load_block(const TokenRow& row, const NormRow& norm, int block, int t, float (&v)[8]) {
  const int first = first_of_block<F>(block, t);
  constexpr int kSecond = F == Format::kI4 ? 16 : 4;
  float4 lo = scaled(*reinterpret_cast<const float4*>(row.x + first), row.factor);
  float4 hi{};
  if constexpr (F != Format::kF32) hi = scaled(*reinterpret_cast<const float4*>(row.x + first + kSecond), row.factor);
  if (norm.weight != nullptr) {
    lo = product(lo, load_norm(norm, first));
    if constexpr (F != Format::kF32) hi = product(hi, load_norm(norm, first + kSecond));
  }
  v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w, v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
}

// Converts blocks [first, first + n_blocks) of tokens [0, stage.n_tokens), a quad each. row_of(token) gives a TokenRow.
// Whole warps.
template <Format F, Mode M, typename RowOf>
__device__ __forceinline__ void fill_stage(const TokenStage& stage, int first, int n_blocks, const RowOf& row_of,
                                           const NormRow& norm, int32_t activation) {
  const int lane = threadIdx.x % 32;
  const int t = lane % 4;
  const int total = stage.n_tokens * n_blocks;
  constexpr int kAtOnce = M == Mode::kSplit ? 1 : 2;  // loads on their way together, as registers allow
  for (int base = 0; base < total; base += 8 * kAtOnce) {
    float v[kAtOnce][8] = {};
    int token[kAtOnce];
    int block[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = base + 8 * i + lane / 4;
      token[i] = at / n_blocks;
      block[i] = at < total ? at % n_blocks : -1;
      if (block[i] < 0) continue;
      load_block<F>(row_of(token[i]), norm, first + block[i], t, v[i]);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if constexpr (M == Mode::kI8) {
        uint32_t words[2];
        const float scale = token_bytes(v[i], words);
        if (block[i] < 0) continue;
        const int at = block[i] * stage.stride + token[i];
        reinterpret_cast<uint2*>(stage.data)[at * 4 + t] = make_uint2(words[0], words[1]);
        if (t == 0) stage.scales[at] = scale;
      } else if constexpr (M == Mode::kLifted) {
        uint32_t pairs[4];
        const float scale = lifted_pairs<4>(v[i], pairs);
        if (block[i] < 0) continue;
        const int at = block[i] * stage.stride + token[i];
        reinterpret_cast<uint4*>(stage.data)[at * 4 + t] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        if (t == 0) stage.scales[at] = scale;
      } else if constexpr (M == Mode::kFma) {
        if (block[i] < 0) continue;
#pragma unroll
        for (int c = 0; c < 4; ++c) v[i][c] = rounded(activation, v[i][c]);
        reinterpret_cast<float4*>(stage.data)[(block[i] * stage.stride + token[i]) * 4 + t] =
            make_float4(v[i][0], v[i][1], v[i][2], v[i][3]);
      } else {
        uint32_t pairs[kTokenPlanes<M>][4];
        token_pairs<M>(v[i], activation, pairs);
        if (block[i] < 0) continue;
#pragma unroll
        for (int p = 0; p < kTokenPlanes<M>; ++p) {
          reinterpret_cast<uint4*>(stage.data)[((block[i] * kTokenPlanes<M> + p) * stage.stride + token[i]) * 4 + t] =
              make_uint4(pairs[p][0], pairs[p][1], pairs[p][2], pairs[p][3]);
        }
      }
    }
  }
  __syncwarp();
}

// A lane's part of a block for the token that it has in a tile; zeros where there is none.
template <Mode M>
__device__ __forceinline__ void read_pairs(const TokenStage& stage, int block, int token, int t,
                                           uint32_t (&x)[kTokenPlanes<M>][4]) {
#pragma unroll
  for (int p = 0; p < kTokenPlanes<M>; ++p) {
    uint4 v{};
    if (token < stage.n_tokens) {
      v = reinterpret_cast<const uint4*>(stage.data)[((block * kTokenPlanes<M> + p) * stage.stride + token) * 4 + t];
    }
    x[p][0] = v.x, x[p][1] = v.y, x[p][2] = v.z, x[p][3] = v.w;
  }
}

}  // namespace moe::cuda
