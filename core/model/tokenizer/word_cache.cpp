#include "core/model/tokenizer/word_cache.hpp"

#include "core/model/tokenizer/flat_map.hpp"

namespace patchbay {

WordCache::WordCache() : slots_(slots_for(kMaxWords)) {}

size_t WordCache::slot_of(std::string_view word, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    const Slot& s = slots_[i];
    if (s.n_key == 0) return i;
    if (s.tag == tag && std::string_view(keys_).substr(s.key_at, s.n_key) == word) return i;
  }
}

std::optional<std::span<const int32_t>> WordCache::find(std::string_view word) const {
  if (word.empty() || word.size() > kMaxKeyBytes) return std::nullopt;
  const Slot& s = slots_[slot_of(word, hash_bytes(word))];
  if (s.n_key == 0) return std::nullopt;
  return std::span(ids_).subspan(s.ids_at, s.n_ids);
}

void WordCache::insert(std::string_view word, std::span<const int32_t> ids) {
  if (word.empty() || word.size() > kMaxKeyBytes || ids.size() > UINT16_MAX) return;
  if (n_words_ == kMaxWords) clear();
  const uint64_t hash = hash_bytes(word);
  slots_[slot_of(word, hash)] = {static_cast<uint32_t>(hash >> 32), static_cast<uint32_t>(keys_.size()),
                                 static_cast<uint32_t>(ids_.size()), static_cast<uint16_t>(word.size()),
                                 static_cast<uint16_t>(ids.size())};
  keys_ += word;
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  ++n_words_;
}

void WordCache::clear() {
  slots_.assign(slots_.size(), Slot{});
  keys_.clear();
  ids_.clear();
  n_words_ = 0;
}

}  // namespace patchbay
