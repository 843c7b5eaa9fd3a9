// The kernels of the backend `cpu`, one table an instruction set. What is not here is written once for all (ops_*.cpp).
//
// Every kernel gives a row the same bits whatever the other rows of the call are, and the tables of instruction sets
// with fused multiply-add give the same bits as each other, except where a comment says otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "moe/abi/ops.h"
#include "moe/sdk/quant.hpp"

namespace moe::cpu {

// How a packed weight's numbers are kept.
enum class Format : int32_t { kF32 = 0, kF16 = 1, kBF16 = 2, kI8 = 3, kI4 = 4 };
inline constexpr int kFormats = 5;
inline bool is_integer(Format format) { return format == Format::kI8 || format == Format::kI4; }

// How the rows that a product multiplies lie in memory: f32; bf16 padded with zeros to an even number of elements; or
// I8Block.
enum class RowType : int32_t { kF32 = 0, kBF16 = 1, kI8 = 2 };
inline constexpr int kRowTypes = 3;

// Two groups of activations as integer products read them (moe/sdk/quant.hpp). What lies beyond the row is zero.
struct I8Block {
  int8_t q[64];
  float scale[2];
  int32_t minus_sum[2];  // of each group's q: products take weights as q + 128 or q + 8, which this takes back
};
inline constexpr int64_t kI8BlockElements = 64;
// A group of sixteen rows together, as products of Kernels::takes_tiles read them: a tile's groups one after the other,
// an even number of them; rows that a tile lacks are zero.
inline constexpr int64_t kI8TileRows = 16;
struct I8Tile {
  int8_t q[kI8TileRows][32];
  float scale[kI8TileRows];
};
inline int64_t tile_groups(int64_t k) { return (k + kI8BlockElements - 1) / kI8BlockElements * 2; }
// Of m rows, as many from the first on are taken in tiles: all, unless so few are left over that they are as fast by
// themselves.
inline constexpr int64_t kFewRows = 6;
inline int64_t tiled_rows(int64_t m) { return m % kI8TileRows <= kFewRows ? m - m % kI8TileRows : m; }

// Panels of integers hold blocks of 64 k in lines of 64 bytes, four bytes a row: for each of the two groups int8 has
// eight lines, line j with the bytes q of k 4 j .. 4 j + 3; int4 four lines, whose low halves are q + 8 of those k and
// whose high halves q + 8 of k + 16. The last line holds the f16 scales, [2 groups][16 rows].
inline constexpr int64_t kI8Line = 64;
inline constexpr int64_t kI8BlockLines = 2 * 8 + 1;
inline constexpr int64_t kI4BlockLines = 2 * 4 + 1;
// A unit of a panel (weight.hpp) is a block of int8, a line of int4: many rows like a panel's lines together, but one
// row of int4 reads 5 % slower so.
constexpr int64_t int_unit_bytes(Format format) { return format == Format::kI8 ? kI8BlockLines * kI8Line : kI8Line; }
// Where a block's lines lie, in bytes.
struct BlockPlace {
  int64_t group_lines;
  int64_t line_bytes;   // from line to line
  int64_t block_bytes;  // from block to block
  [[nodiscard]] constexpr int64_t group(int64_t g) const { return g * group_lines * line_bytes; }
  [[nodiscard]] constexpr int64_t scales() const { return group(2); }
};
constexpr BlockPlace block_place(Format format, int64_t step_bytes) {
  if (format == Format::kI8) return {8, kI8Line, step_bytes};
  return {4, step_bytes, kI4BlockLines * step_bytes};
}

inline constexpr int64_t kPanel = 16;       // output rows that are interleaved
inline constexpr int64_t kBlockPanels = 4;  // panels that one product call may take
inline constexpr int64_t kBlock = kPanel * kBlockPanels;
inline constexpr int64_t kMaxRows = 96;     // rows of x that one product call may take
inline constexpr int64_t kQueries = 16;     // queries that share one attention call
inline constexpr int64_t kFewQueries = 2;   // so few go through rows in their order (Kernels::asks_for_few)
inline constexpr int64_t kPositions = 128;  // positions of one attention block
inline constexpr int64_t kScoreStride = kPositions + 16;
inline constexpr int64_t kRowsAhead = 16;  // of keys or values, which are asked for at most this many before their turn

// c[i, r] = sum over k in ascending order of w[r, k] * x[i][k], for 16 * n_panels rows r: one fused multiply-add after
// the other, from zero, so that neither the shape of the register tile nor the blocking of k shows. With bf16 rows: two
// products a step, as the processor's dot instruction adds them.
struct ProductArgs {
  const char* w;         // the first panel's first unit
  int64_t panel_bytes;   // from one panel to the next
  int64_t step_bytes;    // from one unit to the next
  int64_t n_panels;      // 1 .. kBlockPanels
  const void* const* x;  // [m]
  int64_t m;             // 1 .. kMaxRows
  int64_t k;             // elements
  float* c;              // [m, kBlock], 64-byte aligned
  const char* next;      // the weights that are most likely read after these: where to look ahead
  const I8Tile* tiles;   // where Kernels::takes_tiles, integer rows [0, tiled_rows(m)), in place of those of x
};
using ProductFn = void (*)(const ProductArgs& args);

// What happens to the sums of a product: out[r] = cap(scale * (c[r] + bias[r]) (+ out[r])).
struct FinishArgs {
  const float* bias;  // or null
  float scale;
  float soft_cap;  // 0: none
  bool accumulate;
};

struct Range {
  int64_t first;
  int64_t last;  // not included
  [[nodiscard]] bool empty() const { return first >= last; }
};

// Rows that are read next, elsewhere: the last rows at work ask for them, so that memory is never idle between two
// calls.
struct RowsNext {
  const void* const* rows = nullptr;  // [n]
  int64_t n = 0;                      // at most kRowsAhead
  int64_t n_bytes = 0;                // of a row
};

// Some queries [k_dim] of one key head against some positions.
struct ScoreArgs {
  const float* const* q;    // [n_queries], each padded with zeros to a multiple of 16
  int64_t n_queries;        // 1 .. kQueries
  const void* const* rows;  // [n_positions rounded up to 16]: keys of dtype
  int64_t n_positions;      // 1 .. kPositions
  int64_t dim;
  int32_t dtype;
  float* scores;  // [n_queries, kScoreStride]
  bool asks;      // whether to ask for rows ahead, those of `next` among them
  RowsNext next;
};
// o[q] = shrink[q] o[q] + sum over p in [first, last) of a[q, p] v[p], in ascending order.
struct MixArgs {
  const float* scores;  // [n_queries, kScoreStride]
  int64_t n_queries;
  const void* const* rows;  // values of dtype
  int64_t first;
  int64_t last;
  int64_t dim;
  int32_t dtype;
  float* o;  // [n_queries, o_stride]
  int64_t o_stride;
  const float* shrink;  // [n_queries]
  bool asks;
  RowsNext next;
};
// The running softmax of one query: its largest score, the sum of exponentials, and (elsewhere) their mix of values.
struct Softmax {
  float largest;
  float sum;
};
// Turns each query's scores in its range of a block into weights exp(s - largest), after scale and cap, and updates its
// state; outside, from the multiple of 16 before to the one after, they become 0. A query whose range is empty stays as
// it is. All queries at once: the largest score of one, on which all of its rest waits, is found while others go on.
struct SoftmaxArgs {
  float* scores;  // [n_queries, kScoreStride]
  int64_t n_queries;
  const Range* ranges;  // [n_queries]
  const float* scale;   // [n_queries]
  float soft_cap;       // 0: none
  Softmax* states;      // [n_queries]
  float* shrink;        // [n_queries]: what has been mixed so far must be multiplied by this
};

struct Kernels {
  const char* name;
  ProductFn product[kFormats][kRowTypes];  // null where the combination does not exist: then rows are f32
  bool even_rows;                          // products of many rows are faster where those lie evenly spaced
  bool takes_tiles;                        // products of integers have their rows in I8Tiles, but for few

