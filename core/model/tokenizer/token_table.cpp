#include "core/model/tokenizer/token_table.hpp"

#include <fmt/format.h>

#include <random>

#include "core/model/tokenizer/flat_map.hpp"
#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {

uint64_t hash_seed() {
  static const uint64_t seed = [] {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }();
  return seed;
}

TokenTable::TokenTable(size_t n_tokens) : slots_(slots_for(n_tokens), -1), max_id_(n_tokens + kMaxHoles) {}

moe::Status TokenTable::add(std::string_view text, int64_t id, bool in_model) {
  if (text.size() > kMaxTokenBytes) {
    return moe::invalid(fmt::format("token {}: expected at most {} bytes, got {}", id, kMaxTokenBytes, text.size()));
  }
  if (!unicode::is_valid(text)) return moe::invalid(fmt::format("token {}: expected UTF-8, got other bytes", id));
  if (id < 0 || static_cast<uint64_t>(id) > max_id_ || id >= INT32_MAX) {
    return moe::invalid(fmt::format("id of \"{}\": expected 0 to {}, got {}", text, max_id_, id));
  }
  const auto index = static_cast<size_t>(id);
  if (has(static_cast<int32_t>(id)) && this->text(static_cast<int32_t>(id)) != text) {
    return moe::invalid(fmt::format("id {}: expected one token, got \"{}\" and \"{}\"", id,
                                    this->text(static_cast<int32_t>(id)), text));
  }
  if (2 * (n_texts_ + 1) > slots_.size()) grow();
  int32_t& slot = slots_[slot_of(text)];
  if (slot >= 0 && slot != id) {
    return moe::invalid(fmt::format("token \"{}\": expected one id, got {} and {}", text, slot, id));
  }
  if (texts_.size() + text.size() > UINT32_MAX) return moe::invalid("tokens: expected at most 4 GiB of text, got more");
  if (slot < 0) {
    slot = static_cast<int32_t>(id);
    ++n_texts_;
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    tokens_[index].text = {static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(text.size())};
    tokens_[index].shown = tokens_[index].text;
    texts_ += text;
  }
  tokens_[index].used = true;
  tokens_[index].in_model |= in_model;
  return {};
}

void TokenTable::set_shown(int32_t id, std::string_view shown) {
  tokens_[static_cast<size_t>(id)].shown = {static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(shown.size())};
  texts_ += shown;
}

void TokenTable::set_bytes(int32_t id, std::string_view bytes) {
  tokens_[static_cast<size_t>(id)].bytes = {static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(bytes.size())};
  bytes_ += bytes;
}

size_t TokenTable::slot_of(std::string_view text) const {
  const size_t mask = slots_.size() - 1;
  size_t i = hash_bytes(text) & mask;
  while (slots_[i] >= 0 && this->text(slots_[i]) != text) i = (i + 1) & mask;
  return i;
}

void TokenTable::grow() {
  std::vector<int32_t> old(2 * slots_.size(), -1);
  old.swap(slots_);
  for (const int32_t id : old) {
    if (id >= 0) slots_[slot_of(text(id))] = id;
  }
}

std::optional<int32_t> TokenTable::find(std::string_view text) const {
  const int32_t id = slots_[slot_of(text)];
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<int32_t> TokenTable::find_in_model(std::string_view text) const {
  const std::optional<int32_t> id = find(text);
  return id && in_model(*id) ? id : std::nullopt;
}

}  // namespace patchbay
