#include "weight.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "moe/sdk/numeric.hpp"
#include "moe/sdk/quant.hpp"
#include "moe/sdk/tensor.hpp"
#include "moe/sdk/weight_format.hpp"
#include "parallel.hpp"

namespace moe::cpu {

namespace {
constexpr uint64_t kLargePage = uint64_t{2} << 20;
constexpr uint64_t kChunk = uint64_t{64} << 20;
constexpr uint64_t kPage = 4096;
uint64_t round_up(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }
}  // namespace

struct Memory::Chunk {
  // Null data if there is not as much.
  explicit Chunk(uint64_t wanted) : n_bytes(round_up(wanted, kLargePage)), mapped(n_bytes + kLargePage) {
    void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return;
    base = p;
    data = reinterpret_cast<char*>(round_up(reinterpret_cast<uintptr_t>(p), kLargePage));
#ifdef MADV_HUGEPAGE
    madvise(data, n_bytes, MADV_HUGEPAGE);  // fewer misses of the TLB when weights stream; a refusal does no harm
#endif
  }
  ~Chunk() {
    if (base != nullptr) munmap(base, mapped);
  }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;

  uint64_t n_bytes;
  uint64_t mapped;
  void* base = nullptr;
  char* data = nullptr;
  uint64_t used = 0;
};

Memory::Memory(uint64_t n_bytes) {
  static std::mutex mutex;
  static std::weak_ptr<Chunk> open;  // the chunk that may have room
  if (n_bytes == 0) return;
  n_bytes = round_up(n_bytes, kPage);
  const std::lock_guard lock(mutex);
  const std::shared_ptr<Chunk> opened = open.lock();
  const uint64_t room = opened == nullptr ? 0 : opened->n_bytes - opened->used;
  chunk_ = n_bytes <= room ? opened : std::make_shared<Chunk>(std::max(n_bytes, kChunk));
  if (chunk_->data == nullptr) return;
  data_ = chunk_->data + chunk_->used;
  chunk_->used += n_bytes;
  if (chunk_->n_bytes - chunk_->used > room) open = chunk_;
}
Memory Memory::borrowed(const void* data) {
  Memory memory;
  memory.data_ = static_cast<char*>(const_cast<void*>(data));
  return memory;
}

namespace {

int64_t element_bytes(Format format) { return format == Format::kF32 ? 4 : 2; }

// A unit of a panel of sixteen rows: one k, two of bf16, 64 of int8, a line of int4.
int64_t unit_bytes(Format format) {
  if (is_integer(format)) return int_unit_bytes(format);
  return format == Format::kF16 ? 32 : 64;
}

// Units of a panel.
int64_t n_units(Format format, int64_t n_in) {
  const int64_t blocks = (n_in + kI8BlockElements - 1) / kI8BlockElements;
  if (format == Format::kI8) return blocks;
  if (format == Format::kI4) return blocks * kI4BlockLines;
  return format == Format::kBF16 ? (n_in + 1) / 2 : n_in;
}

// The weight's layout, without its memory.
Result<std::unique_ptr<moe_weight>> lay_out(const moe_weight_source& source, Format format) {
  const auto fail = [&] {
    return invalid("shape: expected one whose bytes can be counted, got " + std::to_string(source.n_groups) + " x [" +
                   std::to_string(source.n_out) + ", " + std::to_string(source.n_in) + "]");
  };
  constexpr int64_t kLimit = int64_t{1} << 40;
  if (source.n_groups < 0 || source.n_out < 0 || source.n_in < 0 || source.n_in > kLimit || source.n_out > kLimit)
    return fail();
  auto w = std::make_unique<moe_weight>();
  w->n_groups = source.n_groups;
  w->n_out = source.n_out;
  w->n_in = source.n_in;
  w->format = format;
  w->rows_as_they_are = source.uses == MOE_USE_EMBED;
  w->unit_bytes = w->rows_as_they_are ? source.n_in * element_bytes(format) : unit_bytes(format);
  w->n_panels = w->rows_as_they_are ? source.n_out : (source.n_out + kPanel - 1) / kPanel;
  w->panel_bytes = w->rows_as_they_are ? w->unit_bytes : n_units(format, source.n_in) * w->unit_bytes;
  uint64_t n_bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(w->n_panels), static_cast<uint64_t>(w->panel_bytes), &n_bytes))
    return fail();
  if (__builtin_mul_overflow(n_bytes, static_cast<uint64_t>(w->n_groups), &n_bytes)) return fail();
  if (n_bytes > (uint64_t{1} << 61)) return fail();
  return w;
}

