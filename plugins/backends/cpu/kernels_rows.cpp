// Kernels that treat a row by itself: rounding, activations, sums, norms.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels_rows.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each instruction set
#include "hwy/highway.h"
#include "simd-inl.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels_table.hpp"
#include "moe/sdk/numeric.hpp"
#include "moe/sdk/quant.hpp"

HWY_BEFORE_NAMESPACE();
namespace moe::cpu::HWY_NAMESPACE {

void finish(const FinishArgs& args, const float* c, float* out, int64_t n) {
  const DF d;
  const VF scale = hn::Set(d, args.scale);
  const VF cap = hn::Set(d, args.soft_cap);
  const bool capped = args.soft_cap > 0.0F;
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    VF y = hn::LoadU(d, c + i);  // a block of sums is whole
    if (args.bias != nullptr) {
      y = hn::Add(y, left >= kLanes ? hn::LoadU(d, args.bias + i) : load_tail<MOE_F32>(args.bias + i, left));
    }
    y = hn::Mul(y, scale);
    if (args.accumulate) y = hn::Add(y, left >= kLanes ? hn::LoadU(d, out + i) : load_tail<MOE_F32>(out + i, left));
    if (capped) y = hn::Mul(cap, tanh(hn::Div(y, cap)));
    if (left >= kLanes) {
      hn::StoreU(y, d, out + i);
    } else {
      store_tail(y, out + i, left);
    }
  }
}

// The bits of bf16 in the low half of each lane; see moe/sdk/numeric.hpp.
HWY_INLINE VU bf16_bits(VF x) {
  const DU d;
  const VU bits = hn::BitCast(d, x);
  const VU high = hn::ShiftRight<16>(bits);
  const VU rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(d, 0x7fffU)), hn::And(high, hn::Set(d, 1U))));
  const auto is_nan = hn::RebindMask(d, hn::IsNaN(x));
  return hn::IfThenElse(is_nan, hn::Or(high, hn::Set(d, 0x40U)), rounded);
}

HWY_INLINE void store_bf16(VF x, uint16_t* out) { hn::StoreU(hn::TruncateTo(DH(), bf16_bits(x)), DH(), out); }

HWY_INLINE VF round_bf16(VF x) { return hn::BitCast(DF(), hn::ShiftLeft<16>(bf16_bits(x))); }

// The largest of |x|, and whether all are finite, of up to 32 elements; see moe::loops::round_i8_block.
void round_i8_block(const float* x, VF factor, int64_t n, float* out) {
  const DF d;
  float buffer[32] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = x[i];
  VF amax = hn::Zero(d);
  for (int i = 0; i < 32; i += kLanes) {
    const VF v = hn::Mul(factor, hn::LoadU(d, buffer + i));
    hn::StoreU(v, d, buffer + i);
  }
  bool finite = true;
  for (int i = 0; i < 32; i += kLanes) {
    const VF v = hn::LoadU(d, buffer + i);
    finite = finite && hn::AllTrue(d, hn::IsFinite(v));
    amax = hn::Max(amax, hn::Abs(v));
  }
  const float largest = hn::GetLane(hn::MaxOfLanes(d, amax));
  const float scale = largest / 127.0F;
  const VF s = hn::Set(d, scale);
  for (int i = 0; i < 32; i += kLanes) {
    VF v = hn::Zero(d);
    if (!finite) {
      v = hn::NaN(d);
    } else if (scale != 0.0F) {
      const VF q = hn::Round(hn::Div(hn::LoadU(d, buffer + i), s));
      v = hn::Mul(hn::Min(hn::Max(q, hn::Set(d, -127.0F)), hn::Set(d, 127.0F)), s);
    }
    hn::StoreU(v, d, buffer + i);
  }
  for (int64_t i = 0; i < n; ++i) out[i] = buffer[i];
}

using VI = hn::Vec<DI>;

inline constexpr int kGroupVectors = 2 * kVectors;  // that hold 32 numbers
struct Group {
  bool finite;
  float largest;  // |v|
};
// Up to 32 numbers times `factor`, filled up with zeros, to v. (Vectors are no members: a constructor that the compiler
// makes has not the instruction set that NEON's want.)
HWY_INLINE Group load_group(const float* x, VF factor, int64_t n, VF (&v)[kGroupVectors]) {
  const DF d;
  alignas(64) float padded[32] = {};
  if (n < 32) {
    std::copy_n(x, n, padded);
    x = padded;
  }
  Group g{true, 0.0F};
  VF largest = hn::Zero(d);
  for (int i = 0; i < kGroupVectors; ++i) {
    v[i] = hn::Mul(factor, hn::LoadU(d, x + i * kLanes));
    g.finite = g.finite && hn::AllTrue(d, hn::IsFinite(v[i]));
    largest = hn::Max(largest, hn::Abs(v[i]));
  }
  g.largest = hn::GetLane(hn::MaxOfLanes(d, largest));
  return g;
}

