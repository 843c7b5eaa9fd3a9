#include "core/engine/prefix_cache.hpp"

#include <gtest/gtest.h>

#include <random>

#include "core/engine/cache.hpp"

namespace patchbay {
namespace {

using Tokens = std::vector<int32_t>;

TEST(PrefixCache, a_page_is_found_by_its_tokens_and_what_comes_before_it) {
  PrefixCache cache;
  EXPECT_TRUE(cache.insert(5, PrefixCache::kNone, Tokens{1, 2}));
  EXPECT_TRUE(cache.insert(6, 5, Tokens{3, 4}));
  EXPECT_EQ(cache.find(PrefixCache::kNone, Tokens{1, 2}), 5);
  EXPECT_EQ(cache.find(5, Tokens{3, 4}), 6);
  EXPECT_EQ(cache.find(PrefixCache::kNone, Tokens{3, 4}), std::nullopt);
  EXPECT_EQ(cache.find(6, Tokens{3, 4}), std::nullopt);
  EXPECT_EQ(cache.find(PrefixCache::kNone, Tokens{1}), std::nullopt);
  EXPECT_FALSE(cache.insert(9, 8, Tokens{7})) << "nobody knows page 8";
}

TEST(PrefixCache, the_longest_idle_goes_first_but_never_before_what_follows_it) {
  PrefixCache cache;
  cache.insert(1, PrefixCache::kNone, Tokens{1});
  cache.insert(2, 1, Tokens{2});
  cache.insert(3, PrefixCache::kNone, Tokens{3});
  EXPECT_EQ(cache.evict(), std::nullopt) << "all are held";
  cache.retire(1);
  cache.retire(3);
  EXPECT_EQ(cache.evict(), 3) << "page 1 is idle longer, but page 2 follows it";
  EXPECT_EQ(cache.evict(), std::nullopt);
  cache.retire(2);
  EXPECT_EQ(cache.n_idle(), 2);
  cache.hold(2);
  EXPECT_EQ(cache.evict(), std::nullopt);
  cache.retire(2);
  EXPECT_EQ(cache.evict(), 2);
  EXPECT_EQ(cache.evict(), 1);
  EXPECT_EQ(cache.n_idle(), 0);
  EXPECT_EQ(cache.find(PrefixCache::kNone, Tokens{1}), std::nullopt);
}

TEST(PrefixCache, what_is_forgotten_takes_all_that_follows_with_it) {
  PrefixCache cache;
  cache.insert(1, PrefixCache::kNone, Tokens{1});
  cache.insert(2, 1, Tokens{2});
  cache.insert(3, 2, Tokens{3});
  cache.insert(4, 1, Tokens{4});
  cache.retire(3);
  EXPECT_EQ(cache.forget(2), Tokens{3}) << "idle, and the caller's now";
  EXPECT_FALSE(cache.contains(2));
  EXPECT_FALSE(cache.contains(3));
  EXPECT_EQ(cache.find(1, Tokens{4}), 4);
  EXPECT_EQ(cache.n_idle(), 0);
}

TEST(PageAllocator, idle_pages_are_free_and_given_out_last) {
  PageAllocator pages(3, 1);
  Tokens a;
  ASSERT_TRUE(pages.take(2, a));
  const int32_t first = a[0];
  pages.prefixes().insert(first, PrefixCache::kNone, Tokens{7});
  pages.release_all(a);
  EXPECT_EQ(pages.n_free(), 3);
  EXPECT_EQ(pages.n_idle(), 1);
  Tokens b;
  ASSERT_TRUE(pages.take(2, b));
  EXPECT_EQ(pages.prefixes().find(PrefixCache::kNone, Tokens{7}), first);
  pages.share(first);
  EXPECT_EQ(pages.n_free(), 0);
  EXPECT_FALSE(pages.take(1, b));
  pages.release(first);
  ASSERT_TRUE(pages.take(1, b));
  EXPECT_EQ(b.back(), first);
  EXPECT_EQ(pages.prefixes().find(PrefixCache::kNone, Tokens{7}), std::nullopt);
}

// Sequences of few different tokens come and go: what each holds is always what it should, and no page is lost.
TEST(PageAllocator, no_page_is_lost_or_held_twice_whatever_comes_and_goes) {
  constexpr int64_t kPages = 40;
  PageAllocator pages(kPages, 1);
  struct Sequence {
    Tokens tokens;
    Tokens pages;
    size_t n_known = 0;
  };
  std::vector<Sequence> all;
  std::vector<Tokens> content(kPages);  // all tokens up to a page's end, as it was filled
  std::mt19937 random(3);
  for (int step = 0; step < 20000; ++step) {
    const uint32_t what = random() % 10;
    if (what < 4 && all.size() < 8) {
      Sequence s;
      const size_t n = 1 + random() % 10;
      for (size_t i = 0; i < n; ++i) s.tokens.push_back(static_cast<int32_t>(random() % 2));
      int32_t parent = PrefixCache::kNone;
      while (s.pages.size() < s.tokens.size()) {
        const auto page = pages.prefixes().find(parent, Tokens{s.tokens[s.pages.size()]});
        if (!page) break;
        pages.share(*page);
        s.pages.push_back(*page);
        parent = *page;
        const Tokens want(s.tokens.begin(), s.tokens.begin() + static_cast<std::ptrdiff_t>(s.pages.size()));
        ASSERT_EQ(content[static_cast<size_t>(*page)], want);
      }
      s.n_known = s.pages.size();
      all.push_back(std::move(s));
    } else if (what < 8 && !all.empty()) {  // one fills its next page
      Sequence& s = all[random() % all.size()];
      if (s.pages.size() == s.tokens.size() || !pages.take(1, s.pages)) continue;
      const size_t at = s.pages.size() - 1;
      content[static_cast<size_t>(s.pages[at])] =
          Tokens(s.tokens.begin(), s.tokens.begin() + static_cast<std::ptrdiff_t>(at + 1));
      if (s.n_known != at) continue;
      const int32_t parent = at == 0 ? PrefixCache::kNone : s.pages[at - 1];
      const auto twin = pages.prefixes().find(parent, Tokens{s.tokens[at]});
      if (twin) {
        pages.share(*twin);
        pages.release(std::exchange(s.pages[at], *twin));
      } else {
        pages.prefixes().insert(s.pages[at], parent, Tokens{s.tokens[at]});
      }
      ++s.n_known;
    } else if (!all.empty()) {
      const size_t i = random() % all.size();
      if (what == 9 && !all[i].pages.empty()) pages.forget(all[i].pages[random() % all[i].pages.size()]);
      pages.release_all(all[i].pages);
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
    }
    std::set<int32_t> held;
    for (const Sequence& s : all) held.insert(s.pages.begin(), s.pages.end());
    ASSERT_EQ(pages.n_free(), kPages - static_cast<int64_t>(held.size())) << step;
  }
  for (Sequence& s : all) pages.release_all(s.pages);
  Tokens everything;
  ASSERT_TRUE(pages.take(kPages, everything));
  EXPECT_EQ(std::set<int32_t>(everything.begin(), everything.end()).size(), static_cast<size_t>(kPages));
}

}  // namespace
}  // namespace patchbay
