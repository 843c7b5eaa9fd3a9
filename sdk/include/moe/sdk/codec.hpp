// Encodings: how numbers lie in memory, by string id, each with a decoder to f32. A row of n elements is n /
// block_elements blocks of block_bytes each, one after the other; bytes are little endian and need no alignment.
//
// The quantised ones are GGUF's blocks ("q8_0" ... "mxfp4"; source: ggml's block layouts). They give the same bits as
// its reference decoders, with or without fused multiply-add: a scale of 11 significant bits times small integers is
// exact in f32, so that every result is rounded once.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "moe/sdk/numeric.hpp"

namespace moe {

struct Encoding {
  std::string_view id;
  uint32_t block_elements;
  uint32_t block_bytes;
  // One block into out[block_elements].
  void (*decode)(const void* block, float* out);
  // n_blocks blocks into out[n_blocks * block_elements]: one call, and a loop that the compiler sees.
  void (*decode_blocks)(const void* blocks, size_t n_blocks, float* out);
};

namespace codec_detail {

inline uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }
inline float load_f16(const uint8_t* p) { return f16_to_f32(load_u16(p)); }

inline void f32(const uint8_t* b, float* out) { std::memcpy(out, b, 4); }
inline void f16(const uint8_t* b, float* out) { *out = load_f16(b); }
inline void bf16(const uint8_t* b, float* out) { *out = bf16_to_f32(load_u16(b)); }
inline void f8_e4m3(const uint8_t* b, float* out) { *out = f8_e4m3_to_f32(*b); }
inline void f8_e8m0(const uint8_t* b, float* out) { *out = e8m0_to_f32(*b); }

// f16 d; i8 q[32]: d * q.
inline void q8_0(const uint8_t* b, float* out) {
  const float d = load_f16(b);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(b[2 + i]));
}

// f16 d; u8 q[16], element i in the low half of byte i, element 16 + i in the high half: d * (q - 8).
inline void q4_0(const uint8_t* b, float* out) {
  const float d = load_f16(b);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((b[2 + i] & 15) - 8);
    out[16 + i] = d * static_cast<float>((b[2 + i] >> 4) - 8);
  }
}

// f16 d, m; q as q4_0: d * q + m.
inline void q4_1(const uint8_t* b, float* out) {
  const float d = load_f16(b);
  const float m = load_f16(b + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(b[4 + i] & 15) + m;
    out[16 + i] = d * static_cast<float>(b[4 + i] >> 4) + m;
  }
}

// Element i's fifth bit is bit i of the 32 at h.
inline int fifth_bit(const uint8_t* h, int i) { return (h[i / 8] >> (i % 8) & 1) << 4; }

// f16 d; 32 fifth bits; q as q4_0: d * (q - 16).
inline void q5_0(const uint8_t* b, float* out) {
  const float d = load_f16(b);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(((b[6 + i] & 15) | fifth_bit(b + 2, i)) - 16);
    out[16 + i] = d * static_cast<float>((b[6 + i] >> 4 | fifth_bit(b + 2, 16 + i)) - 16);
  }
}

// f16 d, m; 32 fifth bits; q as q4_0: d * q + m.
inline void q5_1(const uint8_t* b, float* out) {
  const float d = load_f16(b);
  const float m = load_f16(b + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((b[8 + i] & 15) | fifth_bit(b + 4, i)) + m;
    out[16 + i] = d * static_cast<float>(b[8 + i] >> 4 | fifth_bit(b + 4, 16 + i)) + m;
  }
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four of each in the low 6 bits of bytes 0-3 and 4-7;
// of the last four, the low halves in bytes 8-11 and the top two bits in the top of bytes 0-3 and 4-7.
struct ScaleMin {
  float scale;
  float min;
};
inline ScaleMin scale_min(const uint8_t* s, int group) {
  if (group < 4) return {static_cast<float>(s[group] & 63), static_cast<float>(s[4 + group] & 63)};
  const int i = group - 4;
  return {static_cast<float>((s[8 + i] & 15) | (s[i] >> 2 & 0x30)),
          static_cast<float>(s[8 + i] >> 4 | (s[4 + i] >> 2 & 0x30))};
}

// f16 d, dmin; 12 bytes of scales; u8 q[128], 32 bytes for two groups of 32 elements, low halves first:
// (d * scale) * q - dmin * min.
inline void q4_k(const uint8_t* b, float* out) {
  const float d = load_f16(b);
  const float dmin = load_f16(b + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleMin s = scale_min(b + 4, group);
    const float scale = d * s.scale;
    const float min = dmin * s.min;
    const uint8_t* q = b + 16 + group / 2 * 32;
    for (int i = 0; i < 32; ++i) out[group * 32 + i] = scale * static_cast<float>(q[i] >> (group % 2 * 4) & 15) - min;
  }
}

// As q4_k, with a fifth bit: bit `group` of byte i of the 32 before q.
inline void q5_k(const uint8_t* b, float* out) {
  const float d = load_f16(b);
  const float dmin = load_f16(b + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleMin s = scale_min(b + 4, group);
    const float scale = d * s.scale;
    const float min = dmin * s.min;
    const uint8_t* high = b + 16;
    const uint8_t* q = b + 48 + group / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int value = (q[i] >> (group % 2 * 4) & 15) | (high[i] >> group & 1) << 4;
      out[group * 32 + i] = scale * static_cast<float>(value) - min;
    }
  }
}