// v / scale to the nearest integers in [low, high]; zeros without a scale. See round_group in moe/sdk/quant.hpp.
HWY_INLINE void round_group(const Group& g, const VF (&v)[kGroupVectors], float scale, float low, float high,
                            VI (&q)[kGroupVectors]) {
  const DF d;
  const bool usable = g.finite && scale != 0.0F && std::isfinite(scale);
  const VF s = hn::Set(d, usable ? scale : 1.0F);
  for (int i = 0; i < kGroupVectors; ++i) {
    const VF rounded = hn::Round(hn::Div(usable ? v[i] : hn::Zero(d), s));
    q[i] = hn::NearestInt(hn::Min(hn::Max(rounded, hn::Set(d, low)), hn::Set(d, high)));
  }
}
HWY_INLINE void store_group(const VI (&q)[kGroupVectors], int8_t* out) {
  const hn::Rebind<int8_t, DF> d8;
  for (int i = 0; i < kGroupVectors; ++i) hn::StoreU(hn::DemoteTo(d8, q[i]), d8, out + i * kLanes);
}

// A group of up to 32 activations as integers; see quantize_activation in moe/sdk/quant.hpp. Gives their scale.
HWY_INLINE float round_activations(const float* x, VF factor, int64_t n, VI (&q)[kGroupVectors]) {
  VF v[kGroupVectors];
  const Group g = load_group(x, factor, n, v);
  const float scale = g.finite ? g.largest / 127.0F : NAN;
  round_group(g, v, scale, -127.0F, 127.0F, q);
  return scale;
}
void round_i8_group(const float* x, VF factor, int64_t n, int64_t group, I8Block& out) {
  const DI di;
  VI q[kGroupVectors];
  out.scale[group] = round_activations(x, factor, n, q);
  store_group(q, out.q + 32 * group);
  VI sum = hn::Zero(di);
  for (int i = 0; i < kGroupVectors; ++i) sum = hn::Add(sum, q[i]);
  out.minus_sum[group] = -hn::GetLane(hn::SumOfLanes(di, sum));
}

