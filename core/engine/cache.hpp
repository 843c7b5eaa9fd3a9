// The paged cache: which pages a sequence holds. The memory itself belongs to the layers (keys and values, latents, routers' context);
// all of it shares one page table, so that whatever a layer keeps a token follows the sequence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/engine/prefix_cache.hpp"

namespace patchbay {

// Hands out page numbers. A page may be held by several sequences (a shared prefix); when the last one lets go it is free, or idle where
// the prefix cache knows it: idle pages are given out when there are no others.
class PageAllocator {
 public:
  PageAllocator(int64_t n_pages, int64_t page_tokens);

  // n pages, or none at all if there are not so many: false, and `out` is as it was.
  [[nodiscard]] bool take(int64_t n, std::vector<int32_t>& out);
  void share(int32_t page);
  void release(int32_t page);
  // The last page first, so that of a sequence's idle pages the first goes last.
  void release_all(std::vector<int32_t>& pages);
  // A page whose content cannot be trusted, and all that follow it, are found by nobody any more.
  void forget(int32_t page);
  PrefixCache& prefixes() { return prefixes_; }

  [[nodiscard]] int64_t n_pages() const { return static_cast<int64_t>(holders_.size()); }
  [[nodiscard]] int64_t n_free() const { return static_cast<int64_t>(free_.size()) + prefixes_.n_idle(); }
  [[nodiscard]] int64_t n_idle() const { return prefixes_.n_idle(); }  // of n_free
  [[nodiscard]] int64_t page_tokens() const { return page_tokens_; }
  // Pages that hold n tokens.
  [[nodiscard]] int64_t pages_for(int64_t n_tokens) const { return (n_tokens + page_tokens_ - 1) / page_tokens_; }

 private:
  int64_t page_tokens_;
  std::vector<int32_t> free_;     // the last one goes first: pages that were used lately are warm
  std::vector<int32_t> holders_;  // by page
  PrefixCache prefixes_;
};

}  // namespace patchbay
