// PrefixCache: full pages of the cache by what they hold, so that sequences which begin alike share them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace patchbay {

// A page is known by its tokens and by the page before it (its parent, itself in the index; -1: it is the first). What
// a page holds is a function of the tokens up to its end and of nothing else (keys, values, latents and routers'
// context alike), and a full page is never written again: so pages can be shared without copies. A page that nobody
// holds any more is idle: it stays until its room is needed, the longest idle first, and never before the pages that
// follow it.
class PrefixCache {
 public:
  static constexpr int32_t kNone = -1;

  // The page that holds `tokens` after `parent`.
  [[nodiscard]] std::optional<int32_t> find(int32_t parent, std::span<const int32_t> tokens) const;
  // Enters a page that somebody holds. False: the parent is not in the index. The content must not be in it.
  bool insert(int32_t page, int32_t parent, std::span<const int32_t> tokens);
  [[nodiscard]] bool contains(int32_t page) const { return entries_.contains(page); }

  // Nobody holds it any more; somebody holds it again.
  void retire(int32_t page);
  void hold(int32_t page);
  // Takes out the page that has been idle longest and that no other in the index follows. Nothing: none is idle.
  std::optional<int32_t> evict();
  // Takes out a page and all that follow it, for what they hold cannot be trusted. Those of them that are idle, which
  // now belong to the caller.
  std::vector<int32_t> forget(int32_t page);

  [[nodiscard]] int64_t n_idle() const { return n_idle_; }

 private:
  using Key = std::pair<int32_t, std::vector<int32_t>>;  // parent, tokens
  struct Entry {
    std::map<Key, int32_t>::iterator place;
    std::set<int32_t> children;
    std::optional<uint64_t> idle_since;  // in retirements
  };
  void remove(int32_t page);
  void update_leaf(int32_t page);

  std::map<Key, int32_t> pages_;
  std::map<int32_t, Entry> entries_;
  std::set<std::pair<uint64_t, int32_t>> idle_leaves_;  // since when, page
  uint64_t n_retired_ = 0;
  int64_t n_idle_ = 0;
};

}  // namespace patchbay