// The sum of (v - scale q)^2, in any order.
HWY_INLINE double squared_error(const VF (&numbers)[kGroupVectors], float scale, const VI (&q)[kGroupVectors]) {
  alignas(64) float v[32];
  alignas(64) float rounded[32];
  for (int i = 0; i < kGroupVectors; ++i) {
    hn::Store(numbers[i], DF(), v + i * kLanes);
    hn::Store(hn::ConvertTo(DF(), q[i]), DF(), rounded + i * kLanes);
  }
  constexpr int kSums = 8;
  double sums[kSums] = {};
  for (int i = 0; i < 32; i += kSums) {
    for (int j = 0; j < kSums; ++j) {
      const double difference = static_cast<double>(v[i + j]) - static_cast<double>(scale) * rounded[i + j];
      sums[j] += difference * difference;
    }
  }
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// moe::quantize_int8, moe::quantize_int4.
QuantGroup quantize_i8(const float* x, int64_t n) {
  VF v[kGroupVectors];
  const Group g = load_group(x, hn::Set(DF(), 1.0F), n, v);
  QuantGroup out;
  out.scale = g.finite ? quant_detail::as_f16(g.largest / 127.0F) : NAN;
  VI q[kGroupVectors];
  round_group(g, v, out.scale, -127.0F, 127.0F, q);
  store_group(q, out.q);
  return out;
}
QuantGroup quantize_i4(const float* x, int64_t n) {
  const DF d;
  VF v[kGroupVectors];
  const Group g = load_group(x, hn::Set(d, 1.0F), n, v);
  if (!g.finite || g.largest == 0.0F) return quantize_int4(x, n);
  const VF target = hn::Set(d, g.largest);
  intptr_t at = -1;
  int i = 0;
  while ((at = hn::FindFirstTrue(d, hn::Eq(hn::Abs(v[i]), target))) < 0) ++i;
  const float wide = quant_detail::as_f16(x[i * kLanes + at] / -8.0F);
  const float even = quant_detail::as_f16(g.largest / 7.0F);
  VI wide_q[kGroupVectors];
  VI even_q[kGroupVectors];
  round_group(g, v, wide, -8.0F, 7.0F, wide_q);
  round_group(g, v, even, -8.0F, 7.0F, even_q);
  const double wide_error = squared_error(v, wide, wide_q);
  const double even_error = squared_error(v, even, even_q);
  // The order of 32 additions changes a sum by less than 2^-47 of it: where that might decide, their own order does.
  if (std::fabs(even_error - wide_error) <= 0x1p-44 * (even_error + wide_error)) return quantize_int4(x, n);
  QuantGroup out;
  out.scale = even_error < wide_error ? even : wide;
  store_group(even_error < wide_error ? even_q : wide_q, out.q);
  return out;
}

void round_to_i8(const float* x, VF factor, int64_t first, int64_t n, int64_t total, I8Block* out) {
  int64_t group = first / 32;
  for (int64_t i = 0; i < n; i += 32, ++group) {
    round_i8_group(x + i, factor, HWY_MIN(n - i, 32), group % 2, out[group / 2]);
  }
  if (first + n == total && group % 2 != 0) round_i8_group(x, factor, 0, 1, out[group / 2]);
}

void round_to_tile(const float* x, float factor, int64_t first, int64_t n, int64_t total, I8Tile* out, int64_t slot) {
  const VF f = hn::Set(DF(), factor);
  VI q[kGroupVectors];
  I8Tile* to = out + first / 32;
  for (int64_t i = 0; i < n; i += 32, ++to) {
    to->scale[slot] = round_activations(x + i, f, HWY_MIN(n - i, 32), q);
    store_group(q, to->q[slot]);
  }
  if (first + n < total || (to - out) % 2 == 0) return;
  to->scale[slot] = 0.0F;
  std::fill_n(to->q[slot], 32, int8_t{0});
}

void round_row(moe_activation_type type, RowType as, const float* x, float factor, int64_t first, int64_t n,
               int64_t total, void* out) {
  const DF d;
  const VF scale = hn::Set(d, factor);
  if (as == RowType::kI8) return round_to_i8(x, scale, first, n, total, static_cast<I8Block*>(out));
  if (as == RowType::kBF16) {
    auto* to = static_cast<uint16_t*>(out) + first;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store_bf16(hn::Mul(scale, hn::LoadU(d, x + i)), to + i);
    for (; i < n; ++i) to[i] = f32_to_bf16(factor * x[i]);
    if (first + n == total && n % 2 != 0) to[n] = 0;
    return;
  }
  auto* to = static_cast<float*>(out) + first;
  switch (type) {
    case MOE_BF16:
      map(x, nullptr, to, n, [&](VF a, VF) { return round_bf16(hn::Mul(scale, a)); });
      return;
    case MOE_F16:
      map(x, nullptr, to, n, [&](VF a, VF) {
        uint16_t half[kLanes];
        store_f16(hn::Mul(scale, a), half);
        return load_f16(half);
      });
      return;
    case MOE_I8:
      for (int64_t i = 0; i < n; i += 32) round_i8_block(x + i, scale, HWY_MIN(n - i, 32), to + i);
      return;
    default:
      map(x, nullptr, to, n, [&](VF a, VF) { return hn::Mul(scale, a); });
  }
}

// act(g): see moe::loops::activate. Comparisons keep NaN.
HWY_INLINE VF relu(VF g) { return hn::IfThenElse(hn::Lt(g, hn::Zero(DF())), hn::Zero(DF()), g); }
HWY_INLINE VF gelu_tanh(VF g) {
  const DF d;
  const VF cube = hn::Mul(hn::Mul(g, g), g);
  const VF inner = hn::Mul(hn::Set(d, 0.797884560802865356F), hn::MulAdd(hn::Set(d, 0.044715F), cube, g));
  // 1 + tanh(z) = 2 sigma(2 z): no cancellation where g is far below zero.
  return hn::Mul(g, sigmoid(hn::Add(inner, inner)));
}
// Exact by the C library, one element after the other: few models use it.
HWY_INLINE VF gelu(VF g) {
  float x[kLanes];
  hn::StoreU(g, DF(), x);
  for (float& v : x) v = static_cast<float>(0.5 * v * std::erfc(-static_cast<double>(v) * 0.70710678118654752440));
  return hn::LoadU(DF(), x);
}
HWY_INLINE VF at_most(VF x, VF limit) { return hn::IfThenElse(hn::Gt(x, limit), limit, x); }
HWY_INLINE VF at_least(VF x, VF limit) { return hn::IfThenElse(hn::Lt(x, limit), limit, x); }

template <typename Act>
HWY_INLINE void activate_with(const moe_gating& gating, const float* gate, const float* up, float* out, int64_t n,
                              Act&& act) {
  const DF d;
  const VF limit = hn::Set(d, gating.limit);
  const bool limited = gating.limit > 0.0F;
  const bool gated = gating.ungated == 0;
  map(gate, gated ? up : nullptr, out, n, [&](VF g, VF u) {
    VF y = act(g);
    if (limited) {
      y = at_most(y, limit);
      u = at_least(at_most(u, limit), hn::Neg(limit));
    }
    return gated ? hn::Mul(y, u) : y;
  });
}

void activate(const moe_gating& gating, const float* gate, const float* up, float* out, int64_t n) {
  const DF d;
  switch (gating.kind) {
    case MOE_ACT_SILU:
      return activate_with(gating, gate, up, out, n,
                           [](VF g) { return hn::Div(g, hn::Add(hn::Set(DF(), 1.0F), exp(hn::Neg(g)))); });
    case MOE_ACT_GELU:
      return activate_with(gating, gate, up, out, n, [](VF g) { return gelu(g); });
    case MOE_ACT_GELU_TANH:
      return activate_with(gating, gate, up, out, n, [](VF g) { return gelu_tanh(g); });
    case MOE_ACT_RELU:
      return activate_with(gating, gate, up, out, n, [](VF g) { return relu(g); });
    case MOE_ACT_RELU2:
      return activate_with(gating, gate, up, out, n, [](VF g) { return hn::Mul(relu(g), relu(g)); });
    default: {  // MOE_ACT_SWIGLU_CLAMPED
      const VF limit = hn::Set(d, gating.limit);
      const VF alpha = hn::Set(d, gating.alpha);
      const bool gated = gating.ungated == 0;
      map(gate, gated ? up : nullptr, out, n, [&](VF g, VF u) {
        g = at_most(g, limit);
        u = at_least(at_most(u, limit), hn::Neg(limit));
        const VF y = hn::Mul(g, sigmoid(hn::Mul(alpha, g)));
        return gated ? hn::Mul(hn::Add(u, hn::Set(DF(), 1.0F)), y) : y;
      });
    }
  }
}

void add(float alpha, const float* x, float beta, const float* y, float* out, int64_t n) {
  const VF a = hn::Set(DF(), alpha);
  const VF b = hn::Set(DF(), beta);
  if (y == nullptr) return map(x, nullptr, out, n, [&](VF p, VF) { return hn::Mul(a, p); });
  map(x, y, out, n, [&](VF p, VF q) { return hn::MulAdd(a, p, hn::Mul(b, q)); });
}

void axpy(float a, const float* x, float* y, int64_t n) {
  const VF factor = hn::Set(DF(), a);
  map(x, y, y, n, [&](VF p, VF q) { return hn::MulAdd(factor, p, q); });
}

// The sum of (x - middle)^power in sixteen lanes, then in one fixed order.
template <int kPower>
float sum(const float* x, int64_t n, float middle) {
  const DF d;
  const VF m = hn::Set(d, middle);
  VF acc[kVectors];
  for (int v = 0; v < kVectors; ++v) acc[v] = hn::Zero(d);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int v = 0; v < kVectors; ++v) {
      const VF c = hn::Sub(hn::LoadU(d, x + i + v * kLanes), m);
      acc[v] = kPower == 1 ? hn::Add(acc[v], c) : hn::MulAdd(c, c, acc[v]);
    }
  }
  if (i < n) {
    float rest[16];
    for (int64_t j = 0; j < 16; ++j) rest[j] = i + j < n ? x[i + j] - middle : 0.0F;
    for (int v = 0; v < kVectors; ++v) {
      const VF c = hn::LoadU(d, rest + v * kLanes);
      acc[v] = kPower == 1 ? hn::Add(acc[v], c) : hn::MulAdd(c, c, acc[v]);
    }
  }
  return fold(acc);
}

