// Kernels of attention over one block of positions: scores, softmax, mix of values.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels_attention.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each instruction set
#include "hwy/highway.h"
#include "simd-inl.h"

#include <cmath>
#include <limits>

#include "kernels_table.hpp"

HWY_BEFORE_NAMESPACE();
namespace moe::cpu::HWY_NAMESPACE {

// Dot products that are accumulated beside each other: sixteen where sixteen lanes are one register, else four.
inline constexpr int kDots = kVectors == 1 ? 16 : 4;

// Rows of keys and values are asked for about this many bytes before their turn. The rows of a head lie one after the
// other, and the second-level cache runs ahead of a stream by itself within a page of 4 KiB: who asks within the page
// goes along with it, who asks beyond it is in its way (on a Xeon with AMX 16 GB/s a core at 2 KiB, 10 at 4 KiB).
inline constexpr int64_t kBytesAhead = 2048;
inline constexpr int64_t kLeastAhead = 4;  // rows: as many as go through the dimension together

// What to ask for while rows [first, last) are at work: those further on, then those that are read after the last. Line
// by line between the products, since what is asked for at once waits in line, and after it memory is idle.
class Ahead {
 public:
  Ahead(const void* const* rows, int64_t first, int64_t last, int64_t n_bytes, const RowsNext& next, bool asks)
      : rows_(rows),
        last_(last),
        n_bytes_(n_bytes),
        n_rows_(HWY_MIN(HWY_MAX(kBytesAhead / HWY_MAX(n_bytes, 1), kLeastAhead), kRowsAhead)),
        next_(next) {
    go_to(asks ? first + n_rows_ : std::numeric_limits<int64_t>::max());
  }
  // The rows that stand in for those before `last`: nothing beyond them is asked for yet.
  HWY_INLINE void begin(int64_t last) { end_ = HWY_MIN(last, last_) + n_rows_; }
  // The lines that stand in for some bytes.
  HWY_INLINE void ask(int64_t n_bytes) {
    for (int64_t i = 0; i < n_bytes; i += 64) {
      if (row_ >= end_) return;
      __builtin_prefetch(at_);
      at_ += 64;
      if (at_ >= stop_) go_to(row_ + 1);
    }
  }
  // All of them that are left.
  HWY_INLINE void finish() {
    while (row_ < end_) ask(64);
  }

 private:
  HWY_INLINE void go_to(int64_t row) {
    row_ = row;
    if (row < last_) {
      at_ = static_cast<const char*>(rows_[row]);
      stop_ = at_ + n_bytes_;
    } else if (row - last_ < next_.n) {
      at_ = static_cast<const char*>(next_.rows[row - last_]);
      stop_ = at_ + next_.n_bytes;
    } else {
      row_ = std::numeric_limits<int64_t>::max();
    }
  }

  const void* const* rows_;
  const int64_t last_;
  const int64_t n_bytes_;
  const int64_t n_rows_;
  const RowsNext& next_;
  int64_t row_ = 0;  // of which lines are asked for
  int64_t end_ = 0;
  const char* at_ = nullptr;
  const char* stop_ = nullptr;
};

// Sums of queries i0 .. i0 + kQ - 1 by positions p0 .. p0 + kP - 1, each of sixteen lanes, become scores: in the order
// of fold_four, whatever kQ and kP are.
template <int kQ, int kP>
HWY_INLINE void store_scores(VF (*acc)[kVectors], float* scores) {
#if HWY_TARGET == HWY_AVX3
  static_assert(kQ * kP == 16);
  const hn::CappedTag<float, kP> row;
  alignas(64) float sums[16];
  hn::Store(fold_sixteen(acc[0]), DF(), sums);
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i) hn::StoreU(hn::Load(row, sums + i * kP), row, scores + i * kScoreStride);
#else
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < kP; p += 4) {
      VF(*four)[kVectors] = acc + i * kP + p;
      store4(fold_four(fold_to_4(four[0]), fold_to_4(four[1]), fold_to_4(four[2]), fold_to_4(four[3])),
             scores + i * kScoreStride + p);
    }
  }
#endif
}

