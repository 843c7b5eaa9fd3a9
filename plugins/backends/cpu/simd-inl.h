// What kernels share, once for each instruction set: vectors of up to 16 floats, sixteen lanes of them, exp and
// friends.
#if defined(MOE_CPU_SIMD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef MOE_CPU_SIMD_INL_H
#undef MOE_CPU_SIMD_INL_H
#else
#define MOE_CPU_SIMD_INL_H
#endif

#include "hwy/highway.h"
#include "kernels.hpp"
#if HWY_ARCH_X86
#include <immintrin.h>
#endif
#include "moe/sdk/numeric.hpp"

HWY_BEFORE_NAMESPACE();
namespace moe::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DU = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;
using DH = hn::Rebind<uint16_t, DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
inline constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
inline constexpr int kVectors = 16 / kLanes;  // that make sixteen lanes
inline constexpr int kRegisters = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON ? 32 : 16;

// Numbers in memory as f32 vectors.
template <int32_t kDtype>
struct Load;
template <>
struct Load<MOE_F32> {
  using T = float;
  static HWY_INLINE VF at(const T* p) { return hn::LoadU(DF(), p); }
};
template <>
struct Load<MOE_BF16> {
  using T = uint16_t;
  static HWY_INLINE VF at(const T* p) {
#if HWY_TARGET == HWY_AVX3  // a permutation takes each number to the upper half of its lane
    const __m512i to = _mm512_slli_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), 16);
    const __m512i from = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return VF{_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, to, from))};
#else
    return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), hn::LoadU(DH(), p))));
#endif
  }
};
// f16 by the processor's conversions where there are such; Highway's emulation of them does not round to nearest.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
HWY_INLINE VF load_f16(const uint16_t* p) {
  float x[kLanes];
  for (int i = 0; i < kLanes; ++i) x[i] = f16_to_f32(p[i]);
  return hn::LoadU(DF(), x);
}
HWY_INLINE void store_f16(VF v, uint16_t* out) {
  float x[kLanes];
  hn::StoreU(v, DF(), x);
  for (int i = 0; i < kLanes; ++i) out[i] = f32_to_f16(x[i]);
}
#else
HWY_INLINE VF load_f16(const uint16_t* p) {
  const hn::Rebind<hwy::float16_t, DF> d16;
  return hn::PromoteTo(DF(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}
HWY_INLINE void store_f16(VF v, uint16_t* out) {
  const hn::Rebind<hwy::float16_t, DF> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(out));
}
#endif
template <>
struct Load<MOE_F16> {
  using T = uint16_t;
  static HWY_INLINE VF at(const T* p) { return load_f16(p); }
};

// e^x to about 1 ulp; 0 below -87.3, infinity above 88.7, NaN for NaN. Range reduction by ln 2 in two parts (Cody and
// Waite), a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2].
HWY_INLINE VF exp(VF x) {
  const DF d;
  const VF n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504088896341F)));
  VF r = hn::NegMulAdd(n, hn::Set(d, 0.693359375F), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4F), r);
  VF p = hn::Set(d, 1.9875691500e-4F);
  p = hn::MulAdd(p, r, hn::Set(d, 1.3981999507e-3F));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3F));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2F));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1F));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1F));
  p = hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), hn::Set(d, 1.0F));
  // 2^n as a product of two powers, because n reaches 128.
  const DI di;
  const auto i = hn::NearestInt(hn::Min(hn::Max(n, hn::Set(d, -126.0F)), hn::Set(d, 128.0F)));
  const auto half = hn::ShiftRight<1>(i);
  const auto bias = hn::Set(di, 127);
  const VF scale = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const VF rest = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(i, half), bias)));
  VF y = hn::Mul(hn::Mul(p, scale), rest);
  y = hn::IfThenElse(hn::Lt(x, hn::Set(d, -87.33654F)), hn::Zero(d), y);
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, 88.72284F)), hn::Inf(d), y);
}

// tanh to a few ulp: a polynomial where 1 - 2 / (e^2x + 1) would cancel.
HWY_INLINE VF tanh(VF x) {
  const DF d;
  const VF one = hn::Set(d, 1.0F);
  const VF magnitude = hn::Abs(x);
  const VF e = exp(hn::Add(magnitude, magnitude));
  const VF large = hn::CopySign(hn::Sub(one, hn::Div(hn::Set(d, 2.0F), hn::Add(e, one))), x);
  const VF s = hn::Mul(x, x);
  VF p = hn::Set(d, -5.70498872745e-3F);
  p = hn::MulAdd(p, s, hn::Set(d, 2.06390887954e-2F));
  p = hn::MulAdd(p, s, hn::Set(d, -5.37397155531e-2F));
  p = hn::MulAdd(p, s, hn::Set(d, 1.33314422036e-1F));
  p = hn::MulAdd(p, s, hn::Set(d, -3.33332819422e-1F));
  const VF small = hn::MulAdd(hn::Mul(p, s), x, x);
  return hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0.625F)), small, large);
}

HWY_INLINE VF sigmoid(VF x) {
  const VF one = hn::Set(DF(), 1.0F);
  return hn::Div(one, hn::Add(one, exp(hn::Neg(x))));
}

