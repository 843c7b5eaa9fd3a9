// Packed weights of the backend `cpu`.
//
// For products sixteen output rows are interleaved: a panel of f32 is [k][16], of f16 [k][16], of bf16 [k / 2][16][2],
// k padded with zeros to an even number, missing rows zero. For MOE_USE_EMBED alone rows are kept as they are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"
#include "moe/abi/backend.h"
#include "moe/sdk/result.hpp"

namespace moe::cpu {

// Zeroed memory of whole pages, large pages where the system has them. Moves; empty after that.
class Memory {
 public:
  Memory() = default;
  // Null data if there is not as much.
  explicit Memory(uint64_t n_bytes);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  [[nodiscard]] char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  uint64_t n_bytes_ = 0;
};

}  // namespace moe::cpu

// The backend's weight.
struct moe_weight {
  int64_t n_groups = 0;
  int64_t n_out = 0;
  int64_t n_in = 0;
  moe::cpu::Format format = moe::cpu::Format::kF32;
  int64_t panel_rows = moe::cpu::kPanel;  // 1: rows as they are
  int64_t panel_bytes = 0;
  int64_t n_panels = 0;  // of a group
  moe::cpu::Memory memory;

  [[nodiscard]] char* panel(int64_t group, int64_t index) const {
    return memory.data() + (group * n_panels + index) * panel_bytes;
  }
  [[nodiscard]] uint64_t n_bytes() const { return static_cast<uint64_t>(n_groups * n_panels * panel_bytes); }
};

namespace moe::cpu {

const char* format_name(Format format);

// Packs a weight: tasks of one panel, matrices one after the other, source.done after each.
// MOE_INVALID_ARGUMENT: a shape that cannot be counted; MOE_UNIMPLEMENTED: `wanted` is not an encoding of this
// backend's; MOE_RESOURCE_EXHAUSTED: too little memory. [main-thread]
Result<moe_prepared> prepare_weight(const moe_weight_source& source);

// Elements [0, n_in) of a row as f32. [thread-safe]
void read_row(const moe_weight& weight, int64_t group, int64_t row, float* out);

extern const moe_backend_rows kRowsExtension;

}  // namespace moe::cpu
