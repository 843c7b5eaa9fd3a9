// Products on the tiles of Intel's AMX: sixteen rows of x by sixteen output rows in one instruction.
//
// Integer products have the bits that moe/sdk/quant.hpp defines, like everybody's. Products of bf16 have the
// instruction's own: of each 32 k in turn, the chain of the even k and the chain of the odd k from zero, then both
// added to the sum; denormals count as zero.
#include "kernels_table.hpp"

#if HWY_TARGETS & HWY_AVX3

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own _mm512_undefined_ps
#endif

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#define MOE_AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")))
#define MOE_AMX_INLINE inline __attribute__((always_inline))

namespace moe::cpu {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kLine = 64;  // bytes of a tile's row
constexpr int64_t kTileBytes = kTileRows * kLine;
constexpr int64_t kMaxTiles = (kMaxRows + kTileRows - 1) / kTileRows;

// Tiles 0 to 3 hold sums, 4 and 5 rows of x, 6 and 7 weights.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// The tiles' shapes hold while this lives. Released tiles need not be saved when threads change.
class Shapes {
 public:
  // x: rows of x in a tile and bytes of each; four bytes a row are a row of the weights' tile.
  Shapes(int64_t x_rows, int64_t x_bytes) {
    TileShapes s;
    for (int i = 0; i < 8; ++i) s.bytes[i] = kLine, s.rows[i] = static_cast<uint8_t>(x_rows);
    for (int i = 4; i < 6; ++i) s.bytes[i] = static_cast<uint16_t>(x_bytes);
    for (int i = 6; i < 8; ++i) s.rows[i] = static_cast<uint8_t>(x_bytes / 4);
    asm volatile("ldtilecfg %0" ::"m"(s));
  }
  ~Shapes() { asm volatile("tilerelease" ::: "memory"); }
  Shapes(const Shapes&) = delete;
  Shapes& operator=(const Shapes&) = delete;
};

template <int kTile>
MOE_AMX_INLINE void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
MOE_AMX_INLINE void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
MOE_AMX_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kSum, int kX, int kWeight>
MOE_AMX_INLINE void add_i8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kX), "i"(kWeight));
}
template <int kSum, int kX, int kWeight>
MOE_AMX_INLINE void add_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kX), "i"(kWeight));
}

// Asks for the weights that come next while the present ones are multiplied, a few lines at a time: those behind the
// present ones in the same panels, then ProductArgs::next.
class Ahead {
 public:
  // Lines from `from` on, asked for in n_parts parts.
  Ahead(const char* from, int64_t n_bytes, int64_t n_parts)
      : at_(from), part_((n_bytes / kLine + n_parts - 1) / n_parts) {}
  void ask() {
    for (int64_t i = 0; i < part_; ++i, at_ += kLine) _mm_prefetch(at_, _MM_HINT_T1);
  }

 private:
  const char* at_;
  int64_t part_;
};

// Tiles of rows of x, over up to kUnits units along k: where they lie if the rows are evenly spaced, else copied
// together.
template <int64_t kUnits, int64_t kUnitBytes>
class XTiles {
 public:
  // Whether all sixteen rows of the tile are there and evenly spaced. If not, the caller fills the tile's copy.
  bool take_in_place(const void* const* rows, int64_t m, int64_t tile, int64_t first_unit) {
    rows += tile * kTileRows;
    if ((tile + 1) * kTileRows > m) return false;
    const auto* first = static_cast<const char*>(rows[0]);
    const int64_t stride = static_cast<const char*>(rows[1]) - first;
    for (int64_t i = 2; i < kTileRows; ++i) {
      if (rows[i] != first + i * stride) return false;
    }
    place_[tile] = {first + first_unit * kUnitBytes, stride, kUnitBytes};
    return true;
  }
  void take_copy(int64_t tile) { place_[tile] = {copy_[tile][0], kUnitBytes, kTileRows * kUnitBytes}; }
  char* copy(int64_t tile, int64_t unit, int64_t row) { return copy_[tile][unit] + row * kUnitBytes; }
  [[nodiscard]] const char* at(int64_t tile, int64_t unit) const {
    return place_[tile].first + unit * place_[tile].unit_bytes;
  }
  [[nodiscard]] int64_t stride(int64_t tile) const { return place_[tile].stride; }  // from row to row