// Queries from i0 on by positions from p0 on, kQ by kP, which go through the dimension together. The first queries of
// a call ask for rows ahead.
template <int32_t kDtype, int kQ, int kP>
HWY_INLINE void score_tile(const ScoreArgs& a, int64_t i0, int64_t p0, Ahead& ahead) {
  using T = typename Load<kDtype>::T;
  const DF d;
  const int64_t dim = a.dim;
  const float* const* q = a.q + i0;
  const void* const* rows = a.rows + p0;
  const bool asks = i0 == 0;
  if (asks) ahead.begin(p0 + kP);
  VF sum[kQ * kP][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kQ * kP; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[i][v] = hn::Zero(d);
  }
  const auto step = [&](int64_t c, auto&& load) {
    if (asks) ahead.ask(kP * 16 * static_cast<int64_t>(sizeof(T)));
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      VF query[kQ];
#pragma GCC unroll 4
      for (int i = 0; i < kQ; ++i) query[i] = hn::LoadU(d, q[i] + c + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < kP; ++p) {
        const VF key = load(static_cast<const T*>(rows[p]) + c + v * kLanes, c + v * kLanes);
#pragma GCC unroll 4
        for (int i = 0; i < kQ; ++i) sum[i * kP + p][v] = hn::MulAdd(query[i], key, sum[i * kP + p][v]);
      }
    }
  };
  int64_t c = 0;
  for (; c + 16 <= dim; c += 16) step(c, [](const T* p, int64_t) { return Load<kDtype>::at(p); });
  if (c < dim) {
    step(c, [dim](const T* p, int64_t at) { return load_tail<kDtype>(p, HWY_MIN(HWY_MAX(dim - at, 0), kLanes)); });
  }
  if (asks) ahead.finish();
  store_scores<kQ, kP>(sum, a.scores + i0 * kScoreStride + p0);
}

// The same for few queries, row after row: memory is read in its order. kN: the sixteens of the dimension, so few that
// the queries stay in registers; 0 where they do not, then it may ask ahead.
template <int32_t kDtype, int kQ, int kP, int kN>
HWY_INLINE void score_rows(const ScoreArgs& a, int64_t i0, int64_t p0, Ahead& ahead) {
  using T = typename Load<kDtype>::T;
  const DF d;
  const int64_t dim = kN > 0 ? 16 * kN : a.dim;
  const bool asks = kN == 0 && i0 == 0 && a.asks;
  VF acc[kQ * kP][kVectors];
  const auto row = [&](int r) {
    const T* keys = static_cast<const T*>(a.rows[p0 + r]);
    if (asks) {
      ahead.begin(p0 + r + 1);
      ahead.finish();
    }
    VF sum[kQ][kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = hn::Zero(d);
    }
    const auto step = [&](int64_t c, auto&& load) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const VF key = load(keys + c + v * kLanes, c + v * kLanes);
#pragma GCC unroll 4
        for (int i = 0; i < kQ; ++i) {
          sum[i][v] = hn::MulAdd(hn::LoadU(d, a.q[i0 + i] + c + v * kLanes), key, sum[i][v]);
        }
      }
    };
    const auto whole = [](const T* p, int64_t) { return Load<kDtype>::at(p); };
    int64_t c = 0;
    if constexpr (kN > 0) {
#pragma GCC unroll 16
      for (int n = 0; n < kN; ++n) step(16 * n, whole);
    } else {
      for (; c + 64 <= dim; c += 64) {
#pragma GCC unroll 4
        for (int64_t part = 0; part < 64; part += 16) step(c + part, whole);
      }
      for (; c + 16 <= dim; c += 16) step(c, whole);
      if (c < dim) {
        step(c, [dim](const T* p, int64_t at) { return load_tail<kDtype>(p, HWY_MIN(HWY_MAX(dim - at, 0), kLanes)); });
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i * kP + r][v] = sum[i][v];
    }
  };
  if constexpr (kN > 0) {
#pragma GCC unroll 16
    for (int r = 0; r < kP; ++r) row(r);
  } else {
    for (int r = 0; r < kP; ++r) row(r);
  }
  store_scores<kQ, kP>(acc, a.scores + i0 * kScoreStride + p0);
}