  void (*finish)(const FinishArgs& args, const float* c, float* out, int64_t n);
  // Elements [first, first + n) of a row of `total` as products read it, from x times `factor`; MOE_F32 copies. `first`
  // is a multiple of 32; the part that reaches the end fills up the row's last block.
  void (*round)(moe_activation_type type, RowType as, const float* x, float factor, int64_t first, int64_t n,
                int64_t total, void* out);
  // The same as kI8, to row `slot` of a tile whose first group is `out`.
  void (*round_to_tile)(const float* x, float factor, int64_t first, int64_t n, int64_t total, I8Tile* out,
                        int64_t slot);
  // Up to 32 weights, as the functions of the same name in moe/sdk/quant.hpp round them.
  QuantGroup (*quantize_int8)(const float* x, int64_t n);
  QuantGroup (*quantize_int4)(const float* x, int64_t n);
  void (*activate)(const moe_gating& gating, const float* gate, const float* up, float* out, int64_t n);
  // out = alpha x + beta y (y null: alpha x).
  void (*add)(float alpha, const float* x, float beta, const float* y, float* out, int64_t n);
  // y = fma(a, x, y)
  void (*axpy)(float a, const float* x, float* y, int64_t n);
  void (*norm)(const moe_norm_args& args, float* x, const float* residual, float* out, int64_t n);
  // Rotary embedding of the pairs of x into those of out, in double.
  void (*rotate)(const float* x, float* out, const double* cosine, const double* sine, int64_t half, bool interleaved);
  void (*narrow)(int32_t dtype, const float* x, void* out, int64_t n);
  void (*widen)(int32_t dtype, const void* x, float* out, int64_t n);
  int32_t (*argmax)(const float* x, int64_t n);

