// How a warp reads 16 rows of a weight into the registers that mma.sync wants.
//
// A weight's row is cut into chunks of 64 bytes; lane (g, t) = (lane / 4, lane % 4) takes 16 bytes of rows g and g + 8.
// Which k those are does not matter to a sum as long as both operands agree, so nothing is shuffled. The bytes come
// through a ring in shared memory in which each lane has its own place: asynchronous copies complete in order, however
// many are on their way, where loads into registers share six scoreboards (seen: 1.7 TB/s with eight chunks ahead in
// registers, each asked for again as soon as it had been used).
#pragma once

#include "kernels/gemv_format.cuh"

namespace moe::cuda {

// Where a lane reads rows r and r + 8 of a matrix; rows that do not exist are the last one (their sums mean nothing).
struct RowPair {
  const uint4* w;
  int w_second;           // from row r to row r + 8
  const uint16_t* scale;  // kI8, kI4
  int scale_second;
  const float* block;  // kF8
};

template <Format F>
__device__ __forceinline__ RowPair row_pair(const WeightView& w, int64_t group, int64_t first, int lane) {
  RowPair p{};
  const int64_t row = min(first + lane / 4, w.n_out - 1);
  const int second = static_cast<int>(min(first + lane / 4 + 8, w.n_out - 1) - row);
  const int units = static_cast<int>(w.row) / kChunk<F> * (kChunkBytes / 16);
  p.w = static_cast<const uint4*>(w.data) + (group * w.n_out + row) * units + lane % 4;
  p.w_second = second * units;
  if constexpr (F == Format::kI8 || F == Format::kI4) {
    const int scales = static_cast<int>(w.row) / static_cast<int>(kQuantScale);
    p.scale = static_cast<const uint16_t*>(w.scales) + (group * w.n_out + row) * scales;
    p.scale_second = second * scales;
  }
  if constexpr (F == Format::kF8) {
    p.block = f8_scales(w, group, min(first, w.n_out - 1));
  }
  return p;
}

// A lane's part of one chunk of a tile.
struct Chunk {
  uint4 w[2];
  uint2 scale[2];
};

template <Format F>
inline constexpr bool kScaled = F == Format::kI8 || F == Format::kI4 || F == Format::kF8;

// Bytes of a chunk of a tile in a ring: 16 rows, and their scales.
template <Format F>
inline constexpr int kSlotBytes = kTileRows* kChunkBytes + (kScaled<F> ? kTileRows * 8 : 0);

// How the second cache treats what is read once: it gives that up first. Otherwise weights push out what the next small
// kernel needs, its code among it (seen on an H200, OLMoE, one token: 954 to 986 tokens/s).
__device__ __forceinline__ uint64_t evict_first() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Straight into registers, past the first cache, whole lines of the second.
__device__ __forceinline__ uint4 load_stream(const uint4* p, uint64_t policy) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p), "l"(policy));
  return v;
}

template <int kBytes>
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  if constexpr (kBytes == 16) {  // past the first cache, whole lines of the second
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(kBytes) : "memory");
  }
}

template <int kBytes>
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, uint64_t policy) {
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "l"(policy)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global.L2::cache_hint [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes),
                 "l"(policy)
                 : "memory");
  }
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Asks for a chunk into a slot of the ring.
template <Format F>
__device__ __forceinline__ void copy_chunk(const RowPair& p, int chunk, uint32_t slot, int lane) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    copy_async<16>(slot + static_cast<uint32_t>(i * 512 + lane * 16), p.w + (chunk * 4 + i * p.w_second));
  }
  const uint32_t scales = slot + kTileRows * kChunkBytes;
  if constexpr (F == Format::kI8 || F == Format::kI4) {
    constexpr int kBytes = F == Format::kI8 ? 4 : 8;
    const int i = lane % 4;
    if (i < 2) {
      copy_async<kBytes>(scales + static_cast<uint32_t>((lane / 4 + i * 8) * 8),
                         reinterpret_cast<const char*>(p.scale + i * p.scale_second) + chunk * kBytes);
    }
  }
  if constexpr (F == Format::kF8) {
    if (lane == 0) copy_async<4>(scales, p.block + chunk * kChunk<F> / kF8Block);
  }
}

// Takes it from there.
template <Format F>
__device__ __forceinline__ void read_chunk(const char* slot, int lane, Chunk& out) {
  const char* scales = slot + kTileRows * kChunkBytes;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    out.w[i] = *reinterpret_cast<const uint4*>(slot + i * 512 + lane * 16);
    const char* scale = scales + (lane / 4 + i * 8) * 8;
    if constexpr (F == Format::kI8) out.scale[i].x = *reinterpret_cast<const uint32_t*>(scale);
    if constexpr (F == Format::kI4) out.scale[i] = *reinterpret_cast<const uint2*>(scale);
  }
  if constexpr (F == Format::kF8) out.scale[0].x = *reinterpret_cast<const uint32_t*>(scales);
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
// Two e4m3, the low half of the word, as f16 and as bf16: both exact.
__device__ __forceinline__ uint32_t e4m3_to_f16(uint32_t two) {
  const __half2 v(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3));
  return *reinterpret_cast<const uint32_t*>(&v);
}
__device__ __forceinline__ uint32_t e4m3_to_bf16(uint32_t two) {
  const uint32_t v = e4m3_to_f16(two);
  return pack_bf16(from_f16_bits(static_cast<uint16_t>(v)), from_f16_bits(static_cast<uint16_t>(v >> 16)));
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
    for (int i = 0; i < 4; ++i) {
      const uint32_t two = words[2 * b + i / 2] >> (i % 2 * 16) & 0xFFFFU;
      out[0][i] = M == Mode::kLifted ? e4m3_to_f16(two) : e4m3_to_bf16(two);
    }
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

}  // namespace moe::cuda