void norm(const moe_norm_args& args, float* x, const float* residual, float* out, int64_t n) {
  const DF d;
  if (residual != nullptr) map(x, residual, x, n, [](VF a, VF b) { return hn::Add(a, b); });
  const auto count = static_cast<float>(n);
  float mean = 0.0F;
  if (args.kind == MOE_NORM_LAYER) mean = sum<1>(x, n, 0.0F) / count;
  const VF middle = hn::Set(d, mean);
  const float squares = sum<2>(x, n, mean);
  const VF inverse = hn::Set(d, static_cast<float>(1.0 / std::sqrt(static_cast<double>(squares / count) + args.eps)));
  const auto* weight = static_cast<const float*>(args.weight.data);
  const auto* bias = static_cast<const float*>(args.bias.data);
  const VF one = hn::Set(d, 1.0F);
  if (weight == nullptr) {
    map(x, nullptr, out, n, [&](VF a, VF) { return hn::Mul(hn::Sub(a, middle), inverse); });
  } else {
    map(x, weight, out, n, [&](VF a, VF w) { return hn::Mul(hn::Mul(hn::Sub(a, middle), inverse), w); });
  }
  if (bias != nullptr) map(out, bias, out, n, [&](VF a, VF b) { return hn::MulAdd(a, one, b); });
}