// Rows that all queries go through before the next ones: they stay in the first-level cache, and memory is read on.
// Not where the queries' own rows of `dim` numbers fill that cache.
inline constexpr int64_t kPart = 16;
constexpr int64_t rows_of_part(int64_t n_queries, int64_t dim, int64_t n_rows) {
  return n_queries * dim <= 4096 ? kPart : n_rows;
}

template <int32_t kDtype, int kQ, int kP, int kN>
void few_part(const ScoreArgs& a, int64_t i, int64_t first, int64_t last, Ahead& ahead) {
  for (int64_t p = first; p < last; p += kP) score_rows<kDtype, kQ, kP, kN>(a, i, p, ahead);
}
template <int32_t kDtype, int kQ, int kP>
HWY_INLINE void score_part(const ScoreArgs& a, int64_t i, int64_t first, int64_t last, Ahead& ahead) {
  const bool asks = i == 0 && a.asks;
  if constexpr (kQ <= kFewQueries) {
    if (kVectors == 1 && a.dim == 64 && !asks) return few_part<kDtype, kQ, kP, 4>(a, i, first, last, ahead);
    if (kVectors == 1 && a.dim == 128 && !asks) return few_part<kDtype, kQ, kP, 8>(a, i, first, last, ahead);
    if (kQ == 1 || !asks) return few_part<kDtype, kQ, kP, 0>(a, i, first, last, ahead);
  }
  if constexpr (kQ > 1) {
    for (int64_t p = first; p < last; p += kP) score_tile<kDtype, kQ, kP>(a, i, p, ahead);
  }
}
template <int32_t kDtype>
void score_as(const ScoreArgs& a) {
  Ahead ahead(a.rows, 0, a.n_positions, a.dim * static_cast<int64_t>(sizeof(typename Load<kDtype>::T)), a.next, a.asks);
  const int64_t rows = rows_of_part(a.n_queries, a.dim, a.n_positions);
  for (int64_t p = 0; p < a.n_positions; p += rows) {
    const int64_t last = HWY_MIN(p + rows, a.n_positions);
    int64_t i = 0;
    if constexpr (kDots == 16) {
      for (; i + 4 <= a.n_queries; i += 4) score_part<kDtype, 4, 4>(a, i, p, last, ahead);
      for (; i + 2 <= a.n_queries; i += 2) score_part<kDtype, 2, 8>(a, i, p, last, ahead);
    }
    for (; i < a.n_queries; ++i) score_part<kDtype, 1, kDots>(a, i, p, last, ahead);
  }
}
void score(const ScoreArgs& args) {
  if (args.dtype == MOE_F32) return score_as<MOE_F32>(args);
  if (args.dtype == MOE_BF16) return score_as<MOE_BF16>(args);
  score_as<MOE_F16>(args);
}

float exp_one(float x) { return hn::GetLane(exp(hn::Set(DF(), x))); }

