#include "core/model/checkpoint/tensor_table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>

namespace patchbay {
namespace {

uint64_t hash_of(std::string_view name) { return std::hash<std::string_view>{}(name); }

// Maps the high half of a hash onto [0, n); the low half is kept in the slot, so that the two together tell names
// apart.
size_t home(uint64_t hash, size_t n) { return static_cast<size_t>(((hash >> 32) * n) >> 32); }

}  // namespace

std::string quoted(std::string_view name) {
  constexpr size_t kMax = 120;
  std::string out = "\"";
  for (const char c : name.substr(0, kMax)) out += (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) ? '?' : c;
  // A cut within a multi-byte character would make the message invalid UTF-8.
  if (name.size() > kMax) {
    while (out.size() > 1 && (static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();
    if (out.size() > 1 && static_cast<unsigned char>(out.back()) >= 0xc0) out.pop_back();
    out += "...";
  }
  return out + '"';
}

std::string shape_text(std::span<const int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

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