 private:
  struct Place {
    const char* first;
    int64_t stride;
    int64_t unit_bytes;
  };
  Place place_[kMaxTiles];
  alignas(64) char copy_[kMaxTiles][kUnits][kTileRows * kUnitBytes];
};

// ---- integers

constexpr int64_t kDepthBlocks = 8;  // blocks of 64 k in one pass: what the passes share stays in the first-level cache
constexpr int64_t kGroupLines = 8;   // of 64 bytes: a tile of weights

// A panel's weights in one pass as tiles of signed bytes (see BlockPlace for how they lie), and their scales.
struct PanelWeights {
  const char* q;
  int64_t line_bytes;   // from line to line of a group
  int64_t block_bytes;  // from block to block; a block's second group is kGroupLines lines behind its first
  const char* scales;
  int64_t scales_bytes;  // from block to block

  [[nodiscard]] const char* group(int64_t g) const {
    return q + g / 2 * block_bytes + g % 2 * kGroupLines * line_bytes;
  }
  [[nodiscard]] const char* scales_of(int64_t g) const { return scales + g / 2 * scales_bytes + g % 2 * 2 * kPanel; }
};
struct Int8 {
  static constexpr Format kFormat = Format::kI8;
  struct Memory {};
  static PanelWeights take(const char* first, BlockPlace place, int64_t, Memory&) {
    return {first, kI8Line, place.block_bytes, first + place.scales(), place.block_bytes};
  }
};
struct Int4 {
  static constexpr Format kFormat = Format::kI4;
  struct alignas(64) Memory {
    char blocks[kDepthBlocks][2 * kGroupLines * kLine];
  };
  MOE_AMX_TARGET static PanelWeights take(const char* first, BlockPlace place, int64_t n_blocks, Memory& memory) {
    const __m512i mask = _mm512_set1_epi8(0x0f);
    const __m512i eight = _mm512_set1_epi8(8);
    for (int64_t b = 0; b < n_blocks; ++b) {
#pragma GCC unroll 8
      for (int j = 0; j < kGroupLines; ++j) {
        const __m512i both = _mm512_load_si512(first + b * place.block_bytes + j * place.line_bytes);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        char* low = memory.blocks[b] + (j / 4 * kGroupLines + j % 4) * kLine;
        _mm512_store_si512(low, _mm512_sub_epi8(_mm512_and_si512(both, mask), eight));
        _mm512_store_si512(low + 4 * kLine, _mm512_sub_epi8(high, eight));
      }
    }
    return {memory.blocks[0], kLine, sizeof(memory.blocks[0]), first + place.scales(), place.block_bytes};
  }
};

using Sums = int32_t[kTileRows * kPanel];

// The sums of group g of a tile of rows, to sums[kSlot].
template <int kSlot>
MOE_AMX_INLINE void sum_group(Sums* sums, const I8Tile* x, const PanelWeights& w, int64_t g) {
  constexpr int kX = 4 + kSlot % 2;
  constexpr int kWeight = 6 + kSlot % 2;
  load_tile<kX>(x[g].q, sizeof(x->q[0]));
  load_tile<kWeight>(w.group(g), w.line_bytes);
  zero_tile<kSlot>();
  add_i8<kSlot, kX, kWeight>();
  store_tile<kSlot>(sums[kSlot], kLine);
}

// acc[row] += sum * (scale of the weights * scale of the row)
MOE_AMX_TARGET MOE_AMX_INLINE void add_group(const Sums& sums, const I8Tile& x, const char* scales,
                                             __m512 (&acc)[kTileRows]) {
  const __m512 weights = _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(scales)));
#pragma GCC unroll 16
  for (int t = 0; t < kTileRows; ++t) {
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + kPanel * t));
    acc[t] = _mm512_fmadd_ps(sum, _mm512_mul_ps(weights, _mm512_set1_ps(x.scale[t])), acc[t]);
  }
}

