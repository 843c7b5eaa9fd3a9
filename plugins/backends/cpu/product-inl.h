// How a product is cut into register tiles, once for each instruction set.
#if defined(MOE_CPU_PRODUCT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef MOE_CPU_PRODUCT_INL_H
#undef MOE_CPU_PRODUCT_INL_H
#else
#define MOE_CPU_PRODUCT_INL_H
#endif

#include "simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moe::cpu::HWY_NAMESPACE {

// Rows of x in a register tile at most, and panels beside each other for so many rows: what fits the registers next to
// the weights.
inline constexpr int kTileRows = 6;
inline constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;
constexpr int panels_for(int rows, int budget) {
  const int fit = budget / (rows * kVectors);
  return fit >= 4 ? 4 : (fit >= 2 ? 2 : 1);
}
// k in one pass over the weights when there are many rows: the weights of a tile then stay in the first-level cache for
// all rows. Bits do not change, because sums go on from where they were.
inline constexpr int64_t kDepth = 512;
// Weights that are read once come from memory: how far ahead of their use they are asked for.
inline constexpr int64_t kPrefetchBytes = 1024;

using TileFn = void (*)(const char* w, int64_t panel_bytes, int64_t step_bytes, const void* const* rows, int64_t k0,
                        int64_t k1, bool first, float* c);

// Tiles by rows - 1 and by whether panels are taken singly.
template <template <int, int> typename Tile, int kBudget = kAccumulators>
struct Tiles {
  static constexpr TileFn kWide[kTileRows] = {
      Tile<1, panels_for(1, kBudget)>::kFn, Tile<2, panels_for(2, kBudget)>::kFn, Tile<3, panels_for(3, kBudget)>::kFn,
      Tile<4, panels_for(4, kBudget)>::kFn, Tile<5, panels_for(5, kBudget)>::kFn, Tile<6, panels_for(6, kBudget)>::kFn};
  static constexpr TileFn kTwo[kTileRows] = {Tile<1, 2>::kFn,
                                             Tile<2, 2>::kFn,
                                             Tile<3, (panels_for(3, kBudget) < 2 ? 1 : 2)>::kFn,
                                             Tile<4, (panels_for(4, kBudget) < 2 ? 1 : 2)>::kFn,
                                             Tile<5, (panels_for(5, kBudget) < 2 ? 1 : 2)>::kFn,
                                             Tile<6, (panels_for(6, kBudget) < 2 ? 1 : 2)>::kFn};
  static constexpr TileFn kSingle[kTileRows] = {Tile<1, 1>::kFn, Tile<2, 1>::kFn, Tile<3, 1>::kFn,
                                                Tile<4, 1>::kFn, Tile<5, 1>::kFn, Tile<6, 1>::kFn};

  // All rows [i, i + n) with all panels, over one range of k.
  static void rows(const ProductArgs& a, int64_t i, int n, int64_t k0, int64_t k1) {
    int64_t p = 0;
    const int wide = panels_for(n, kBudget);
    while (p < a.n_panels) {
      const int64_t left = a.n_panels - p;
      const int take = left >= wide ? wide : (left >= 2 && wide >= 2 ? 2 : 1);
      const TileFn fn = take == wide ? kWide[n - 1] : (take == 2 ? kTwo[n - 1] : kSingle[n - 1]);
      fn(a.w + p * a.panel_bytes, a.panel_bytes, a.step_bytes, a.x + i, k0, k1, k0 == 0, a.c + i * kBlock + p * kPanel);
      p += take;
    }
  }
  static void product(const ProductArgs& a) {
    // What goes over a block of panels more than once is to find it in a cache.
    const bool once = a.m <= kTileRows && panels_for(static_cast<int>(a.m), kBudget) >= a.n_panels;
    const int64_t depth = once ? HWY_MAX(a.k, 1) : kDepth;
    for (int64_t k0 = 0; k0 == 0 || k0 < a.k; k0 += depth) {
      const int64_t k1 = HWY_MIN(a.k, k0 + depth);
      int64_t i = 0;
      while (i < a.m) {
        // Seven rows as four and three, not six and one.
        const int64_t left = a.m - i;
        const int n = static_cast<int>(
            left >= 2 * kTileRows || left == kTileRows ? kTileRows : (left > kTileRows ? (left + 1) / 2 : left));
        rows(a, i, n, k0, k1);
        i += n;
      }
    }
  }
};

}  // namespace moe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
