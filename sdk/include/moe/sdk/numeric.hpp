// Conversions between f32 and the narrower float formats, bit for bit the same everywhere. Values travel as their bits.
// Narrowing rounds to nearest, ties to even, keeps subnormals and signed zeros, and overflows to infinity, if the
// format has one. A NaN stays a NaN: it becomes quiet and keeps its sign and the upper bits of its payload, as
// processors' own conversions do (F16C, AVX-512, NEON).
#pragma once

#include <bit>
#include <cstdint>

namespace moe {

// IEEE 754 binary16.
constexpr float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000U) << 16;
  const uint32_t exponent = h >> 10 & 31U;
  const uint32_t fraction = h & 1023U;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;  // exact: subnormals are multiples of 2^-24
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) {
    const uint32_t quiet = fraction != 0 ? 0x00400000U : 0U;
    return std::bit_cast<float>(sign | 0x7f800000U | quiet | fraction << 13);
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

constexpr uint16_t f32_to_f16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<uint16_t>(sign | 0x7e00U | (magnitude >> 13 & 0x3ffU));
  if (magnitude >= 0x477ff000U) return static_cast<uint16_t>(sign | 0x7c00U);  // 65520 and more: infinity
  if (magnitude >= 0x38800000U) {                                              // 2^-14 and more: normal
    const uint32_t rounded = magnitude + 0xfffU + (magnitude >> 13 & 1U);
    return static_cast<uint16_t>(sign | (rounded - 0x38000000U) >> 13);
  }
  const uint32_t shift = 126 - (magnitude >> 23);  // to units of 2^-24
  if (shift > 24) return static_cast<uint16_t>(sign);
  const uint32_t significand = (magnitude & 0x7fffffU) | 0x800000U;
  const uint32_t half = 1U << (shift - 1);
  const uint32_t kept = significand >> shift;
  const uint32_t rest = significand & (2 * half - 1);
  const uint32_t up = rest > half || (rest == half && (kept & 1U) != 0) ? 1 : 0;
  return static_cast<uint16_t>(sign | (kept + up));
}

// bfloat16: the upper half of an f32.
constexpr float bf16_to_f32(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

constexpr uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>(bits >> 16 | 0x40U);
  return static_cast<uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

// OCP 8-bit float e4m3 ("e4m3fn"): no infinities, NaN at 0x7f and 0xff, largest 448.
constexpr float f8_e4m3_to_f32(uint8_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x80U) << 24;
  const uint32_t exponent = h >> 3 & 15U;
  const uint32_t fraction = h & 7U;
  if ((h & 0x7fU) == 0x7fU) return std::bit_cast<float>(sign | 0x7fc00000U);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-9F;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  return std::bit_cast<float>(sign | (exponent + 120) << 23 | fraction << 20);
}

// Beyond 448, the largest, it stays there.
constexpr uint8_t f32_to_f8_e4m3(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 24 & 0x80U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<uint8_t>(sign | 0x7fU);
  if (magnitude >= 0x43e00000U) return static_cast<uint8_t>(sign | 0x7eU);
  if (magnitude >= 0x3c800000U) {  // 2^-6 and more: normal
    const uint32_t rounded = magnitude + 0x7ffffU + (magnitude >> 20 & 1U);
    return static_cast<uint8_t>(sign | (rounded - 0x3c000000U) >> 20);
  }
  // A subnormal is a multiple of 2^-9, the last bit of 2^14.
  const float shifted = std::bit_cast<float>(magnitude) + 0x1p14F;
  return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x46800000U));
}

// OCP e8m0, the scale of MX formats: 2^(s - 127), NaN at 0xff.
constexpr float e8m0_to_f32(uint8_t s) {
  if (s == 255) return std::bit_cast<float>(0x7fc00000U);
  return std::bit_cast<float>(s == 0 ? 0x00400000U : static_cast<uint32_t>(s) << 23);
}

}  // namespace moe