void rotate(const float* x, float* out, const double* cosine, const double* sine, int64_t half, bool interleaved) {
  const int64_t step = interleaved ? 2 : 1;
  const int64_t second = interleaved ? 1 : half;
  for (int64_t i = 0; i < half; ++i) {
    const double a = x[i * step];
    const double b = x[i * step + second];
    out[i * step] = static_cast<float>(a * cosine[i] - b * sine[i]);
    out[i * step + second] = static_cast<float>(a * sine[i] + b * cosine[i]);
  }
}

void narrow(int32_t dtype, const float* x, void* out, int64_t n) {
  const DF d;
  if (dtype == MOE_F32) {
    std::memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  auto* to = static_cast<uint16_t*>(out);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = hn::LoadU(d, x + i);
    if (dtype == MOE_BF16) {
      store_bf16(v, to + i);
    } else {
      store_f16(v, to + i);
    }
  }
  for (; i < n; ++i) to[i] = dtype == MOE_BF16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
}

template <int32_t kDtype>
void widen_as(const void* x, float* out, int64_t n) {
  const auto* from = static_cast<const typename Load<kDtype>::T*>(x);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) hn::StoreU(Load<kDtype>::at(from + i), DF(), out + i);
  if (i < n) store_tail(load_tail<kDtype>(from + i, n - i), out + i, n - i);
}
void widen(int32_t dtype, const void* x, float* out, int64_t n) {
  if (dtype == MOE_F32) return widen_as<MOE_F32>(x, out, n);
  if (dtype == MOE_BF16) return widen_as<MOE_BF16>(x, out, n);
  widen_as<MOE_F16>(x, out, n);
}

// First the largest value, then where it first is.
int32_t argmax(const float* x, int64_t n) {
  const DF d;
  if (n == 0) return -1;
  VF largest = hn::Set(d, x[0]);
  int64_t i = 0;
  auto nan = hn::IsNaN(largest);
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = hn::LoadU(d, x + i);
    nan = hn::Or(nan, hn::IsNaN(v));
    largest = hn::Max(largest, v);
  }
  // Not MaxOfLanes: Highway's emulated one starts at the lowest finite number and misses a row of minus infinities.
  float lanes[kLanes];
  hn::StoreU(largest, d, lanes);
  float best = *std::max_element(lanes, lanes + kLanes);
  bool has_nan = !hn::AllFalse(d, nan);
  for (; i < n; ++i) {
    has_nan = has_nan || x[i] != x[i];
    best = x[i] > best ? x[i] : best;
  }
  if (has_nan || std::isinf(best)) return -1;  // of +inf, or of nothing but -inf
  const VF target = hn::Set(d, best);
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const intptr_t at = hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, x + i), target));
    if (at >= 0) return static_cast<int32_t>(i + at);
  }
  for (; i < n; ++i) {
    if (x[i] == best) return static_cast<int32_t>(i);
  }
  return -1;
}

void fill_rows(Kernels& k) {
  k.finish = finish;
  k.round = round_row;
  k.round_to_tile = round_to_tile;
  k.quantize_int8 = quantize_i8;
  k.quantize_int4 = quantize_i4;
  k.activate = activate;
  k.add = add;
  k.axpy = axpy;
  k.norm = norm;
  k.rotate = rotate;
  k.narrow = narrow;
  k.widen = widen;
  k.argmax = argmax;
}

}  // namespace moe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
