// Remembers the ids of short pieces: most of a text is words that were seen before.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace patchbay {

// For one thread at a time. Bounded: when full it forgets everything (a few MB; refilling takes milliseconds).
class WordCache {
 public:
  static constexpr size_t kMaxKeyBytes = 64;
  static constexpr size_t kMaxWords = 48 * 1024;

  WordCache();
  // The remembered ids, valid until the next insert.
  [[nodiscard]] std::optional<std::span<const int32_t>> find(std::string_view word) const;
  // Remembers `ids` for a word that find() does not know. Words over kMaxKeyBytes are not kept.
  void insert(std::string_view word, std::span<const int32_t> ids);

 private:
  struct Slot {
    uint32_t tag = 0;  // the hash's upper half
    uint32_t key_at = 0;
    uint32_t ids_at = 0;
    uint16_t n_key = 0;  // 0: free
    uint16_t n_ids = 0;
  };
  [[nodiscard]] size_t slot_of(std::string_view word, uint64_t hash) const;
  void clear();

  std::vector<Slot> slots_;
  std::string keys_;
  std::vector<int32_t> ids_;
  size_t n_words_ = 0;
};

}  // namespace patchbay