// Where element k of row r of a panel of floats lies.
template <typename T>
T* element_at(const moe_weight& w, const PanelPlace& panel, int64_t r, int64_t k) {
  if (w.rows_as_they_are) return reinterpret_cast<T*>(panel.first) + k;
  if (w.format == Format::kBF16) return reinterpret_cast<T*>(panel.unit(k / 2)) + 2 * r + k % 2;
  return reinterpret_cast<T*>(panel.unit(k)) + r;
}

// Where a group of a row lies: its lines (see kernels.hpp), and its scale.
struct GroupPlace {
  char* first;
  int64_t line_bytes;
  uint16_t* scale;
  // Four bytes of line `line` of the group.
  [[nodiscard]] char* word(int64_t line) const { return first + line * line_bytes; }
  [[nodiscard]] char byte(int64_t k) const { return word(k / 4)[k % 4]; }
};
GroupPlace group_place(const moe_weight& w, const PanelPlace& panel, int64_t r, int64_t group) {
  const BlockPlace place = block_place(w.format, panel.step_bytes);
  char* block = panel.first + group / 2 * place.block_bytes;
  auto* scales = reinterpret_cast<uint16_t*>(block + place.scales());
  return {block + place.group(group % 2) + 4 * r, place.line_bytes, scales + group % 2 * kPanel + r};
}
void put_group(const moe_weight& w, const PanelPlace& panel, int64_t r, int64_t group, uint16_t scale,
               const int8_t* q) {
  const GroupPlace to = group_place(w, panel, r, group);
  *to.scale = scale;
  constexpr int64_t kHalf = kQuantGroup / 2;
  char bytes[kQuantGroup];
  int64_t n = kHalf;
  if (w.format == Format::kI8) {
    n = kQuantGroup;
    std::memcpy(bytes, q, kQuantGroup);
  } else {
    for (int64_t k = 0; k < kHalf; ++k) bytes[k] = static_cast<char>((q[k] + 8) | (q[k + kHalf] + 8) << 4);
  }
  for (int64_t line = 0; line < n / 4; ++line) std::memcpy(to.word(line), bytes + 4 * line, 4);
}
QuantGroup get_group(const moe_weight& w, const PanelPlace& panel, int64_t r, int64_t group) {
  const GroupPlace from = group_place(w, panel, r, group);
  QuantGroup out{};
  out.scale = f16_to_f32(*from.scale);
  for (int64_t k = 0; k < kQuantGroup; ++k) {
    if (w.format == Format::kI8) {
      out.q[k] = static_cast<int8_t>(from.byte(k));
    } else {
      const auto byte = static_cast<uint8_t>(from.byte(k % 16));
      out.q[k] = static_cast<int8_t>((k < 16 ? byte & 15 : byte >> 4) - 8);
    }
  }
  return out;
}

// One row of f32, quantised.
void quantize_row(const Kernels& kernels, const moe_weight& w, const float* values, int64_t r,
                  const PanelPlace& panel) {
  const auto quantize = w.format == Format::kI8 ? kernels.quantize_int8 : kernels.quantize_int4;
  for (int64_t k = 0; k < w.n_in; k += kQuantGroup) {
    const QuantGroup group = quantize(values + k, std::min(kQuantGroup, w.n_in - k));
    put_group(w, panel, r, k / kQuantGroup, f32_to_f16(group.scale), group.q);
  }
}

