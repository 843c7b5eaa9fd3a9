// Packed weights of the backend `cpu`.
//
// For products sixteen output rows are a panel, cut along k into units: f32 [1 k][16 rows], f16 the same, bf16 [16
// rows][2 k], int8 64 k, int4 a line of them (kernels.hpp). k is padded with zeros to whole units; missing rows are
// zero. The units of up to four panels, a block, lie side by side, unit after unit, so that a product that takes a
// block together reads memory in one stream: with a stream a panel int8 read 8.6 GB/s where one stream gave 15 (one
// busy core, k 1024). For MOE_USE_EMBED alone rows are kept as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels.hpp"
#include "moe/abi/packed.h"
#include "moe/sdk/result.hpp"

namespace moe::cpu {

// Zeroed memory for a weight or a buffer. They lie side by side in chunks of large pages, where the system has them: a
// weight of a few MiB alone in its pages would have half of itself in small ones, and then reads a third slower. Moves;
// empty after that.
class Memory {
 public:
  Memory() = default;
  // Null data if there is not as much. [thread-safe]
  explicit Memory(uint64_t n_bytes);
  // Somebody else's, for reading only, which stays as long as this.
  static Memory borrowed(const void* data);
  [[nodiscard]] char* data() const { return data_; }

 private:
  struct Chunk;
  std::shared_ptr<Chunk> chunk_;  // null: borrowed, or empty
  char* data_ = nullptr;
};

}  // namespace moe::cpu

namespace moe::cpu {

// Where a panel's units lie.
struct PanelPlace {
  char* first;
  int64_t step_bytes;
  [[nodiscard]] char* unit(int64_t index) const { return first + index * step_bytes; }
};

}  // namespace moe::cpu

// The backend's weight.
struct moe_weight {
  int64_t n_groups = 0;
  int64_t n_out = 0;
  int64_t n_in = 0;
  moe::cpu::Format format = moe::cpu::Format::kF32;
  bool rows_as_they_are = false;
  int64_t unit_bytes = 0;   // of a panel; or of a row where they are as they are
  int64_t n_panels = 0;     // of a group; or rows
  int64_t panel_bytes = 0;  // all units
  moe::cpu::Memory memory;

  [[nodiscard]] moe::cpu::PanelPlace panel(int64_t group, int64_t index) const {
    char* base = memory.data() + group * n_panels * panel_bytes;
    if (rows_as_they_are) return {base + index * panel_bytes, panel_bytes};
    const int64_t first = index / moe::cpu::kBlockPanels * moe::cpu::kBlockPanels;
    const int64_t beside = n_panels - first < moe::cpu::kBlockPanels ? n_panels - first : moe::cpu::kBlockPanels;
    return {base + first * panel_bytes + (index - first) * unit_bytes, beside * unit_bytes};
  }
  [[nodiscard]] uint64_t n_bytes() const { return static_cast<uint64_t>(n_groups * n_panels * panel_bytes); }
  // With what lies behind the last panel: a product may look ahead.
  [[nodiscard]] uint64_t memory_bytes() const { return n_bytes() + 64; }
};

namespace moe::cpu {

const char* format_name(Format format);

// Packs a weight: tasks of one panel, matrices one after the other, source.done after each.
// MOE_INVALID_ARGUMENT: a shape that cannot be counted; MOE_UNIMPLEMENTED: `wanted` is not an encoding of this
// backend's; MOE_RESOURCE_EXHAUSTED: too little memory. [main-thread]
Result<moe_prepared> prepare_weight(const Kernels& kernels, const moe_weight_source& source);

// Elements [0, n_in) of a row as f32. [thread-safe]
void read_row(const moe_weight& weight, int64_t group, int64_t row, float* out);

extern const moe_backend_rows kRowsExtension;
extern const moe_backend_packed kPackedExtension;

}  // namespace moe::cpu