// Scales and caps the scores in a range and puts -inf around them; the largest, NaN if one is NaN.
HWY_INLINE float scale_scores(float* scores, const Range& range, float scale, float soft_cap) {
  const DF d;
  const VF factor = hn::Set(d, scale);
  const VF cap = hn::Set(d, soft_cap);
  const VF lowest = hn::Neg(hn::Inf(d));
  const int64_t end = (range.last + 15) / 16 * 16;
  VF largest = lowest;
  auto nan = hn::IsNaN(lowest);
  for (int64_t p = range.first / 16 * 16; p < end; p += kLanes) {
    VF s = hn::Mul(hn::LoadU(d, scores + p), factor);
    if (soft_cap > 0.0F) s = hn::Mul(cap, tanh(hn::Div(s, cap)));
    if (p + kLanes > range.last) {
      s = hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(HWY_MAX(range.last - p, 0))), s, lowest);
    }
    if (p < range.first) {
      s = hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(HWY_MIN(range.first - p, kLanes))), lowest, s);
    }
    hn::StoreU(s, d, scores + p);
    nan = hn::Or(nan, hn::IsNaN(s));
    largest = hn::Max(largest, s);
  }
  return hn::AllFalse(d, nan) ? hn::GetLane(hn::MaxOfLanes(d, largest)) : NAN;
}
// The scores become exp(score - top), around them 0; their sum.
HWY_INLINE float weigh_scores(float* scores, const Range& range, float top) {
  const DF d;
  const VF center = hn::Set(d, top);
  VF sum[kVectors];
  for (int v = 0; v < kVectors; ++v) sum[v] = hn::Zero(d);
  for (int64_t p = range.first / 16 * 16; p < range.last; p += 16) {
    for (int v = 0; v < kVectors; ++v) {
      const VF e = exp(hn::Sub(hn::LoadU(d, scores + p + v * kLanes), center));
      hn::StoreU(e, d, scores + p + v * kLanes);
      sum[v] = hn::Add(sum[v], e);
    }
  }
  return fold(sum);
}
void softmax(const SoftmaxArgs& a) {
  const DF d;
  alignas(64) float top[kQueries];
  alignas(64) float change[kQueries] = {};
  for (int64_t q = 0; q < a.n_queries; ++q) {
    top[q] = a.states[q].largest;
    if (a.ranges[q].empty()) continue;
    const float largest = scale_scores(a.scores + q * kScoreStride, a.ranges[q], a.scale[q], a.soft_cap);
    top[q] = largest < top[q] ? top[q] : largest;  // a NaN shows in everything
    if (top[q] != -HUGE_VALF) change[q] = a.states[q].largest - top[q];
  }
  for (int64_t q = 0; q < a.n_queries; q += kLanes) hn::Store(exp(hn::Load(d, change + q)), d, change + q);
  for (int64_t q = 0; q < a.n_queries; ++q) {
    float* scores = a.scores + q * kScoreStride;
    const Range& range = a.ranges[q];
    a.shrink[q] = change[q];
    if (range.empty()) continue;
    if (top[q] == -HUGE_VALF) {  // every score is -inf: nothing is added
      std::fill(scores + range.first / 16 * 16, scores + (range.last + 15) / 16 * 16, 0.0F);
      continue;
    }
    a.states[q].sum = a.states[q].sum * change[q] + weigh_scores(scores, range, top[q]);
    a.states[q].largest = top[q];
  }
}

// Queries from i0 on, sixteen times kC columns. The first queries of a call ask for rows ahead.
template <int32_t kDtype, int kQ, int kC>
HWY_INLINE void mix_tile(const MixArgs& a, int64_t i0, const Range& part, int64_t column, Ahead& ahead) {
  using T = typename Load<kDtype>::T;
  const DF d;
  constexpr int kN = kC * kVectors;
  const float* scores = a.scores + i0 * kScoreStride;
  float* o = a.o + i0 * a.o_stride + column;
  const bool asks = i0 == 0 && a.asks;
  VF acc[kQ][kN];
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kN; ++c) acc[i][c] = hn::LoadU(d, o + i * a.o_stride + c * kLanes);
  }
  if (part.first == a.first) {
#pragma GCC unroll 4
    for (int i = 0; i < kQ; ++i) {
      const VF shrink = hn::Set(d, a.shrink[i0 + i]);
#pragma GCC unroll 16
      for (int c = 0; c < kN; ++c) acc[i][c] = hn::Mul(shrink, acc[i][c]);
    }
  }
  for (int64_t p = part.first; p < part.last; ++p) {
    const T* row = static_cast<const T*>(a.rows[p]) + column;
    if (asks) ahead.ask(kC * 16 * static_cast<int64_t>(sizeof(T)));
    VF value[kN];
#pragma GCC unroll 16
    for (int c = 0; c < kN; ++c) value[c] = Load<kDtype>::at(row + c * kLanes);
#pragma GCC unroll 4
    for (int i = 0; i < kQ; ++i) {
      const VF weight = hn::Set(d, scores[i * kScoreStride + p]);
#pragma GCC unroll 16
      for (int c = 0; c < kN; ++c) acc[i][c] = hn::MulAdd(weight, value[c], acc[i][c]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kN; ++c) hn::StoreU(acc[i][c], d, o + i * a.o_stride + c * kLanes);
  }
}

