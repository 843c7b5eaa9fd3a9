// Products of int8 and int4 panels; see moe/sdk/quant.hpp for what they compute.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels_int.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each instruction set
#include "hwy/highway.h"
#include "product-inl.h"

#include "kernels_table.hpp"

#if HWY_ARCH_X86
#include <immintrin.h>
#endif

HWY_BEFORE_NAMESPACE();
namespace moe::cpu::HWY_NAMESPACE {

using VI = hn::Vec<DI>;

// Half of the accumulators hold a group's sums, the other half the rows'.
inline constexpr int kHalf = kAccumulators / 2;

// How a panel's integers come out: step j of a group gives bytes q + 2^kShift of k 4 j .. 4 j + 3, one 32-bit lane a
// row, from line j % kGroupLines of the group.
struct Int8 {
  static constexpr int kShift = 7;
  static constexpr Format kFormat = Format::kI8;
  static constexpr int kGroupLines = block_place(kFormat, 0).group_lines;
  static HWY_INLINE VU bytes(VU line, int) { return hn::Xor(line, hn::Set(DU(), 0x80808080U)); }
};
struct Int4 {
  static constexpr int kShift = 3;
  static constexpr Format kFormat = Format::kI4;
  static constexpr int kGroupLines = block_place(kFormat, 0).group_lines;
  static HWY_INLINE VU bytes(VU line, int j) {
    return hn::And(j < 4 ? line : hn::ShiftRight<4>(line), hn::Set(DU(), 0x0f0f0f0fU));
  }
};
template <typename W>
HWY_INLINE VU line_of(const char* group, BlockPlace place, int j, int v) {
  const char* line = group + j % W::kGroupLines * place.line_bytes;
  return hn::Load(DU(), reinterpret_cast<const uint32_t*>(line) + v * kLanes);
}
HWY_INLINE VF scales_of(const char* block, BlockPlace place, int group, int v) {
  return load_f16(reinterpret_cast<const uint16_t*>(block + place.scales()) + group * 16 + v * kLanes);
}

// sum + the products of four unsigned bytes a lane with the four signed bytes of x, exactly.
HWY_INLINE VI dot4(VI sum, VU bytes, int32_t x) {
  const DI d;
#if HWY_TARGET == HWY_AVX3
  const hn::Repartition<int16_t, DI> d16;
  const auto w = hn::BitCast(d16, bytes);
  const auto both = hn::BitCast(d16, hn::Set(d, x));
  const auto even = hn::And(w, hn::Set(d16, int16_t{0xff}));
  const auto odd = hn::BitCast(d16, hn::ShiftRight<8>(hn::BitCast(hn::RebindToUnsigned<decltype(d16)>(), w)));
  VI unused = hn::Zero(d);
  sum = hn::ReorderWidenMulAccumulate(d, even, hn::ShiftRight<8>(hn::ShiftLeft<8>(both)), sum, unused);
  return hn::ReorderWidenMulAccumulate(d, odd, hn::ShiftRight<8>(both), sum, unused);
#else
  const DU du;
  const VU mask = hn::Set(du, 0xffU);
  const auto byte = [&](VU w, int i) {
    return hn::Mul(hn::BitCast(d, hn::And(w, mask)),
                   hn::Set(d, static_cast<int32_t>(static_cast<int8_t>(x >> (8 * i)))));
  };
  sum = hn::Add(sum, byte(bytes, 0));
  sum = hn::Add(sum, byte(hn::ShiftRight<8>(bytes), 1));
  sum = hn::Add(sum, byte(hn::ShiftRight<16>(bytes), 2));
  return hn::Add(sum, byte(hn::ShiftRight<24>(bytes), 3));
#endif
}

// Products of four unsigned and four signed bytes a lane, neighbours added in 16 bits. int4 adds a group's eight there,
// which come to 2 * 8 * 15 * 128 at most, where dot4 needs 32 bits each time.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
template <typename W>
inline constexpr bool kAddsPairs = W::kFormat == Format::kI4;
using DP = hn::Repartition<int16_t, DI>;
using VP = hn::Vec<DP>;
HWY_INLINE VP no_pairs() { return hn::Zero(DP()); }
HWY_INLINE VP add_pairs(VP pairs, VU bytes, int32_t x) {
#if HWY_TARGET == HWY_AVX2
  return hn::Add(pairs, VP{_mm256_maddubs_epi16(bytes.raw, _mm256_set1_epi32(x))});
#else
  return hn::Add(pairs, VP{_mm512_maddubs_epi16(bytes.raw, _mm512_set1_epi32(x))});
#endif
}
HWY_INLINE VI add_sums(VI sum, VP pairs) {
#if HWY_TARGET == HWY_AVX2
  return hn::Add(sum, VI{_mm256_madd_epi16(pairs.raw, _mm256_set1_epi16(1))});
#else
  return hn::Add(sum, VI{_mm512_madd_epi16(pairs.raw, _mm512_set1_epi16(1))});
#endif
}
#else
template <typename W>
inline constexpr bool kAddsPairs = false;
using VP = VI;
HWY_INLINE VP no_pairs() { return hn::Zero(DI()); }
HWY_INLINE VP add_pairs(VP pairs, VU bytes, int32_t x) { return dot4(pairs, bytes, x); }
HWY_INLINE VI add_sums(VI sum, VP pairs) { return hn::Add(sum, pairs); }
#endif

// Where there is an instruction that takes the signs of others, int8 is not made unsigned: |w| times x with the sign of
// w, of which two come to 2 * 128 * 127 at most.
#if HWY_TARGET == HWY_AVX2
template <typename W>
inline constexpr bool kTakesSigns = W::kFormat == Format::kI8;
HWY_INLINE VI dot4_signed(VI sum, VU line, int32_t x) {
  const __m256i signed_x = _mm256_sign_epi8(_mm256_set1_epi32(x), line.raw);
  return add_sums(sum, VP{_mm256_maddubs_epi16(_mm256_abs_epi8(line.raw), signed_x)});
}
#else
template <typename W>
inline constexpr bool kTakesSigns = false;
HWY_INLINE VI dot4_signed(VI sum, VU bytes, int32_t x) { return dot4(sum, bytes, x); }
#endif

HWY_INLINE int32_t load_i32(const void* p) {
  int32_t x;
  __builtin_memcpy(&x, p, sizeof(x));
  return x;
}

// Weights come from memory for the first rows: those some KiB ahead into the second-level cache, once more near their
// use into the first. On AVX2 (a Zen 5) experts of one row take 0.65 of the time in int8 and 0.73 in int4, of eight
// rows 0.8.
HWY_INLINE void ask_ahead(const char* line) {
  __builtin_prefetch(line + 8192, 0, 2);
  __builtin_prefetch(line + 2048, 0, 3);
}

// One register tile over the blocks of k in [k0, k1), integer activations. Weights are taken in the order in which they
// lie: int8 panel by panel.
template <typename W, int kT, int kR>
void multiply_i8(const char* w, int64_t panel_bytes, int64_t step_bytes, const void* const* rows, int64_t k0,
                 int64_t k1, bool first, float* c) {
  const DF d;
  constexpr int kN = kR * kVectors;
  constexpr bool kPanelsInTurn = W::kFormat == Format::kI8;
  constexpr int kTogether = kPanelsInTurn ? 1 : kR;
  constexpr int kSums = kTogether * kVectors;
  const BlockPlace place = block_place(W::kFormat, step_bytes);
  VF acc[kT][kN];
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kN; ++r) acc[t][r] = first ? hn::Zero(d) : hn::Load(d, c + t * kBlock + r * kLanes);
  }
  const int64_t end = (k1 + kI8BlockElements - 1) / kI8BlockElements;
  for (int64_t b = k0 / kI8BlockElements; b < end; ++b) {
    const char* block = w + b * place.block_bytes;
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kR / kTogether; ++i) {
      const int g = kPanelsInTurn ? i % 2 : i;
      const int first_r = kPanelsInTurn ? i / 2 : 0;
      const char* panel = block + first_r * panel_bytes;
      VI sum[kT][kSums];
#pragma GCC unroll 16
      for (int t = 0; t < kT; ++t) {
        const auto& x = static_cast<const I8Block*>(rows[t])[b];
        const VI start = kTakesSigns<W> ? hn::Zero(DI()) : hn::ShiftLeft<W::kShift>(hn::Set(DI(), x.minus_sum[g]));
#pragma GCC unroll 16
        for (int r = 0; r < kSums; ++r) sum[t][r] = start;
      }
      const char* group = panel + place.group(g);
      VP pairs[kT][kAddsPairs<W> ? kSums : 1];
      if constexpr (kAddsPairs<W>) {
#pragma GCC unroll 16
        for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
          for (int r = 0; r < kSums; ++r) pairs[t][r] = no_pairs();
        }
      }
