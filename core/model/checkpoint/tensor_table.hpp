// The tensors of a checkpoint by name: 64 bytes a tensor and 11 of an index, for headers of 10^6 tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

// One stored tensor. A view: the checkpoint owns what it points to.
struct TensorInfo {
  std::string_view name;      // as the file spells it, UTF-8
  std::string_view encoding;  // string id: "f32", "f16", "bf16", "f8_e4m3", "i32", "u8", ... "q8_0", "q4_k", "mxfp4"
  std::span<const int64_t>
      shape;  // in elements, row-major, outermost first (as Hugging Face writes it); empty for a scalar
  const std::byte* data = nullptr;  // not necessarily aligned to the element
  size_t bytes = 0;
};

// Number of elements of a shape that was checked when loading. 1 for a scalar.
inline int64_t element_count(std::span<const int64_t> shape) {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

// A name for messages: quoted, cut at about 120 bytes, control characters and what is not UTF-8 as '?'. (Not `quoted`:
// for a std::string that would be found in namespace std.)
std::string quoted_name(std::string_view name);

// "[2, 3]", for messages.
std::string shape_text(std::span<const int64_t> shape);

// Calls `visit` for each by increasing address of the data (then size), up to the first error, which it returns.
moe::Status visit_in_data_order(std::span<const TensorInfo> tensors,
                                const std::function<moe::Status(const TensorInfo&)>& visit);

// Grows while a checkpoint is opened; after that only find() and tensors() are used.
class TensorTable {
 public:
  // Makes room for `n` more tensors, so that adding them moves none: the index now, the rest as address space that
  // becomes memory when tensors are added.
  void reserve(size_t n);

  // Adds a tensor, or returns the one that has its name already (and adds nothing).
  const TensorInfo* add(const TensorInfo& tensor);

  // Says where the bytes of tensor `i` lie, for formats that describe all tensors first.
  void place(size_t i, const std::byte* data) { tensors_[i].data = data; }

  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  [[nodiscard]] std::span<const TensorInfo> tensors() const { return tensors_; }

  // Where decoded names and shapes live; freed with the table.
  [[nodiscard]] std::pmr::memory_resource* arena() { return arena_.get(); }

 private:
  // Half of the hash beside the index keeps a probe from touching names: they lie in mapped pages that may have been
  // given back, and one touch may bring 2 MiB of them in again.
  struct Slot {
    uint32_t check = 0;
    uint32_t index = kEmpty;
  };
  static constexpr uint32_t kEmpty = UINT32_MAX;

  static constexpr size_t slots_needed(size_t n_tensors) { return n_tensors + n_tensors / 3 + 16; }
  [[nodiscard]] size_t probe(std::string_view name, uint64_t hash) const;
  void resize_slots(size_t n);

  std::vector<TensorInfo> tensors_;
  std::vector<Slot> slots_;
  std::unique_ptr<std::pmr::monotonic_buffer_resource> arena_ = std::make_unique<std::pmr::monotonic_buffer_resource>();
};

}  // namespace patchbay