// Rows of q8_0 or q4_0 blocks as they are stored (GGUF's layouts, see moe/sdk/codec.hpp).
void copy_blocks(const moe_weight& w, const char* rows, int64_t n_rows, const PanelPlace& panel) {
  const bool wide = w.format == Format::kI8;
  const int64_t block_bytes = wide ? 34 : 18;
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t group = 0; group < w.n_in / kQuantGroup; ++group, rows += block_bytes) {
      uint16_t scale = 0;
      int8_t q[kQuantGroup];
      std::memcpy(&scale, rows, sizeof(scale));
      if (wide) {
        std::memcpy(q, rows + 2, kQuantGroup);
      } else {
        for (int64_t i = 0; i < 16; ++i) {
          const auto byte = static_cast<uint8_t>(rows[2 + i]);
          q[i] = static_cast<int8_t>((byte & 15) - 8);
          q[16 + i] = static_cast<int8_t>((byte >> 4) - 8);
        }
      }
      put_group(w, panel, r, group, scale, q);
    }
  }
}

// One row of f32 into its panel.
void pack_row(const Kernels& kernels, const moe_weight& w, const float* values, int64_t r, const PanelPlace& panel) {
  switch (w.format) {
    case Format::kF32:
      for (int64_t k = 0; k < w.n_in; ++k) *element_at<float>(w, panel, r, k) = values[k];
      return;
    case Format::kF16:
      for (int64_t k = 0; k < w.n_in; ++k) *element_at<uint16_t>(w, panel, r, k) = f32_to_f16(values[k]);
      return;
    case Format::kBF16:
      for (int64_t k = 0; k < w.n_in; ++k) *element_at<uint16_t>(w, panel, r, k) = f32_to_bf16(values[k]);
      return;
    default:
      quantize_row(kernels, w, values, r, panel);
  }
}

// Rows of 16-bit numbers as they are stored (aligned or not); the inner loop transposes elements or pairs of them.
void copy_rows(const moe_weight& w, const char* values, int64_t n_rows, const PanelPlace& panel) {
  const int64_t stride = w.n_in * 2;
  if (w.rows_as_they_are) {
    std::memcpy(panel.first, values, static_cast<size_t>(stride));
    return;
  }
  if (w.format == Format::kBF16) {
    for (int64_t pair = 0; pair < w.n_in / 2; ++pair) {
      char* unit = panel.unit(pair);
      for (int64_t r = 0; r < n_rows; ++r) std::memcpy(unit + r * 4, values + r * stride + pair * 4, 4);
    }
    if (w.n_in % 2 == 0) return;
    char* unit = panel.unit(w.n_in / 2);
    for (int64_t r = 0; r < n_rows; ++r) std::memcpy(unit + r * 4, values + (r + 1) * stride - 2, 2);
    return;
  }
  for (int64_t k = 0; k < w.n_in; ++k) {
    char* unit = panel.unit(k);
    for (int64_t r = 0; r < n_rows; ++r) std::memcpy(unit + r * 2, values + r * stride + k * 2, 2);
  }
}

// Rows of one panel into place: as they are stored, or from f32.
void pack_panel(const Kernels& kernels, const moe_weight& w, int64_t group, int64_t index, const void* raw,
                const float* values) {
  const int64_t rows = w.rows_as_they_are ? 1 : kPanel;
  const int64_t first = index * rows;
  const int64_t n = std::min(rows, w.n_out - first);
  const PanelPlace panel = w.panel(group, index);
  if (raw != nullptr && is_integer(w.format)) {
    const int64_t row_bytes = w.n_in / kQuantGroup * (w.format == Format::kI8 ? 34 : 18);
    return copy_blocks(w, static_cast<const char*>(raw) + first * row_bytes, n, panel);
  }
  if (raw != nullptr) return copy_rows(w, static_cast<const char*>(raw) + first * w.n_in * 2, n, panel);
  for (int64_t r = 0; r < n; ++r) pack_row(kernels, w, values + r * w.n_in, r, panel);
}