#pragma GCC unroll 2
      for (int part_of_line = 0; part_of_line < 8 / W::kGroupLines; ++part_of_line) {
        for (int at = 0; at < W::kGroupLines; ++at) {
          const int j = part_of_line * W::kGroupLines + at;
#pragma GCC unroll 16
          for (int r = 0; r < kSums; ++r) {
            const char* lines = group + r / kVectors * panel_bytes;
            if (part_of_line == 0 && r % kVectors == 0) ask_ahead(lines + at * place.line_bytes);
            const VU line = line_of<W>(lines, place, j, r % kVectors);
            const VU bytes = kTakesSigns<W> ? line : W::bytes(line, j);
#pragma GCC unroll 16
            for (int t = 0; t < kT; ++t) {
              const int32_t x = load_i32(static_cast<const I8Block*>(rows[t])[b].q + 32 * g + 4 * j);
              if constexpr (kAddsPairs<W>) {
                pairs[t][r] = add_pairs(pairs[t][r], bytes, x);
              } else if constexpr (kTakesSigns<W>) {
                sum[t][r] = dot4_signed(sum[t][r], bytes, x);
              } else {
                sum[t][r] = dot4(sum[t][r], bytes, x);
              }
            }
          }
        }
      }
      if constexpr (kAddsPairs<W>) {
#pragma GCC unroll 16
        for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
          for (int r = 0; r < kSums; ++r) sum[t][r] = add_sums(sum[t][r], pairs[t][r]);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < kSums; ++r) {
        const VF scale = scales_of(panel + r / kVectors * panel_bytes, place, g, r % kVectors);
#pragma GCC unroll 16
        for (int t = 0; t < kT; ++t) {
          VF& to = acc[t][first_r * kVectors + r];
          const VF both = hn::Mul(scale, hn::Set(d, static_cast<const I8Block*>(rows[t])[b].scale[g]));
          to = hn::MulAdd(hn::ConvertTo(d, sum[t][r]), both, to);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kN; ++r) hn::Store(acc[t][r], d, c + t * kBlock + r * kLanes);
  }
}

