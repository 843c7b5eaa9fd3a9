// Kernels of attention over one block of positions: scores, softmax, mix of values.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels_attention.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each instruction set
#include "hwy/highway.h"
#include "simd-inl.h"

#include <cmath>

#include "kernels_table.hpp"

HWY_BEFORE_NAMESPACE();
namespace moe::cpu::HWY_NAMESPACE {

// Dot products that are accumulated beside each other: sixteen where sixteen lanes are one register, else four.
inline constexpr int kDots = kVectors == 1 ? 16 : 4;

// kQ queries by kP positions. A score is summed in sixteen lanes over the dimension, then in the fixed order of
// fold_four, whatever kQ and kP are.
template <int32_t kDtype, int kQ, int kP>
HWY_INLINE void score_tile(const float* const* q, const void* const* rows, int64_t dim, float* scores) {
  using T = typename Load<kDtype>::T;
  const DF d;
  VF acc[kQ * kP][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kQ * kP; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[i][v] = hn::Zero(d);
  }
  const auto step = [&](int64_t c, auto&& load) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      VF query[kQ];
#pragma GCC unroll 4
      for (int i = 0; i < kQ; ++i) query[i] = hn::LoadU(d, q[i] + c + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < kP; ++p) {
        const VF key = load(static_cast<const T*>(rows[p]) + c + v * kLanes, c + v * kLanes);
#pragma GCC unroll 4
        for (int i = 0; i < kQ; ++i) acc[i * kP + p][v] = hn::MulAdd(query[i], key, acc[i * kP + p][v]);
      }
    }
  };
  int64_t c = 0;
  for (; c + 16 <= dim; c += 16) step(c, [](const T* p, int64_t) { return Load<kDtype>::at(p); });
  if (c < dim) {
    step(c, [dim](const T* p, int64_t at) { return load_tail<kDtype>(p, HWY_MIN(HWY_MAX(dim - at, 0), kLanes)); });
  }
#if HWY_TARGET == HWY_AVX3
  static_assert(kQ * kP == 16);
  const hn::CappedTag<float, kP> row;
  alignas(64) float sums[16];
  hn::Store(fold_sixteen(acc[0]), d, sums);
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i) hn::StoreU(hn::Load(row, sums + i * kP), row, scores + i * kScoreStride);
#else
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < kP; p += 4) {
      VF(*a)[kVectors] = acc + i * kP + p;
      store4(fold_four(fold_to_4(a[0]), fold_to_4(a[1]), fold_to_4(a[2]), fold_to_4(a[3])),
             scores + i * kScoreStride + p);
    }
  }
#endif
}

// Rows of the cache lie apart, and the processor's own prefetching does not jump from one to the next: those that come
// in a moment are asked for while the ones before them are at work.
template <int32_t kDtype>
HWY_INLINE void prefetch_row(const void* row, int64_t dim) {
  const char* p = static_cast<const char*>(row);
  const int64_t n_bytes = dim * static_cast<int64_t>(sizeof(typename Load<kDtype>::T));
  for (int64_t b = 0; b < n_bytes; b += 64) __builtin_prefetch(p + b);
}
inline constexpr int64_t kRowsAhead = 16;

template <int32_t kDtype, int kQ, int kP>
HWY_INLINE void score_rows(const ScoreArgs& a, int64_t i) {
  for (int64_t p = 0; p < a.n_positions; p += kP) {
    if (i == 0) {
      for (int64_t next = p + kRowsAhead; next < HWY_MIN(p + kRowsAhead + kP, a.n_positions); ++next) {
        prefetch_row<kDtype>(a.rows[next], a.dim);
      }
    }
    score_tile<kDtype, kQ, kP>(a.q + i, a.rows + p, a.dim, a.scores + i * kScoreStride + p);
  }
}
template <int32_t kDtype>
void score_as(const ScoreArgs& a) {
  int64_t i = 0;
  if constexpr (kDots == 16) {
    for (; i + 4 <= a.n_queries; i += 4) score_rows<kDtype, 4, 4>(a, i);
    for (; i + 2 <= a.n_queries; i += 2) score_rows<kDtype, 2, 8>(a, i);
  }
  for (; i < a.n_queries; ++i) score_rows<kDtype, 1, kDots>(a, i);
}
void score(const ScoreArgs& args) {
  if (args.dtype == MOE_F32) return score_as<MOE_F32>(args);
  if (args.dtype == MOE_BF16) return score_as<MOE_BF16>(args);
  score_as<MOE_F16>(args);
}

float exp_one(float x) { return hn::GetLane(exp(hn::Set(DF(), x))); }