// What a weight is kept as, and whether its numbers are first rounded to those of "fp8", for which there are no
// kernels: they become bf16, which rounds their products of code and scale once more.
struct Kept {
  Format format;
  bool as_fp8;
};
Result<Kept> kept_as(const moe_weight_source& source) {
  MOE_ASSIGN(const int chosen, choose_weight_format(source, "cpu"));
  const bool as_fp8 = std::string_view(kWeightFormats[chosen]) == "fp8";
  return Kept{as_fp8 ? Format::kBF16 : static_cast<Format>(chosen), as_fp8};
}

void pack(const Kernels& kernels, const moe_weight_source& source, const moe_weight& w, bool as_fp8) {
  const std::string_view encoding = source.encoding == nullptr ? "f32" : source.encoding;
  const bool same_blocks = source.n_in % kQuantGroup == 0 && ((w.format == Format::kI8 && encoding == "q8_0") ||
                                                              (w.format == Format::kI4 && encoding == "q4_0"));
  const bool as_stored =
      !as_fp8 &&
      (same_blocks || ((w.format == Format::kF16 || w.format == Format::kBF16) && encoding == format_name(w.format)));
  // Rows are read in lots of 64: a task is worth it, and a source that is stored column by column is read by cache
  // lines. Those of fp8 in whole rows of blocks.
  const int64_t lot_rows = as_fp8 ? kFp8Block : 64;
  const int64_t panel_rows = w.rows_as_they_are ? 1 : kPanel;
  const int64_t lot = lot_rows / panel_rows;
  const int64_t tasks = (w.n_panels + lot - 1) / lot;
  std::vector<std::vector<float>> scratch(static_cast<size_t>(n_threads()));
  std::vector<std::atomic<int64_t>> left(static_cast<size_t>(w.n_groups));
  for (auto& n : left) n = tasks;
  spread(w.n_groups * tasks, kSpreadCost, [&](int64_t task, int32_t thread) {
    const int64_t group = task / tasks;
    const int64_t first = task % tasks * lot;
    const int64_t end = std::min(w.n_panels, first + lot);
    const void* raw = as_stored && source.raw != nullptr ? source.raw(source.context, group) : nullptr;
    auto& values = scratch[static_cast<size_t>(thread)];
    if (raw == nullptr) {
      const int64_t row = first * panel_rows;
      const int64_t n = std::min(lot_rows, w.n_out - row);
      values.resize(static_cast<size_t>(lot_rows * w.n_in));
      if (as_fp8) {
        read_fp8_as_f32(source, group, row / kFp8Block, values.data());
      } else {
        source.read_f32(source.context, group, row, n, values.data());
      }
    }
    for (int64_t p = first; p < end; ++p) {
      const float* rows = raw == nullptr ? values.data() + (p - first) * panel_rows * w.n_in : nullptr;
      pack_panel(kernels, w, group, p, raw, rows);
    }
    if (--left[static_cast<size_t>(group)] == 0 && source.done != nullptr) source.done(source.context, group);
  });
}

}  // namespace

const char* format_name(Format format) { return kWeightFormats[static_cast<int>(format)]; }

namespace {

moe_prepared give_away(std::unique_ptr<moe_weight> weight) {
  auto prepared = make<moe_prepared>();
  prepared.encoding = format_name(weight->format);
  prepared.n_bytes = weight->n_bytes();
  prepared.owner = prepared.weight = weight.release();
  prepared.release = [](moe_prepared* self) { delete static_cast<moe_weight*>(self->owner); };
  return prepared;
}

Result<moe_prepared> adopt_weight(const moe_weight_source& source, const void* bytes, uint64_t n_bytes) {
  MOE_ASSIGN(const Kept kept, kept_as(source));
  MOE_ASSIGN(std::unique_ptr<moe_weight> weight, lay_out(source, kept.format));
  if (n_bytes != weight->memory_bytes())
    return invalid("packed weight: expected " + std::to_string(weight->memory_bytes()) + " bytes, got " +
                   std::to_string(n_bytes));
  weight->memory = Memory::borrowed(bytes);
  return give_away(std::move(weight));
}

}  // namespace