// One tile of `n_rows` rows over n blocks. (w by value: its parts stay in registers.)
MOE_AMX_TARGET MOE_AMX_INLINE void multiply_tile(Sums* sums, const I8Tile* x, int64_t n, const PanelWeights w,
                                                 bool first, int64_t n_rows, float* c, Ahead& ahead) {
  __m512 acc[kTileRows];
#pragma GCC unroll 16
  for (int64_t t = 0; t < kTileRows; ++t) {
    acc[t] = first || t >= n_rows ? _mm512_setzero_ps() : _mm512_load_ps(c + t * kBlock);
  }
  // The tiles are three groups ahead of the additions, which do not wait for them then.
  sum_group<0>(sums, x, w, 0);
  sum_group<1>(sums, x, w, 1);
  if (n > 1) sum_group<2>(sums, x, w, 2);
  for (int64_t g = 0; g < 2 * n; g += 4) {
    const bool more = g + 4 < 2 * n;
    ahead.ask();
    if (g + 2 < 2 * n) sum_group<3>(sums, x, w, g + 3);
    add_group(sums[0], x[g], w.scales_of(g), acc);
    if (more) sum_group<0>(sums, x, w, g + 4);
    add_group(sums[1], x[g + 1], w.scales_of(g + 1), acc);
    if (g + 2 >= 2 * n) break;
    ahead.ask();
    if (more) sum_group<1>(sums, x, w, g + 5);
    add_group(sums[2], x[g + 2], w.scales_of(g + 2), acc);
    if (g + 6 < 2 * n) sum_group<2>(sums, x, w, g + 6);
    add_group(sums[3], x[g + 3], w.scales_of(g + 3), acc);
  }
#pragma GCC unroll 16
  for (int64_t t = 0; t < kTileRows; ++t) {
    if (t < n_rows) _mm512_store_ps(c + t * kBlock, acc[t]);
  }
}

template <typename W>
MOE_AMX_TARGET void multiply_many(const ProductArgs& a) {
  alignas(64) Sums sums[4];
  typename W::Memory memory;
  const Shapes shapes(kTileRows, 32);
  const int64_t n_blocks = (a.k + kI8BlockElements - 1) / kI8BlockElements;
  const int64_t n_tiles = (a.m + kTileRows - 1) / kTileRows;
  const BlockPlace place = block_place(W::kFormat, a.step_bytes);
  for (int64_t first = 0; first < n_blocks; first += kDepthBlocks) {
    const int64_t n = std::min(kDepthBlocks, n_blocks - first);
    const char* after = first + n < n_blocks ? a.w + (first + n) * place.block_bytes : a.next;
    Ahead ahead(after, kDepthBlocks * place.block_bytes, a.n_panels * n_tiles * n);
    for (int64_t p = 0; p < a.n_panels; ++p) {
      const PanelWeights w = W::take(a.w + p * a.panel_bytes + first * place.block_bytes, place, n, memory);
      const I8Tile* x = a.tiles + 2 * first;
      for (int64_t tile = 0; tile < n_tiles; ++tile, x += 2 * n_blocks) {
        multiply_tile(sums, x, n, w, first == 0, std::min(kTileRows, a.m - tile * kTileRows),
                      a.c + tile * kTileRows * kBlock + p * kPanel, ahead);
      }
    }
  }
}

// What a product does for rows [first, first + n) of x.
ProductArgs rows_of(ProductArgs a, int64_t first, int64_t n) {
  a.x += first;
  a.c += first * kBlock;
  a.m = n;
  return a;
}

template <typename W, Format kFormat>
void multiply_int(const ProductArgs& a) {
  const int64_t tiled = tiled_rows(a.m);
  if (tiled > 0) multiply_many<W>(rows_of(a, 0, tiled));
  if (tiled < a.m) N_AVX3::few_rows_product(kFormat)(rows_of(a, tiled, a.m - tiled));
}

// ---- bf16

constexpr int64_t kChunk = 32;         // k of a tile
constexpr int64_t kDepthChunks = 16;   // chunks in one pass when there are many rows
constexpr int64_t kAheadBytes = 3072;  // weights that are read once are asked for so far ahead

// Elements [32 chunk, 32 chunk + 32) of rows of k elements, 64 bytes a row; zero beyond k.
MOE_AMX_TARGET void take_chunk(const void* const* rows, int64_t m, int64_t chunk, int64_t k, char* out) {
  const int64_t n = std::min(kChunk, k + k % 2 - chunk * kChunk);
  const auto mask = static_cast<__mmask32>(n == kChunk ? ~0U : (1U << n) - 1U);
  for (int64_t i = 0; i < m; ++i) {
    const auto* row = static_cast<const uint16_t*>(rows[i]) + chunk * kChunk;
    _mm512_store_si512(out + i * kLine, _mm512_maskz_loadu_epi16(mask, row));
  }
}

