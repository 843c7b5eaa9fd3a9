// The operations of the backend `cpu`: what they need and how they run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "kernels.hpp"
#include "moe/abi/ops.h"
#include "moe/sdk/loops/common.hpp"
#include "moe/sdk/result.hpp"
#include "parallel.hpp"
#include "weight.hpp"

namespace moe::cpu {

using loops::Arena;
using loops::at;
using loops::given;
using loops::item;

struct OpRow {
  const char* id;  // MOE_OP_*
  uint32_t known;  // bits of must_understand
  // Bytes of workspace for arguments of these shapes or smaller; data pointers may be null. [main-thread]
  uint64_t (*workspace)(const Kernels& kernels, const moe_op_args& largest);
  // Runs it to the end; nothing allocates but the text of an error. [compute-thread]
  Status (*run)(const Kernels& kernels, const moe_op_args& args);
};

template <typename Args>
uint64_t no_workspace(const Kernels&, const Args&) {
  return 0;
}

// A row from functions over the operation's own argument struct.
template <typename Args, Status (*kRun)(const Kernels&, const Args&),
          uint64_t (*kWorkspace)(const Kernels&, const Args&) = no_workspace<Args>, uint32_t kKnown = 0>
constexpr OpRow op_row(const char* id) {
  return {id, kKnown,
          [](const Kernels& k, const moe_op_args& args) { return kWorkspace(k, reinterpret_cast<const Args&>(args)); },
          [](const Kernels& k, const moe_op_args& args) { return kRun(k, reinterpret_cast<const Args&>(args)); }};
}

std::span<const OpRow> small_ops();      // ops_small.cpp
std::span<const OpRow> matmul_ops();     // ops_matmul.cpp
std::span<const OpRow> ffn_ops();        // ops_ffn.cpp
std::span<const OpRow> attention_ops();  // ops_attention.cpp

// f(i, thread) for rows i in [0, n), in lots that are worth a task; `cost` of one row as in spread().
template <typename F>
void spread_rows(int64_t n, int64_t cost, F&& f) {
  const int64_t lot = std::max<int64_t>(1, 16 * 1024 / std::max<int64_t>(cost, 1));
  spread((n + lot - 1) / lot, n * cost, [&](int64_t task, int32_t thread) {
    const int64_t end = std::min(n, (task + 1) * lot);
    for (int64_t i = task * lot; i < end; ++i) f(i, thread);
  });
}

// Rows that are multiplied by the same weights, rounded into memory: one by one, but those before tiled_rows() in tiles
// where products of integers take them so.
class RowSet {
 public:
  RowSet() = default;
  RowSet(bool tiles, RowType type, int64_t n, int64_t k, char* memory)
      : type_(type), n_(n), k_(k), n_tiled_(tiles ? tiled_rows(n) : 0), bytes_(row_bytes(type, k)), memory_(memory) {}

  [[nodiscard]] const void* row(int64_t i) const { return memory_ + i * bytes_; }
  // Those that row i, the first of its tile, begins; null if all rows lie one by one.
  [[nodiscard]] const I8Tile* tiles(int64_t i) const { return n_tiled_ == 0 ? nullptr : tile(i); }

  // Elements [first, first + n) of row i: x times `factor`, rounded; see Kernels::round.
  void round(const Kernels& kernels, moe_activation_type activation, const float* x, float factor, int64_t first,
             int64_t n, int64_t i) const {
    if (i >= n_tiled_) return kernels.round(activation, type_, x, factor, first, n, k_, memory_ + i * bytes_);
    kernels.round_to_tile(x, factor, first, n, k_, tile(i), i % kI8TileRows);
    const int64_t end = first + n == k_ ? tile_groups(k_) : (first + n) / 32;
    if (i + 1 == n_) clear_behind(i, first / 32, end);
  }
  // Row i, from a row that lies by itself.
  void copy(const void* from, int64_t i) const {
    if (i >= n_tiled_) {
      std::memcpy(memory_ + i * bytes_, from, static_cast<size_t>(bytes_));
      return;
    }
    const auto* blocks = static_cast<const I8Block*>(from);
    I8Tile* to = tile(i);
    for (int64_t g = 0; g < tile_groups(k_); ++g) {
      std::memcpy(to[g].q[i % kI8TileRows], blocks[g / 2].q + g % 2 * 32, sizeof(to->q[0]));
      to[g].scale[i % kI8TileRows] = blocks[g / 2].scale[g % 2];
    }
    if (i + 1 == n_) clear_behind(i, 0, tile_groups(k_));
  }