float softmax(float* scores, int64_t first, int64_t last, float scale, float soft_cap, Softmax& state) {
  const DF d;
  const VF factor = hn::Set(d, scale);
  const VF cap = hn::Set(d, soft_cap);
  const VF lowest = hn::Neg(hn::Inf(d));
  const int64_t end = (last + 15) / 16 * 16;
  const int64_t begin = first / 16 * 16;
  VF largest = lowest;
  auto nan = hn::IsNaN(lowest);
  for (int64_t p = begin; p < end; p += kLanes) {
    VF s = hn::Mul(hn::LoadU(d, scores + p), factor);
    if (soft_cap > 0.0F) s = hn::Mul(cap, tanh(hn::Div(s, cap)));
    if (p + kLanes > last) s = hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(HWY_MAX(last - p, 0))), s, lowest);
    if (p < first) s = hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(HWY_MIN(first - p, kLanes))), lowest, s);
    hn::StoreU(s, d, scores + p);
    nan = hn::Or(nan, hn::IsNaN(s));
    largest = hn::Max(largest, s);
  }
  float top = HWY_MAX(state.largest, hn::GetLane(hn::MaxOfLanes(d, largest)));
  if (!hn::AllFalse(d, nan)) top = NAN;  // a NaN shows in everything
  if (top == -HUGE_VALF) {               // every score is -inf: nothing is added
    for (int64_t p = begin; p < end; ++p) scores[p] = 0.0F;
    return 1.0F;
  }
  const VF center = hn::Set(d, top);
  VF sum[kVectors];
  for (int v = 0; v < kVectors; ++v) sum[v] = hn::Zero(d);
  for (int64_t p = begin; p < end; p += 16) {
    for (int v = 0; v < kVectors; ++v) {
      const VF e = exp(hn::Sub(hn::LoadU(d, scores + p + v * kLanes), center));
      hn::StoreU(e, d, scores + p + v * kLanes);
      sum[v] = hn::Add(sum[v], e);
    }
  }
  const float shrink = exp_one(state.largest - top);
  state.sum = state.sum * shrink + fold(sum);
  state.largest = top;
  return shrink;
}

// kQ queries, sixteen times kC columns, positions [first, last).
template <int32_t kDtype, int kQ, int kC>
HWY_INLINE void mix_tile(const float* scores, const void* const* rows, int64_t first, int64_t last, int64_t column,
                         float* o, int64_t o_stride) {
  using T = typename Load<kDtype>::T;
  const DF d;
  constexpr int kN = kC * kVectors;
  VF acc[kQ][kN];
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kN; ++c) acc[i][c] = hn::LoadU(d, o + i * o_stride + column + c * kLanes);
  }
  for (int64_t p = first; p < last; ++p) {
    const T* row = static_cast<const T*>(rows[p]) + column;
    if (p + kRowsAhead < last) prefetch_row<kDtype>(static_cast<const T*>(rows[p + kRowsAhead]) + column, 16 * kC);
    VF value[kN];
#pragma GCC unroll 16
    for (int c = 0; c < kN; ++c) value[c] = Load<kDtype>::at(row + c * kLanes);
#pragma GCC unroll 4
    for (int i = 0; i < kQ; ++i) {
      const VF a = hn::Set(d, scores[i * kScoreStride + p]);
#pragma GCC unroll 16
      for (int c = 0; c < kN; ++c) acc[i][c] = hn::MulAdd(a, value[c], acc[i][c]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kN; ++c) hn::StoreU(acc[i][c], d, o + i * o_stride + column + c * kLanes);
  }
}

template <int32_t kDtype, int kQ>
void mix_columns(const MixArgs& a, int64_t i) {
  constexpr int kWide = kVectors == 1 ? 4 : (kVectors == 2 && kQ == 1 ? 4 : 1);
  const float* scores = a.scores + i * kScoreStride;
  float* o = a.o + i * a.o_stride;
  int64_t c = 0;
  for (; c + 16 * kWide <= a.dim; c += 16 * kWide)
    mix_tile<kDtype, kQ, kWide>(scores, a.rows, a.first, a.last, c, o, a.o_stride);
  for (; c + 16 <= a.dim; c += 16) mix_tile<kDtype, kQ, 1>(scores, a.rows, a.first, a.last, c, o, a.o_stride);
  if (c == a.dim) return;
  using T = typename Load<kDtype>::T;
  for (int q = 0; q < kQ; ++q) {
    for (int64_t p = a.first; p < a.last; ++p) {
      const T* row = static_cast<const T*>(a.rows[p]);
      const VF weight = hn::Set(DF(), scores[q * kScoreStride + p]);
      for (int64_t t = c; t < a.dim; t += kLanes) {
        const int64_t n = HWY_MIN(a.dim - t, kLanes);
        float* to = o + q * a.o_stride + t;  // rows of o are whole multiples of 16
        hn::StoreU(hn::MulAdd(weight, load_tail<kDtype>(row + t, n), hn::LoadU(DF(), to)), DF(), to);
      }
    }
  }
}
template <int32_t kDtype>
void mix_as(const MixArgs& a) {
  int64_t i = 0;
  for (; i + 4 <= a.n_queries; i += 4) mix_columns<kDtype, 4>(a, i);
  for (; i + 2 <= a.n_queries; i += 2) mix_columns<kDtype, 2>(a, i);
  for (; i < a.n_queries; ++i) mix_columns<kDtype, 1>(a, i);
}
void mix(const MixArgs& args) {
  if (args.dtype == MOE_F32) return mix_as<MOE_F32>(args);
  if (args.dtype == MOE_BF16) return mix_as<MOE_BF16>(args);
  mix_as<MOE_F16>(args);
}

void blend(float a, float* o, float b, const float* p, int64_t n) {
  const VF x = hn::Set(DF(), a);
  const VF y = hn::Set(DF(), b);
  if (p == nullptr) return map(o, nullptr, o, n, [&](VF v, VF) { return hn::Mul(x, v); });
  map(o, p, o, n, [&](VF v, VF w) { return hn::MulAdd(x, v, hn::Mul(y, w)); });
}

void fill_attention(Kernels& k) {
  k.score = score;
  k.softmax = softmax;
  k.mix = mix;
  k.blend = blend;
  k.exp = exp_one;
}

}  // namespace moe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