// u8 low[128], high[64]; i8 scale[16], one for 16 elements; f16 d: (d * scale) * (q - 32). Each half of 128 elements
// has 64 bytes of low halves (two runs of 32 in the low ones, then two in the high ones) and 32 bytes of two high bits
// for each run.
inline void q6_k(const uint8_t* b, float* out) {
  const float d = load_f16(b + 208);
  for (int run = 0; run < 8; ++run) {
    const uint8_t* low = b + run / 4 * 64 + run % 2 * 32;
    const uint8_t* high = b + 128 + run / 4 * 32;
    const int low_shift = run % 4 / 2 * 4;
    const int high_shift = run % 4 * 2;
    for (int i = 0; i < 32; ++i) {
      const float scale = d * static_cast<float>(static_cast<int8_t>(b[192 + run * 2 + i / 16]));
      const int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
      out[run * 32 + i] = scale * static_cast<float>(value - 32);
    }
  }
}

// Twice the values of OCP fp4 e2m1.
inline constexpr float kTwiceE2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, -0.0F, -1, -2, -3, -4, -6, -8, -12};

// u8 e8m0 scale; q as q4_0: 2^(scale - 128) * twice the e2m1 value. GGUF differs from OCP in two corners: a scale of
// 255 is 2^127 and no NaN, and there is no negative zero.
inline void mxfp4(const uint8_t* b, float* out) {
  const uint32_t bits = b[0] < 2 ? 0x00200000U << b[0] : static_cast<uint32_t>(b[0] - 1) << 23;
  const auto d = std::bit_cast<float>(bits);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * (kTwiceE2m1[b[1 + i] & 15] + 0.0F);
    out[16 + i] = d * (kTwiceE2m1[b[1 + i] >> 4] + 0.0F);
  }
}

template <auto kDecode, uint32_t kElements, uint32_t kBytes>
constexpr Encoding encoding(std::string_view id) {
  return {id, kElements, kBytes,
          [](const void* block, float* out) { kDecode(static_cast<const uint8_t*>(block), out); },
          [](const void* blocks, size_t n, float* out) {
            const auto* b = static_cast<const uint8_t*>(blocks);
            for (size_t i = 0; i < n; ++i) kDecode(b + i * kBytes, out + i * kElements);
          }};
}

}  // namespace codec_detail

// Every encoding that the SDK decodes.
inline constexpr Encoding kEncodings[] = {
    codec_detail::encoding<codec_detail::f32, 1, 4>("f32"),
    codec_detail::encoding<codec_detail::f16, 1, 2>("f16"),
    codec_detail::encoding<codec_detail::bf16, 1, 2>("bf16"),
    codec_detail::encoding<codec_detail::f8_e4m3, 1, 1>("f8_e4m3"),
    codec_detail::encoding<codec_detail::f8_e8m0, 1, 1>("f8_e8m0"),
    codec_detail::encoding<codec_detail::q8_0, 32, 34>("q8_0"),
    codec_detail::encoding<codec_detail::q4_0, 32, 18>("q4_0"),
    codec_detail::encoding<codec_detail::q4_1, 32, 20>("q4_1"),
    codec_detail::encoding<codec_detail::q5_0, 32, 22>("q5_0"),
    codec_detail::encoding<codec_detail::q5_1, 32, 24>("q5_1"),
    codec_detail::encoding<codec_detail::q4_k, 256, 144>("q4_k"),
    codec_detail::encoding<codec_detail::q5_k, 256, 176>("q5_k"),
    codec_detail::encoding<codec_detail::q6_k, 256, 210>("q6_k"),
    codec_detail::encoding<codec_detail::mxfp4, 32, 17>("mxfp4"),
};

// Null if there is none of that id.
constexpr const Encoding* find_encoding(std::string_view id) {
  for (const Encoding& encoding : kEncodings) {
    if (encoding.id == id) return &encoding;
  }
  return nullptr;
}

// The first n_elements elements at `src` into dst[n_elements]. A last block that is not needed whole is still read
// whole.
inline void decode_row(const Encoding& encoding, const void* src, size_t n_elements, float* dst) {
  const size_t n_blocks = n_elements / encoding.block_elements;
  const size_t rest = n_elements % encoding.block_elements;
  encoding.decode_blocks(src, n_blocks, dst);
  if (rest == 0) return;
  float block[256];
  encoding.decode(static_cast<const uint8_t*>(src) + n_blocks * encoding.block_bytes, block);
  std::memcpy(dst + n_blocks * encoding.block_elements, block, rest * sizeof(float));
}

// MXFP4 as safetensors hold it (gpt-oss: a tensor `..._blocks` [.., n / 32, 16] u8 and a tensor `..._scales` [.., n /
// 32] u8). It differs from GGUF's "mxfp4" in that scales lie apart and neighbours share a byte: element 2 i is the low
// half of byte i, element 2 i + 1 the high half. The value is OCP's: 2^(scale - 127) * e2m1, NaN where the scale is
// 255; negative zero is kept.
inline void decode_mxfp4(const uint8_t* blocks, const uint8_t* scales, size_t n_blocks, float* out) {
  for (size_t block = 0; block < n_blocks; ++block, blocks += 16, out += 32) {
    const float scale = e8m0_to_f32(scales[block]);
    for (int i = 0; i < 16; ++i) {
      out[2 * i] = scale * (0.5F * codec_detail::kTwiceE2m1[blocks[i] & 15]);
      out[2 * i + 1] = scale * (0.5F * codec_detail::kTwiceE2m1[blocks[i] >> 4]);
    }
  }
}

}  // namespace moe