// Lanes l, l + 4, l + 8, l + 12 are summed as (l + (l + 8)) + ((l + 4) + (l + 12)); the four sums s as (s0 + s2) + (s1
// + s3).
#if HWY_TARGET == HWY_SCALAR
struct V4 {
  float v[4];
};
HWY_INLINE V4 fold_to_4(const VF* v) {
  V4 s;
  for (int i = 0; i < 4; ++i) s.v[i] = (v[i].raw + v[i + 8].raw) + (v[i + 4].raw + v[i + 12].raw);
  return s;
}
HWY_INLINE float sum_of(V4 s) { return (s.v[0] + s.v[2]) + (s.v[1] + s.v[3]); }
HWY_INLINE V4 fold_four(V4 a, V4 b, V4 c, V4 d) { return {{sum_of(a), sum_of(b), sum_of(c), sum_of(d)}}; }
HWY_INLINE void store4(V4 s, float* p) {
  for (int i = 0; i < 4; ++i) p[i] = s.v[i];
}
HWY_INLINE float first4(V4 s) { return s.v[0]; }
#else
using D4 = hn::CappedTag<float, 4>;
using V4 = hn::Vec<D4>;

HWY_INLINE V4 fold_to_4(const VF* v) {
#if HWY_MAX_BYTES >= 64
  const hn::Half<DF> d8;
  const hn::Half<hn::Half<DF> > d4;
  const auto s8 = hn::Add(hn::LowerHalf(d8, v[0]), hn::UpperHalf(d8, v[0]));
  return hn::Add(hn::LowerHalf(d4, s8), hn::UpperHalf(d4, s8));
#elif HWY_MAX_BYTES >= 32
  const hn::Half<DF> d4;
  const auto s8 = hn::Add(v[0], v[1]);
  return hn::Add(hn::LowerHalf(d4, s8), hn::UpperHalf(d4, s8));
#else
  return hn::Add(hn::Add(v[0], v[2]), hn::Add(v[1], v[3]));
#endif
}
// The sums of four times sixteen lanes: lane i of the result belongs to the i-th.
HWY_INLINE V4 fold_four(V4 a, V4 b, V4 c, V4 d) {
  const D4 d4;
  const V4 ab = hn::Add(hn::ConcatLowerLower(d4, b, a), hn::ConcatUpperUpper(d4, b, a));  // a0+a2 a1+a3 b0+b2 b1+b3
  const V4 cd = hn::Add(hn::ConcatLowerLower(d4, d, c), hn::ConcatUpperUpper(d4, d, c));
  return hn::Add(hn::ConcatEven(d4, cd, ab), hn::ConcatOdd(d4, cd, ab));
}
HWY_INLINE void store4(V4 s, float* p) { hn::StoreU(s, D4(), p); }
HWY_INLINE float first4(V4 s) { return hn::GetLane(s); }
#endif
#if HWY_TARGET == HWY_AVX3
// Lane i of the result is the sum of v[i], in the order of fold_four.
HWY_INLINE VF fold_sixteen(const VF* v) {
  const auto halves = [](__m512 a, __m512 b) {  // blocks a0+a2 a1+a3 b0+b2 b1+b3, of four lanes each
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const auto quarters = [&](int l) {  // four sums each of v[l], v[l + 4], v[l + 8], v[l + 12]
    const __m512 a = halves(v[l].raw, v[l + 4].raw);
    const __m512 b = halves(v[l + 8].raw, v[l + 12].raw);
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  const auto pairs = [&](int l) {  // in each block s0+s2 s1+s3 of v[l + 4 block], then of v[l + 1 + 4 block]
    const __m512 a = quarters(l);
    const __m512 b = quarters(l + 1);
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
  };
  const __m512 a = pairs(0);
  const __m512 b = pairs(2);
  return VF{_mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd))};
}
#endif
HWY_INLINE float fold(const VF* v) {
  const V4 s = fold_to_4(v);
  return first4(fold_four(s, s, s, s));
}

// Calls f(offset, n) for the vectors of a row of n elements: n is kLanes, or less in the last, which goes through a
// buffer.
template <int32_t kDtype>
HWY_INLINE VF load_tail(const typename Load<kDtype>::T* p, int64_t n) {
  typename Load<kDtype>::T buffer[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return Load<kDtype>::at(buffer);
}
HWY_INLINE void store_tail(VF v, float* p, int64_t n) {
  float buffer[kLanes];
  hn::StoreU(v, DF(), buffer);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}
// out[i] = f(x[i], y[i]) for n elements; null inputs read as zero.
template <typename F>
HWY_INLINE void map(const float* x, const float* y, float* out, int64_t n, F&& f) {
  const DF d;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(f(hn::LoadU(d, x + i), y == nullptr ? hn::Zero(d) : hn::LoadU(d, y + i)), d, out + i);
  }
  if (i < n) {
    const VF b = y == nullptr ? hn::Zero(d) : load_tail<MOE_F32>(y + i, n - i);
    store_tail(f(load_tail<MOE_F32>(x + i, n - i), b), out + i, n - i);
  }
}

}  // namespace moe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