// Where a panel's tile of weights lies: in the panel itself, or, where the panel ends within the tile, in `copy`,
// filled up with zeros.
MOE_AMX_TARGET MOE_AMX_INLINE const char* weights_of(const ProductArgs& a, int64_t p, int64_t chunk, char* copy,
                                                     int64_t& stride) {
  const char* w = a.w + p * a.panel_bytes + chunk * kTileRows * a.step_bytes;
  stride = a.step_bytes;
  const int64_t n_lines = (a.k + 1) / 2 - chunk * kTileRows;
  if (n_lines >= kTileRows) return w;
  for (int64_t i = 0; i < kTileRows; ++i) {
    _mm512_store_si512(copy + i * kLine, i < n_lines ? _mm512_load_si512(w + i * stride) : _mm512_setzero_si512());
  }
  stride = kLine;
  return copy;
}

template <int kP>
MOE_AMX_TARGET MOE_AMX_INLINE void add_panel(const ProductArgs& a, int64_t chunk, char* copy) {
  if (kP >= a.n_panels) return;
  int64_t stride = 0;
  const char* w = weights_of(a, kP, chunk, copy, stride);
  load_tile<6 + kP % 2>(w, stride);
  add_bf16<kP, 4, 6 + kP % 2>();
}
template <int kP>
MOE_AMX_INLINE void store_panel(const ProductArgs& a) {
  if (kP < a.n_panels) store_tile<kP>(a.c + kP * kPanel, kBlock * 4);
}

// Up to sixteen rows: every weight is read once, all sums stay in tiles.
MOE_AMX_TARGET void multiply_bf16_once(const ProductArgs& a) {
  alignas(64) char x[2][kTileBytes];
  alignas(64) char copy[kTileBytes];
  const Shapes shapes(a.m, kLine);
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  const int64_t n_chunks = (a.k + kChunk - 1) / kChunk;
  for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
    take_chunk(a.x, a.m, chunk, a.k, x[chunk % 2]);
    const char* ahead = a.w + chunk * kTileRows * a.step_bytes + kAheadBytes;
    for (int64_t i = 0; i < kTileRows; ++i) {
      for (int64_t p = 0; p < a.n_panels; ++p) {
        _mm_prefetch(ahead + i * a.step_bytes + p * a.panel_bytes, _MM_HINT_T0);
      }
    }
    load_tile<4>(x[chunk % 2], kLine);
    add_panel<0>(a, chunk, copy);
    add_panel<1>(a, chunk, copy);
    add_panel<2>(a, chunk, copy);
    add_panel<3>(a, chunk, copy);
  }
  store_panel<0>(a), store_panel<1>(a), store_panel<2>(a), store_panel<3>(a);
}

// What one pass of many rows works on.
struct alignas(64) BF16Pass {
  XTiles<kDepthChunks, kLine> x;
  char copy[2][kTileBytes];
};

// kT tiles of rows by kP panels over n chunks.
template <int kT, int kP>
MOE_AMX_TARGET void multiply_bf16_tiles(const ProductArgs& a, BF16Pass& pass, int64_t tile, int64_t panel,
                                        int64_t first, int64_t n, Ahead& ahead) {
  float* c = a.c + tile * kTileRows * kBlock + panel * kPanel;
  float* below = c + kTileRows * kBlock;
  constexpr int64_t kStride = kBlock * 4;
  if (first == 0) {
    zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  } else {
    load_tile<0>(c, kStride);
    if constexpr (kP > 1) load_tile<1>(c + kPanel, kStride);
    if constexpr (kT > 1) load_tile<2>(below, kStride);
    if constexpr (kT > 1 && kP > 1) load_tile<3>(below + kPanel, kStride);
  }
  for (int64_t i = 0; i < n; ++i) {
    int64_t stride = 0;
    ahead.ask();
    load_tile<4>(pass.x.at(tile, i), pass.x.stride(tile));
    const char* w = weights_of(a, panel, first + i, pass.copy[0], stride);
    load_tile<6>(w, stride);
    add_bf16<0, 4, 6>();
    if constexpr (kP > 1) {
      w = weights_of(a, panel + 1, first + i, pass.copy[1], stride);
      load_tile<7>(w, stride);
      add_bf16<1, 4, 7>();
    }
    if constexpr (kT > 1) {
      load_tile<5>(pass.x.at(tile + 1, i), pass.x.stride(tile + 1));
      add_bf16<2, 5, 6>();
      if constexpr (kP > 1) add_bf16<3, 5, 7>();
    }
  }
  store_tile<0>(c, kStride);
  if constexpr (kP > 1) store_tile<1>(c + kPanel, kStride);
  if constexpr (kT > 1) store_tile<2>(below, kStride);
  if constexpr (kT > 1 && kP > 1) store_tile<3>(below + kPanel, kStride);
}