  // Whether calls of kFewQueries ask ahead. Rows in their order are what processors foresee; Intel's are yet 6 to 18 %
  // faster when asked, Zen 5 at a context of 640 18 %, Zen 4 is 20 % slower.
  bool asks_for_few;
  void (*score)(const ScoreArgs& args);
  void (*softmax)(const SoftmaxArgs& args);
  void (*mix)(const MixArgs& args);
  // o = a o + b p
  void (*blend)(float a, float* o, float b, const float* p, int64_t n);
  float (*exp)(float x);
};

// The best table for this machine, or the one named ("amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2", "neon",
// "portable"); null if the machine has not what it needs. "auto" always gives one.
const Kernels* select_kernels(std::string_view name);
// The names, best first, of what this build has.
std::string kernel_names();

// What rows products of these weights read with activations of this type. Every format reads f32.
inline RowType row_type(const Kernels& kernels, Format format, moe_activation_type activation) {
  const auto has = [&](RowType rows) {
    return kernels.product[static_cast<int>(format)][static_cast<int>(rows)] != nullptr;
  };
  if (activation == MOE_BF16 && has(RowType::kBF16)) return RowType::kBF16;
  if (activation == MOE_I8 && has(RowType::kI8)) return RowType::kI8;
  return RowType::kF32;
}
inline ProductFn product_of(const Kernels& kernels, Format format, RowType rows) {
  return kernels.product[static_cast<int>(format)][static_cast<int>(rows)];
}
// Bytes of a row of k elements: whole cache lines, an odd number of them, because sixteen rows that are read together
// and lie a power of two apart would share too few places of a cache.
inline int64_t row_bytes(RowType rows, int64_t k) {
  int64_t bytes = (rows == RowType::kBF16 ? 2 : 4) * k;
  if (rows == RowType::kI8)
    bytes = (k + kI8BlockElements - 1) / kI8BlockElements * static_cast<int64_t>(sizeof(I8Block));
  return ((bytes + 63) / 64 | 1) * 64;
}

}  // namespace moe::cpu