 private:
  [[nodiscard]] I8Tile* tile(int64_t i) const {
    return reinterpret_cast<I8Tile*>(memory_) + i / kI8TileRows * tile_groups(k_);
  }
  // Groups [begin, end) of the rows that row i's tile has behind it.
  void clear_behind(int64_t i, int64_t begin, int64_t end) const {
    for (I8Tile* to = tile(i) + begin; to < tile(i) + end; ++to) {
      for (int64_t slot = i % kI8TileRows + 1; slot < kI8TileRows; ++slot) {
        std::memset(to->q[slot], 0, sizeof(to->q[slot]));
        to->scale[slot] = 0.0F;
      }
    }
  }

  RowType type_ = RowType::kF32;
  int64_t n_ = 0;
  int64_t k_ = 0;
  int64_t n_tiled_ = 0;
  int64_t bytes_ = 0;
  char* memory_ = nullptr;
};

// Sets of rows of k elements, one behind the other.
class RowSets {
 public:
  RowSets(const Kernels& kernels, RowType type, int64_t k)
      : tiles_(type == RowType::kI8 && kernels.takes_tiles), type_(type), k_(k) {}
  [[nodiscard]] bool has_tiles() const { return tiles_; }
  // Bytes of n_sets sets that have n_rows rows in all.
  [[nodiscard]] int64_t bytes(int64_t n_rows, int64_t n_sets) const {
    // A set with tiles, seven rows or more, takes up to nine places that are no rows.
    constexpr int64_t kMostFree = kI8TileRows - kFewRows - 1;
    const int64_t free = tiles_ ? kMostFree * std::min(n_sets, n_rows / (kFewRows + 1)) : 0;
    return (n_rows + free) * row_bytes(type_, k_);
  }
  // The set of n rows that lies in `memory` behind n_sets others, which have n_rows.
  [[nodiscard]] RowSet set(char* memory, int64_t n_rows, int64_t n_sets, int64_t n) const {
    return {tiles_, type_, n, k_, memory + bytes(n_rows, n_sets)};
  }

 private:
  bool tiles_;
  RowType type_;
  int64_t k_;
};

// Sums of rows x[0 .. m) with panels [panel, panel + n_panels) of a group, all of one block: c [m, kBlock]. `tiles`:
// see ProductArgs. `next`: the weights that are read after these, if not those that lie behind them.
inline void multiply(const Kernels& kernels, const moe_weight& w, int64_t group, int64_t panel, int64_t n_panels,
                     RowType type, const void* const* x, const I8Tile* tiles, int64_t m, float* c,
                     const char* next = nullptr) {
  const PanelPlace place = w.panel(group, panel);
  if (next == nullptr) next = place.first + n_panels * w.panel_bytes;
  const ProductArgs args{place.first, w.unit_bytes, place.step_bytes, n_panels, x, m, w.n_in, c, next, tiles};
  product_of(kernels, w.format, type)(args);
}

// How many panels a task takes: as many as one product call can, fewer where a weight has too few to go round.
inline int64_t task_panels(int64_t n_panels, int64_t matrices) {
  const int64_t wanted = 4 * n_threads();
  int64_t take = kBlockPanels;
  while (take > 1 && matrices * ((n_panels + take - 1) / take) < wanted) take /= 2;
  return take;
}
// The same where rows come in more than one call's lot: several blocks, which go over one lot of rows after the other,
// so that a row is found in the cache by all blocks but the first. Their weights stay there, too.
inline int64_t task_panels_of_many(int64_t n_panels, int64_t matrices, int64_t panel_bytes) {
  constexpr int64_t kStays = 576 * 1024;
  int64_t take = task_panels(n_panels, matrices);
  while (2 * take * panel_bytes <= kStays && matrices * n_panels / (2 * take) >= 4 * n_threads()) take *= 2;
  return take;
}

}  // namespace moe::cpu