// The same with f32 activations.
template <typename W, int kT, int kR>
void multiply_int_f32(const char* w, int64_t panel_bytes, int64_t step_bytes, const void* const* rows, int64_t k0,
                      int64_t k1, bool first, float* c) {
  const DF d;
  constexpr int kN = kR * kVectors;
  const BlockPlace place = block_place(W::kFormat, step_bytes);
  VF acc[kT][kN];
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kN; ++r) acc[t][r] = first ? hn::Zero(d) : hn::Load(d, c + t * kBlock + r * kLanes);
  }
  for (int64_t k = k0; k < k1; k += 32) {
    const char* block = w + k / kI8BlockElements * place.block_bytes;
    const int g = static_cast<int>(k / 32 % 2);
    const char* group = block + place.group(g);
    const int64_t n = HWY_MIN(k1 - k, 32);
    VF sum[kT][kN];
#pragma GCC unroll 16
    for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) sum[t][r] = hn::Zero(d);
    }
    for (int64_t j = 0; j < n; ++j) {
      VF weight[kN];
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) {
        const int step = static_cast<int>(j / 4);
        const VU bytes = W::bytes(line_of<W>(group + r / kVectors * panel_bytes, place, step, r % kVectors), step);
        const VU byte = hn::And(hn::ShiftRightSame(bytes, static_cast<int>(j % 4 * 8)), hn::Set(DU(), 0xffU));
        weight[r] = hn::ConvertTo(d, hn::Sub(hn::BitCast(DI(), byte), hn::Set(DI(), 1 << W::kShift)));
      }
