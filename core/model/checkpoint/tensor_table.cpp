#include "core/model/checkpoint/tensor_table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/model/checkpoint/utf8.hpp"

namespace patchbay {
namespace {

uint64_t hash_of(std::string_view name) { return std::hash<std::string_view>{}(name); }

// Maps the high half of a hash onto [0, n); the low half is kept in the slot, so that the two together tell names
// apart.
size_t home(uint64_t hash, size_t n) { return static_cast<size_t>(((hash >> 32) * n) >> 32); }

}  // namespace

std::string quoted_name(std::string_view name) {
  constexpr size_t kMax = 120;
  std::string out = "\"";
  while (!name.empty()) {
    const size_t n = utf8_length(name);
    if (out.size() + n > kMax) {
      out += "...";
      break;
    }
    const bool printable = n > 1 || (n == 1 && name[0] >= 0x20 && name[0] != 0x7f);
    out += printable ? name.substr(0, n) : "?";
    name.remove_prefix(n == 0 ? 1 : n);
  }
  return out + '"';
}

std::string shape_text(std::span<const int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

moe::Status visit_in_data_order(std::span<const TensorInfo> tensors,
                                const std::function<moe::Status(const TensorInfo&)>& visit) {
  const auto before = [](const TensorInfo& a, const TensorInfo& b) {
    return a.data != b.data ? a.data < b.data : a.bytes < b.bytes;
  };
  std::vector<uint32_t> order;  // only if they are not in order already, as they mostly are
  if (!std::is_sorted(tensors.begin(), tensors.end(), before)) {
    order.resize(tensors.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return before(tensors[a], tensors[b]); });
  }
  for (size_t i = 0; i < tensors.size(); ++i) MOE_TRY(visit(tensors[order.empty() ? i : order[i]]));
  return {};
}

size_t TensorTable::probe(std::string_view name, uint64_t hash) const {
  const auto check = static_cast<uint32_t>(hash);
  size_t at = home(hash, slots_.size());
  while (slots_[at].index != kEmpty && (slots_[at].check != check || tensors_[slots_[at].index].name != name)) {
    at = at + 1 == slots_.size() ? 0 : at + 1;
  }
  return at;
}

void TensorTable::resize_slots(size_t n) {
  slots_.assign(n, Slot{});
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const uint64_t hash = hash_of(tensors_[i].name);
    slots_[probe(tensors_[i].name, hash)] = {static_cast<uint32_t>(hash), static_cast<uint32_t>(i)};
  }
}

void TensorTable::reserve(size_t n) {
  const size_t total = tensors_.size() + n;
  tensors_.reserve(total);
  if (slots_needed(total) > slots_.size()) resize_slots(slots_needed(total));
}

const TensorInfo* TensorTable::add(const TensorInfo& tensor) {
  if (slots_needed(tensors_.size() + 1) > slots_.size()) resize_slots(slots_needed(tensors_.size() * 2));
  const uint64_t hash = hash_of(tensor.name);
  const size_t at = probe(tensor.name, hash);
  if (slots_[at].index != kEmpty) return &tensors_[slots_[at].index];
  slots_[at] = {static_cast<uint32_t>(hash), static_cast<uint32_t>(tensors_.size())};
  tensors_.push_back(tensor);
  return nullptr;
}

const TensorInfo* TensorTable::find(std::string_view name) const {
  if (slots_.empty()) return nullptr;
  const Slot& slot = slots_[probe(name, hash_of(name))];
  return slot.index == kEmpty ? nullptr : &tensors_[slot.index];
}

}  // namespace patchbay