// Whole tiles of rows.
MOE_AMX_TARGET void multiply_bf16_many(const ProductArgs& a) {
  BF16Pass pass;
  const Shapes shapes(kTileRows, kLine);
  const int64_t n_chunks = (a.k + kChunk - 1) / kChunk;
  const int64_t n_tiles = a.m / kTileRows;
  for (int64_t first = 0; first < n_chunks; first += kDepthChunks) {
    const int64_t n = std::min(kDepthChunks, n_chunks - first);
    const bool whole = (first + n) * kChunk <= a.k;
    for (int64_t tile = 0; tile < n_tiles; ++tile) {
      if (whole && pass.x.take_in_place(a.x, a.m, tile, first)) continue;
      pass.x.take_copy(tile);
      for (int64_t i = 0; i < n; ++i) {
        take_chunk(a.x + tile * kTileRows, kTileRows, first + i, a.k, pass.x.copy(tile, i, 0));
      }
    }
    const int64_t chunk_bytes = kTileRows * a.step_bytes;
    const char* after = first + n < n_chunks ? a.w + (first + n) * chunk_bytes : a.next;
    Ahead ahead(after, kDepthChunks * chunk_bytes, (a.n_panels + 1) / 2 * ((n_tiles + 1) / 2) * n);
    for (int64_t p = 0; p < a.n_panels; p += 2) {
      const bool two_panels = p + 1 < a.n_panels;
      for (int64_t tile = 0; tile < n_tiles; tile += 2) {
        const bool two_tiles = tile + 1 < n_tiles;
        if (two_tiles && two_panels) multiply_bf16_tiles<2, 2>(a, pass, tile, p, first, n, ahead);
        if (two_tiles && !two_panels) multiply_bf16_tiles<2, 1>(a, pass, tile, p, first, n, ahead);
        if (!two_tiles && two_panels) multiply_bf16_tiles<1, 2>(a, pass, tile, p, first, n, ahead);
        if (!two_tiles && !two_panels) multiply_bf16_tiles<1, 1>(a, pass, tile, p, first, n, ahead);
      }
    }
  }
}

void multiply_bf16(const ProductArgs& a) {
  const int64_t whole = a.m / kTileRows * kTileRows;
  if (whole == kTileRows) multiply_bf16_once(rows_of(a, 0, whole));
  if (whole > kTileRows) multiply_bf16_many(rows_of(a, 0, whole));
  if (a.m > whole) multiply_bf16_once(rows_of(a, whole, a.m - whole));
}

bool has_amx() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBF16 = 1U << 22;
  constexpr unsigned kTile = 1U << 24;
  constexpr unsigned kInt8 = 1U << 25;
  return (d & (kBF16 | kTile | kInt8)) == (kBF16 | kTile | kInt8);
}

}  // namespace

bool allow_amx() {
  // Linux gives a process the tiles' registers when it asks for them, once and for all of its threads.
  static const bool allowed = [] {
    constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr int kTileData = 18;
    return has_amx() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return allowed;
}

void fill_amx_products(Kernels& k) {
  k.product[static_cast<int>(Format::kI8)][static_cast<int>(RowType::kI8)] = multiply_int<Int8, Format::kI8>;
  k.product[static_cast<int>(Format::kI4)][static_cast<int>(RowType::kI8)] = multiply_int<Int4, Format::kI4>;
  k.product[static_cast<int>(Format::kBF16)][static_cast<int>(RowType::kBF16)] = multiply_bf16;
  k.even_rows = true;
  k.takes_tiles = true;
}

}  // namespace moe::cpu

#endif