#pragma GCC unroll 16
      for (int t = 0; t < kT; ++t) {
        const VF b = hn::Set(d, static_cast<const float*>(rows[t])[k + j]);
#pragma GCC unroll 16
        for (int r = 0; r < kN; ++r) sum[t][r] = hn::MulAdd(weight[r], b, sum[t][r]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kN; ++r) {
      const VF scale = scales_of(block + r / kVectors * panel_bytes, place, g, r % kVectors);
#pragma GCC unroll 16
      for (int t = 0; t < kT; ++t) acc[t][r] = hn::MulAdd(sum[t][r], scale, acc[t][r]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kN; ++r) hn::Store(acc[t][r], d, c + t * kBlock + r * kLanes);
  }
}

template <typename W>
struct I8Rows {
  template <int kT, int kR>
  struct Tile {
    static constexpr TileFn kFn = multiply_i8<W, kT, kR>;
  };
};
template <typename W>
struct IntF32Rows {
  template <int kT, int kR>
  struct Tile {
    static constexpr TileFn kFn = multiply_int_f32<W, kT, kR>;
  };
};

#if HWY_TARGET == HWY_AVX3
// How a product reads weights, which come from memory for its first rows: `ahead` of their use they are asked for,
// every `every`-th line, or all where it does not take them in the order in which they lie.
struct Asking {
  int64_t ahead;
  int every;
  decltype(_MM_HINT_T0) to;
  int64_t again;  // and once more, so near, to the first-level cache; 0: not
};
constexpr int64_t kI4BlocksBytes = kI4BlockLines * kI8Line * kBlockPanels;

struct OnIntel {
  // Not 4 KiB: those are the sets of the first-level cache that are in use (experts of the OLMoE shape in int4, two
  // cores of a server: 25.9 GB/s, with this 27.7).
  static constexpr Asking asking(Format, int /*rows*/) { return {2048, 1, _MM_HINT_T0, 0}; }
  // int8 panel by panel, as they lie: neither better nor worse. The halves of an int4 line one after the other: a tenth
  // slower.
  static constexpr bool kAsTheyLie = false;
  static constexpr bool kHoldsBack = false;
  // Panels whose sums are in registers at the same time.
  static constexpr int together(Format, int rows, int panels) { return rows > 2 ? 1 : panels; }
};
// AMD's of family 19h with AVX-512. They look ahead by themselves, and a line in four keeps them going over the end of
// a page: int8 at 45 GB/s without asking, at 53 with this, at 42 with every line to the first-level cache.
struct OnZen4 {
  // With more arithmetic a line waits in the second-level cache, and is asked for once more: int8 of 48 tokens' experts
  // takes 11.1 ms for 13.2. Lines of int4 that are asked for a block ahead have to be in that cache by then: with this
  // distance 10.4 ms for 64 tokens instead of 11.7, with 6 or 9 KiB up to 40 % longer. With fewer rows nothing is
  // gained.
  static constexpr Asking asking(Format format, int rows) {
    if (format == Format::kI8) return {3072, 4, _MM_HINT_T1, rows > 2 ? 512 : 0};
    return rows > 3 ? Asking{12288, 1, _MM_HINT_T1, kI4BlocksBytes} : Asking{3072, rows > 2 ? 1 : 4, _MM_HINT_T1, 0};
  }
  // Twice as fast for int8, a fifth for int4.
  static constexpr bool kAsTheyLie = true;
  // Of int8 with one row the processor executes so far ahead of memory that its own looking ahead does worse: four
  // instructions more a line that do nothing, and two threads read 99 % of what memory gives instead of 92 in the slow
  // mode, 90 instead of 87 in the fast one (two to twelve do the same; int4 has enough to do).
  static constexpr bool kHoldsBack = true;
  static constexpr int together(Format format, int rows, int panels) {
    return format == Format::kI8 || rows > 2 ? 1 : panels;
  }
};
// Measured on Zen 5, where holding back halves int8.
struct OnOthers {
  // int4 straight to the first-level cache: one row 0.90 of the time, three and six as much, four 1.10.
  static constexpr Asking asking(Format format, int rows) {
    if (format == Format::kI8) return {8192, 1, _MM_HINT_T1, 2048};
    return rows == 4 ? Asking{12288, 1, _MM_HINT_T1, kI4BlocksBytes} : Asking{6144, 1, _MM_HINT_T0, 2048};
  }
  static constexpr bool kAsTheyLie = true;
  static constexpr bool kHoldsBack = false;
  // With two dot products and two loads a cycle, a row's bytes are to be loaded once for two panels where there are
  // many: experts of 512 tokens in int8 43 ms for 50, in int4 40 for 45.
  static constexpr int together(Format format, int rows, int panels) {
    const int most = format == Format::kI8 ? (rows > 4 ? 2 : 1) : (rows > 2 ? 2 : panels);
    return most < panels ? most : panels;
  }
};