Result<moe_prepared> prepare_weight(const Kernels& kernels, const moe_weight_source& source) {
  MOE_ASSIGN(const Kept kept, kept_as(source));
  MOE_ASSIGN(std::unique_ptr<moe_weight> weight, lay_out(source, kept.format));
  weight->memory = Memory(weight->memory_bytes());
  if (weight->memory.data() == nullptr)
    return exhausted("prepare: expected " + std::to_string(weight->memory_bytes()) + " bytes, got less");
  pack(kernels, source, *weight, kept.as_fp8);
  return give_away(std::move(weight));
}

void read_row(const moe_weight& w, int64_t group, int64_t row, float* out) {
  const int64_t rows = w.rows_as_they_are ? 1 : kPanel;
  const PanelPlace panel = w.panel(group, row / rows);
  const int64_t r = row % rows;
  switch (w.format) {
    case Format::kF32:
      for (int64_t k = 0; k < w.n_in; ++k) out[k] = *element_at<float>(w, panel, r, k);
      return;
    case Format::kF16:
      for (int64_t k = 0; k < w.n_in; ++k) out[k] = f16_to_f32(*element_at<uint16_t>(w, panel, r, k));
      return;
    case Format::kBF16:
      for (int64_t k = 0; k < w.n_in; ++k) out[k] = bf16_to_f32(*element_at<uint16_t>(w, panel, r, k));
      return;
    default:
      for (int64_t k = 0; k < w.n_in; k += kQuantGroup) {
        const QuantGroup g = get_group(w, panel, r, k / kQuantGroup);
        for (int64_t i = k; i < std::min(w.n_in, k + kQuantGroup); ++i)
          out[i] = g.scale * static_cast<float>(g.q[i - k]);
      }
  }
}

constexpr moe_backend_rows kRowsExtension = [] {
  auto rows = make<moe_backend_rows>();
  rows.shape = [](const moe_weight* weight, int64_t shape[3]) {
    shape[0] = weight->n_groups;
    shape[1] = weight->n_out;
    shape[2] = weight->n_in;
  };
  rows.row = [](const moe_weight* weight, int64_t group, int64_t row, float* scratch) -> const float* {
    if (weight->rows_as_they_are && weight->format == Format::kF32) {
      return reinterpret_cast<const float*>(weight->panel(group, row).first);
    }
    read_row(*weight, group, row, scratch);
    return scratch;
  };
  return rows;
}();

// What the file's comment in weight.hpp says, and the SDK's rounding: tests/plugins/backends/cpu/packed_test.cpp holds
// this name and some packed bytes together.
constexpr const char* kLayout = "cpu-panels-3";

constexpr moe_backend_packed kPackedExtension = [] {
  auto packed = make<moe_backend_packed>();
  packed.layout = [](moe_backend_instance*) { return kLayout; };
  packed.bytes = [](const moe_weight* weight, uint64_t* n_bytes) -> const void* {
    *n_bytes = weight->memory_bytes();
    return weight->memory.data();
  };
  packed.adopt = [](moe_backend_instance*, const moe_weight_source* source, const void* bytes, uint64_t n_bytes,
                    moe_prepared* out, moe_message* message) {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(source, "source"));
      MOE_TRY(check_struct(out, "out"));
      MOE_ASSIGN(const moe_prepared prepared, adopt_weight(*Grown(*source), bytes, n_bytes));
      give(out, prepared);
      return {};
    });
  };
  return packed;
}();

}  // namespace moe::cpu
