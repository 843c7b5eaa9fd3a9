// Hashing for tables that are filled once and read millions of times.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace patchbay {

// Multiplies and folds the high half down, twice: every bit of `a` reaches every bit of the result.
inline uint64_t mix64(uint64_t a, uint64_t odd) {
  a ^= a >> 32;
  a *= odd;
  a ^= a >> 29;
  a *= odd;
  return a ^ (a >> 32);
}

// Drawn once a process, so that no file can be made to collide.
uint64_t hash_seed();

inline uint64_t hash_key(uint64_t key) { return mix64(key ^ hash_seed(), 0x9E3779B97F4A7C15ULL); }

inline uint64_t hash_bytes(std::string_view bytes) {
  uint64_t h = hash_seed() ^ bytes.size();
  while (bytes.size() >= 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), 8);
    h = mix64(h ^ word, 0x9E3779B97F4A7C15ULL);
    bytes.remove_prefix(8);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, bytes.data(), bytes.size());
  return mix64(h ^ rest, 0xD6E8FEB86659FD93ULL);
}

// The least power of two that holds n entries at most half full.
inline size_t slots_for(size_t n) {
  size_t slots = 16;
  while (slots < 2 * n) slots *= 2;
  return slots;
}

// 64-bit keys to 64-bit values, open addressing. The key ~0 is not allowed.
class FlatMap {
 public:
  explicit FlatMap(size_t n_expected = 0) : entries_(slots_for(n_expected), Entry{kEmpty, 0}) {}

  // Sets the value, over an old one too.
  void set(uint64_t key, uint64_t value) {
    if (2 * (n_ + 1) > entries_.size()) grow();
    Entry& e = entries_[slot_of(key)];
    n_ += e.key == kEmpty ? 1 : 0;
    e = {key, value};
  }
  [[nodiscard]] const uint64_t* find(uint64_t key) const {
    const Entry& e = entries_[slot_of(key)];
    return e.key == kEmpty ? nullptr : &e.value;
  }

 private:
  struct Entry {
    uint64_t key;
    uint64_t value;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};

  [[nodiscard]] size_t slot_of(uint64_t key) const {
    const size_t mask = entries_.size() - 1;
    size_t i = hash_key(key) & mask;
    while (entries_[i].key != kEmpty && entries_[i].key != key) i = (i + 1) & mask;
    return i;
  }
  void grow() {
    std::vector<Entry> old(2 * entries_.size(), Entry{kEmpty, 0});
    old.swap(entries_);
    for (const Entry& e : old) {
      if (e.key != kEmpty) entries_[slot_of(e.key)] = e;
    }
  }

  std::vector<Entry> entries_;
  size_t n_ = 0;
};

}  // namespace patchbay
