#include "core/engine/cache.hpp"

namespace patchbay {

PageAllocator::PageAllocator(int64_t n_pages, int64_t page_tokens) : page_tokens_(page_tokens), holders_(static_cast<size_t>(n_pages), 0) {
  for (int64_t page = n_pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

bool PageAllocator::take(int64_t n, std::vector<int32_t>& out) {
  if (n > n_free()) return false;
  for (int64_t i = 0; i < n; ++i) {
    int32_t page = 0;
    if (free_.empty()) {
      page = *prefixes_.evict();  // there is one: n_free() counts it
    } else {
      page = free_.back();
      free_.pop_back();
    }
    holders_[static_cast<size_t>(page)] = 1;
    out.push_back(page);
  }
  return true;
}

void PageAllocator::share(int32_t page) {
  if (holders_[static_cast<size_t>(page)]++ == 0) prefixes_.hold(page);
}

void PageAllocator::release(int32_t page) {
  if (--holders_[static_cast<size_t>(page)] > 0) return;
  if (prefixes_.contains(page)) {
    prefixes_.retire(page);
  } else {
    free_.push_back(page);
  }
}

void PageAllocator::release_all(std::vector<int32_t>& pages) {
  for (size_t i = pages.size(); i-- > 0;) release(pages[i]);
  pages.clear();
}

void PageAllocator::forget(int32_t page) {
  if (!prefixes_.contains(page)) return;
  for (const int32_t idle : prefixes_.forget(page)) free_.push_back(idle);
}

}  // namespace patchbay
