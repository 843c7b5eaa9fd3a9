// Products of packed panels with rows: register tiles of several rows of x by several panels. See ProductArgs for what
// they compute.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels_product.cpp"
#include "hwy/foreach_target.h"  // compiles this file once for each instruction set
#include "hwy/highway.h"
#include "product-inl.h"

#include "kernels_table.hpp"

#if HWY_ARCH_X86
#include <immintrin.h>
#endif

HWY_BEFORE_NAMESPACE();
namespace moe::cpu::HWY_NAMESPACE {

// How f32 rows meet weights of a format: kSteps consecutive k are a unit.
struct WeightF32 {
  static constexpr int kSteps = 1;
  static HWY_INLINE VF load(const char* w, int, int v) {
    return hn::Load(DF(), reinterpret_cast<const float*>(w) + v * kLanes);
  }
};
struct WeightF16 {
  static constexpr int kSteps = 1;
  static HWY_INLINE VF load(const char* w, int, int v) {
    return Load<MOE_F16>::at(reinterpret_cast<const uint16_t*>(w) + v * kLanes);
  }
};
// Two k in each 32-bit lane: the even one in the low half.
struct WeightBF16 {
  static constexpr int kSteps = 2;
  static HWY_INLINE VF load(const char* w, int step, int v) {
    const VU both = hn::Load(DU(), reinterpret_cast<const uint32_t*>(w) + v * kLanes);
    return hn::BitCast(DF(), step == 0 ? hn::ShiftLeft<16>(both) : hn::And(both, hn::Set(DU(), 0xffff0000U)));
  }
};

template <typename W, int kT, int kR>
HWY_INLINE void multiply_step(const char* w, int64_t panel_bytes, const float* const (&x)[kT], int64_t k, int step,
                              VF (&acc)[kT][kR * kVectors]) {
  VF weight[kR * kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) weight[r * kVectors + v] = W::load(w + r * panel_bytes, step, v);
  }
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
    const VF b = hn::Set(DF(), x[t][k]);
#pragma GCC unroll 16
    for (int r = 0; r < kR * kVectors; ++r) acc[t][r] = hn::MulAdd(weight[r], b, acc[t][r]);
  }
}

// One register tile over k in [k0, k1); `first`: from zero, else from what c holds.
template <typename W, int kT, int kR>
void multiply_f32(const char* w, int64_t panel_bytes, int64_t step_bytes, const void* const* rows, int64_t k0,
                  int64_t k1, bool first, float* c) {
  const DF d;
  const float* x[kT];
  for (int t = 0; t < kT; ++t) x[t] = static_cast<const float*>(rows[t]);
  VF acc[kT][kR * kVectors];
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kR * kVectors; ++r) acc[t][r] = first ? hn::Zero(d) : hn::Load(d, c + t * kBlock + r * kLanes);
  }
  w += k0 / W::kSteps * step_bytes;
  int64_t k = k0;
  for (; k + W::kSteps <= k1; k += W::kSteps, w += step_bytes) {
    if constexpr (kT <= 2) {
#pragma GCC unroll 16
      for (int r = 0; r < kR; ++r) __builtin_prefetch(w + r * panel_bytes + kPrefetchBytes);
    }
#pragma GCC unroll 2
    for (int step = 0; step < W::kSteps; ++step) multiply_step<W, kT, kR>(w, panel_bytes, x, k + step, step, acc);
  }
  if (W::kSteps == 2 && k < k1) multiply_step<W, kT, kR>(w, panel_bytes, x, k, 0, acc);
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kR * kVectors; ++r) hn::Store(acc[t][r], d, c + t * kBlock + r * kLanes);
  }
}

template <typename W>
struct F32Rows {
  template <int kT, int kR>
  struct Tile {
    static constexpr TileFn kFn = multiply_f32<W, kT, kR>;
  };
};

#if HWY_TARGET == HWY_AVX3
// bf16 weights with bf16 rows: vdpbf16ps. Denormals count as zero and the two products are added as the processor does
// it, so that its bits differ from f32 sums of the same numbers. Weights are not asked for ahead: Zen 4, for which this
// is (kernels.cpp), reads them at 58 GB/s then, at 52 when they are.
template <int kT, int kR>
__attribute__((target(HWY_TARGET_STR ",avx512bf16"))) void multiply_bf16(const char* w, int64_t panel_bytes,
                                                                         int64_t step_bytes, const void* const* rows,
                                                                         int64_t k0, int64_t k1, bool first, float* c) {
  const uint32_t* x[kT];
  for (int t = 0; t < kT; ++t) x[t] = static_cast<const uint32_t*>(rows[t]);
  __m512 acc[kT][kR];
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) acc[t][r] = first ? _mm512_setzero_ps() : _mm512_load_ps(c + t * kBlock + r * kPanel);
  }
  w += k0 / 2 * step_bytes;
  for (int64_t pair = k0 / 2; pair < (k1 + 1) / 2; ++pair, w += step_bytes) {
    __m512bh weight[kR];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) {
      weight[r] = (__m512bh)_mm512_load_si512(w + r * panel_bytes);
    }
#pragma GCC unroll 16
    for (int t = 0; t < kT; ++t) {
      const __m512bh b = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[t][pair]));
#pragma GCC unroll 16
      for (int r = 0; r < kR; ++r) acc[t][r] = _mm512_dpbf16_ps(acc[t][r], weight[r], b);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) _mm512_store_ps(c + t * kBlock + r * kPanel, acc[t][r]);
  }
}
template <int kT, int kR>
struct BF16Tile {
  static constexpr TileFn kFn = multiply_bf16<kT, kR>;
};
#endif

void fill_products(Kernels& k, const Features& features) {
  k.product[static_cast<int>(Format::kF32)][0] = Tiles<F32Rows<WeightF32>::template Tile>::product;
  k.product[static_cast<int>(Format::kF16)][0] = Tiles<F32Rows<WeightF16>::template Tile>::product;
  k.product[static_cast<int>(Format::kBF16)][0] = Tiles<F32Rows<WeightBF16>::template Tile>::product;
#if HWY_TARGET == HWY_AVX3
  if (features.bf16_dot) k.product[static_cast<int>(Format::kBF16)][1] = Tiles<BF16Tile>::product;
#else
  (void)features;
#endif
}

}  // namespace moe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