// Sixteens of columns for one query: as many sums as registers hold beside the values.
inline constexpr int kWidest = kVectors == 1 ? 8 : kVectors == 2 ? 4 : 1;

template <int32_t kDtype, int kQ>
void mix_columns(const MixArgs& a, int64_t i, const Range& part, Ahead& ahead) {
  constexpr int kWide = kQ == 1 ? kWidest : kVectors == 1 ? (kQ == 2 ? 8 : 4) : 1;
  const float* scores = a.scores + i * kScoreStride;
  float* o = a.o + i * a.o_stride;
  int64_t c = 0;
  for (; c + 16 * kWide <= a.dim; c += 16 * kWide) mix_tile<kDtype, kQ, kWide>(a, i, part, c, ahead);
  if constexpr (kWide > 4) {
    for (; c + 64 <= a.dim; c += 64) mix_tile<kDtype, kQ, 4>(a, i, part, c, ahead);
  }
  for (; c + 16 <= a.dim; c += 16) mix_tile<kDtype, kQ, 1>(a, i, part, c, ahead);
  if (c == a.dim) return;
  using T = typename Load<kDtype>::T;
  for (int q = 0; q < kQ; ++q) {
    for (int64_t p = part.first; p < part.last; ++p) {
      const T* row = static_cast<const T*>(a.rows[p]);
      const VF weight = hn::Set(DF(), scores[q * kScoreStride + p]);
      const VF shrink = hn::Set(DF(), p == a.first ? a.shrink[i + q] : 1.0F);
      for (int64_t t = c; t < a.dim; t += kLanes) {
        const int64_t n = HWY_MIN(a.dim - t, kLanes);
        float* to = o + q * a.o_stride + t;  // rows of o are whole multiples of 16
        hn::StoreU(hn::MulAdd(weight, load_tail<kDtype>(row + t, n), hn::Mul(shrink, hn::LoadU(DF(), to))), DF(), to);
      }
    }
  }
}
template <int32_t kDtype>
void mix_as(const MixArgs& a) {
  Ahead ahead(a.rows, a.first, a.last, a.dim * static_cast<int64_t>(sizeof(typename Load<kDtype>::T)), a.next, a.asks);
  const bool one_pass = a.n_queries <= (kVectors == 1 ? 2 : 1) && a.dim <= 16 * kWidest;
  const int64_t rows = one_pass ? a.last - a.first : rows_of_part(a.n_queries, a.dim, a.last - a.first);
  for (int64_t p = a.first; p < a.last; p += rows) {
    const Range part{p, HWY_MIN(p + rows, a.last)};
    ahead.begin(part.last);
    int64_t i = 0;
    for (; i + 4 <= a.n_queries; i += 4) mix_columns<kDtype, 4>(a, i, part, ahead);
    for (; i + 2 <= a.n_queries; i += 2) mix_columns<kDtype, 2>(a, i, part, ahead);
    for (; i < a.n_queries; ++i) mix_columns<kDtype, 1>(a, i, part, ahead);
    ahead.finish();
  }
}
void mix(const MixArgs& args) {
  if (args.dtype == MOE_F32) return mix_as<MOE_F32>(args);
  if (args.dtype == MOE_BF16) return mix_as<MOE_BF16>(args);
  mix_as<MOE_F16>(args);
}

void blend(float a, float* o, float b, const float* p, int64_t n) {
  const VF x = hn::Set(DF(), a);
  const VF y = hn::Set(DF(), b);
  map(o, p, o, n, [&](VF v, VF w) { return hn::MulAdd(x, v, hn::Mul(y, w)); });
}

void fill_attention(Kernels& k) {
#if HWY_ARCH_X86
  k.asks_for_few = !__builtin_cpu_is("amdfam19h");
#else
  k.asks_for_few = false;
#endif
  k.score = score;
  k.softmax = softmax;
  k.mix = mix;
  k.blend = blend;
  k.exp = exp_one;
}

}  // namespace moe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