// As multiply_i8, with the processor's dot product of bytes.
template <typename W, typename How, int kT, int kR>
__attribute__((target(HWY_TARGET_STR ",avx512vnni"))) void multiply_vnni(const char* w, int64_t panel_bytes,
                                                                         int64_t step_bytes, const void* const* rows,
                                                                         int64_t k0, int64_t k1, bool first, float* c) {
  if constexpr (kR == kBlockPanels) {  // then all distances are known, which saves registers
    panel_bytes = int_unit_bytes(W::kFormat);
    step_bytes = kBlockPanels * panel_bytes;
  }
  const BlockPlace place = block_place(W::kFormat, step_bytes);
  constexpr bool kPanelsInTurn = How::kAsTheyLie && W::kFormat == Format::kI8;
  constexpr int kTogether = How::together(W::kFormat, kT, kR);
  constexpr int kSteps = kR / kTogether;
  constexpr Asking kAsking = How::asking(W::kFormat, kT);
  const I8Block* x[kT];
  for (int t = 0; t < kT; ++t) x[t] = static_cast<const I8Block*>(rows[t]) + k0 / kI8BlockElements;
  __m512 acc[kT][kR];
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) acc[t][r] = first ? _mm512_setzero_ps() : _mm512_load_ps(c + t * kBlock + r * kPanel);
  }
  const int64_t n_blocks = (k1 + kI8BlockElements - 1) / kI8BlockElements - k0 / kI8BlockElements;
  const char* block = w + k0 / kI8BlockElements * place.block_bytes;
  for (int64_t b = 0; b < n_blocks; ++b, block += place.block_bytes) {
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kSteps; ++i) {
      const int g = kPanelsInTurn ? i % 2 : i / kSteps;
      const int first_r = (kPanelsInTurn ? i / 2 : i % kSteps) * kTogether;
      const char* panel = block + first_r * panel_bytes;
      const I8Block* at[kT];
#pragma GCC unroll 16
      for (int t = 0; t < kT; ++t) {
        at[t] = x[t] + b;
        // The compiler is not to keep a block of more rows than registers hold for the next panel.
        if (How::kAsTheyLie && kT > (kPanelsInTurn ? 2 : 3)) asm volatile("" : "+r"(at[t]));
      }
      __m512i sum[kT][kTogether];
#pragma GCC unroll 16
      for (int t = 0; t < kT; ++t) {
        const __m512i start = _mm512_slli_epi32(_mm512_set1_epi32(at[t]->minus_sum[g]), W::kShift);
#pragma GCC unroll 16
        for (int r = 0; r < kTogether; ++r) sum[t][r] = start;
      }
      const char* group = panel + place.group(g);
#pragma GCC unroll 8
      for (int step = 0; step < 8; ++step) {
        constexpr int kParts = 8 / W::kGroupLines;  // of a line
        const int j = How::kAsTheyLie ? step % kParts * W::kGroupLines + step / kParts : step;
        __m512i bytes[kTogether];
#pragma GCC unroll 16
        for (int r = 0; r < kTogether; ++r) {
          const char* line = group + r * panel_bytes + j % W::kGroupLines * place.line_bytes;
          if (j < W::kGroupLines && j % kAsking.every == 0) _mm_prefetch(line + kAsking.ahead, kAsking.to);
          if (kAsking.again != 0 && j < W::kGroupLines) _mm_prefetch(line + kAsking.again, _MM_HINT_T0);
          if (How::kHoldsBack && kPanelsInTurn && kT == 1) asm volatile("nop\n\tnop\n\tnop\n\tnop");
          bytes[r] = W::bytes(VU{_mm512_load_si512(line)}, j).raw;
        }
#pragma GCC unroll 16
        for (int t = 0; t < kT; ++t) {
          const __m512i b4 = _mm512_set1_epi32(load_i32(at[t]->q + 32 * g + 4 * j));
#pragma GCC unroll 16
          for (int r = 0; r < kTogether; ++r) sum[t][r] = _mm512_dpbusd_epi32(sum[t][r], bytes[r], b4);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < kTogether; ++r) {
        if (kAsking.every == 1 && g == 0) {
          _mm_prefetch(panel + place.scales() + r * panel_bytes + kAsking.ahead, kAsking.to);
        }
        const __m512 scale = scales_of(panel + r * panel_bytes, place, g, 0).raw;
#pragma GCC unroll 16
        for (int t = 0; t < kT; ++t) {
          __m512& to = acc[t][first_r + r];
          const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(at[t]->scale[g]));
          to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][r]), both, to);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) _mm512_store_ps(c + t * kBlock + r * kPanel, acc[t][r]);
  }
}
template <typename W, typename How>
struct VnniRows {
  template <int kT, int kR>
  struct Tile {
    static constexpr TileFn kFn = multiply_vnni<W, How, kT, kR>;
  };
};
template <typename W, typename How>
void vnni_product(const ProductArgs& a) {
  Tiles<VnniRows<W, How>::template Tile>::product(a);
}
ProductFn few_rows_product(Format format) {
  return format == Format::kI8 ? vnni_product<Int8, OnIntel> : vnni_product<Int4, OnIntel>;
}
#endif

template <typename W>
void fill(ProductFn (&product)[kRowTypes], const Features& features) {
  product[static_cast<int>(RowType::kF32)] = Tiles<IntF32Rows<W>::template Tile, kHalf>::product;
  // Of int8 only one panel's sums are in registers at a time: more panels fit beside few rows.
  constexpr int kBudget = W::kFormat == Format::kI8 ? kHalf * 4 / 3 : kHalf;
  product[static_cast<int>(RowType::kI8)] = Tiles<I8Rows<W>::template Tile, kBudget>::product;
#if HWY_TARGET == HWY_AVX3
  if (features.int8_dot) {
    product[static_cast<int>(RowType::kI8)] =
        __builtin_cpu_is("intel")
            ? vnni_product<W, OnIntel>
            : (__builtin_cpu_is("amdfam19h") ? vnni_product<W, OnZen4> : vnni_product<W, OnOthers>);
  }
#else
  (void)features;
#endif
}
void fill_int_products(Kernels& k, const Features& features) {
  fill<Int8>(k.product[static_cast<int>(Format::kI8)], features);
  fill<Int4>(k.product[static_cast<int>(Format::kI4)], features);
}

}  // namespace moe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
