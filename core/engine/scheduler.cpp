#include "core/engine/scheduler.hpp"

#include <algorithm>
#include <span>
#include <utility>

namespace patchbay {
namespace {

// Whether a goes before b: higher priority, then the earlier arrival (ids ascend).
bool before(const Sequence& a, const Sequence& b) {
  if (a.request.priority != b.request.priority) return a.request.priority > b.request.priority;
  return a.id < b.id;
}

}  // namespace

void Scheduler::add(std::unique_ptr<Sequence> sequence) {
  const auto at = std::upper_bound(waiting_.begin(), waiting_.end(), sequence, [](const auto& a, const auto& b) { return before(*a, *b); });
  waiting_.insert(at, std::move(sequence));
}

// Pages that others have filled with the same beginning. One token at least is left to compute: the next one is sampled from it.
void Scheduler::take_prefix(Sequence& s) {
  if (!options_.prefix_cache || !s.pages.empty()) return;
  const int64_t n = limits_.page_tokens;
  const std::span<const int32_t> tokens(s.tokens);
  int32_t parent = PrefixCache::kNone;
  for (int64_t at = 0; at + n < s.n_tokens(); at += n) {
    const auto page = pages_.prefixes().find(parent, tokens.subspan(static_cast<size_t>(at), static_cast<size_t>(n)));
    if (!page) break;
    pages_.share(*page);
    s.pages.push_back(*page);
    parent = *page;
  }
  s.n_known = static_cast<int64_t>(s.pages.size());
  s.n_cached = s.n_known * n;
}

void Scheduler::let_go(Sequence& s) {
  pages_.release_all(s.pages);
  s.n_cached = 0;
  s.n_known = 0;
}

void Scheduler::advance(Sequence& s) {
  s.n_cached += s.n_scheduled;
  if (!options_.prefix_cache) return;
  const int64_t n = limits_.page_tokens;
  for (; (s.n_known + 1) * n <= s.n_cached; ++s.n_known) {
    const auto index = static_cast<size_t>(s.n_known);
    const int32_t parent = index == 0 ? PrefixCache::kNone : s.pages[index - 1];
    const std::span<const int32_t> tokens(s.tokens.data() + s.n_known * n, static_cast<size_t>(n));
    const auto twin = pages_.prefixes().find(parent, tokens);
    if (!twin) {
      pages_.prefixes().insert(s.pages[index], parent, tokens);
    } else {  // somebody has filled the same meanwhile: one of the two is enough
      pages_.share(*twin);
      pages_.release(std::exchange(s.pages[index], *twin));
    }
  }
}

bool Scheduler::reserve(Sequence& s, int64_t n_tokens) {
  const int64_t wanted = pages_.pages_for(s.n_cached + n_tokens) - static_cast<int64_t>(s.pages.size());
  return wanted <= 0 || pages_.take(wanted, s.pages);
}

// Takes the pages of the running sequence that ranks last, unless that is the needy one or one that this step already runs.
bool Scheduler::preempt_for(const Sequence& needy) {
  Sequence* victim = nullptr;
  for (auto& s : running_) {
    if (s.get() == &needy || s->pages.empty() || s->n_scheduled > 0) continue;
    if (victim == nullptr || before(*victim, *s)) victim = s.get();
  }
  if (victim == nullptr || !before(needy, *victim)) return false;
  let_go(*victim);
  ++victim->usage.n_preempted;
  ++n_preemptions_;
  const auto it = std::find_if(running_.begin(), running_.end(), [&](const auto& s) { return s.get() == victim; });
  std::unique_ptr<Sequence> owned = std::move(*it);
  running_.erase(it);
  add(std::move(owned));
  return true;
}

// Waiting sequences join while there is a seat and room for all that they hold so far and one token more: admitted with less, they would push
// each other out again at once.
void Scheduler::admit(int64_t budget) {
  int64_t promised = 0;
  short_of_pages_ = false;
  for (const auto& s : running_) promised += std::max<int64_t>(0, pages_.pages_for(s->n_tokens() + 1) - static_cast<int64_t>(s->pages.size()));
  while (!waiting_.empty() && n_running() < limits_.max_sequences && budget > 0) {
    Sequence& next = *waiting_.front();
    take_prefix(next);
    const int64_t wanted = pages_.pages_for(next.n_tokens() + 1) - static_cast<int64_t>(next.pages.size());
    if (promised + wanted > pages_.n_free() && !running_.empty()) {
      short_of_pages_ = true;
      return let_go(next);
    }
    next.usage.n_reused = std::max(next.usage.n_reused, std::min(next.n_cached, next.n_prompt));
    n_reused_ += static_cast<uint64_t>(next.n_cached);
    promised += wanted;
    budget -= next.n_pending();
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

void Scheduler::place(Batch& batch, Sequence& s, int64_t n_tokens) {
  const auto row = static_cast<int32_t>(scheduled_.size());
  s.first_token = batch.n_tokens();
  s.n_scheduled = n_tokens;
  for (int64_t i = 0; i < n_tokens; ++i) {
    const int64_t position = s.n_cached + i;
    batch.ids.push_back(s.tokens[static_cast<size_t>(position)]);
    batch.positions.push_back(static_cast<int32_t>(position));
    batch.sequences.push_back(row);
    batch.cache_rows.push_back(s.pages[static_cast<size_t>(position / limits_.page_tokens)] * limits_.page_tokens + position % limits_.page_tokens);
  }
  const size_t begin = batch.page_table.size();
  batch.page_table.resize(begin + static_cast<size_t>(limits_.max_pages), 0);
  std::copy(s.pages.begin(), s.pages.end(), batch.page_table.begin() + static_cast<std::ptrdiff_t>(begin));
  if (s.n_cached + n_tokens == s.n_tokens()) batch.logit_rows.push_back(static_cast<int32_t>(batch.n_tokens() - 1));
  scheduled_.push_back(&s);
}

void Scheduler::schedule(Batch& batch) {
  batch.clear();
  batch.max_pages = limits_.max_pages;
  scheduled_.clear();
  for (auto& s : running_) s->n_scheduled = 0;
  int64_t budget = options_.batch_tokens;
  int64_t n_decoding = 0;
  for (const auto& s : running_) n_decoding += s->n_pending() == 1 ? 1 : 0;
  admit(std::max<int64_t>(0, budget - n_decoding));
  // Decodes first, then prefills: nobody's next token waits for somebody's long prompt. The order in running_ changes when one is
  // preempted, hence the copy.
  std::vector<Sequence*> order;
  for (const bool decode : {true, false}) {
    for (auto& s : running_) {
      if ((s->n_pending() == 1) == decode) order.push_back(s.get());
    }
  }
  for (Sequence* s : order) {
    const bool still_running = std::any_of(running_.begin(), running_.end(), [&](const auto& r) { return r.get() == s; });
    const bool decode = s->n_pending() == 1;
    if (!still_running || (budget <= 0 && !decode) || static_cast<int64_t>(scheduled_.size()) == limits_.max_sequences ||
        batch.n_tokens() == limits_.max_tokens) {
      continue;
    }
    const int64_t n_tokens = decode ? 1 : std::min({s->n_pending(), budget, limits_.max_tokens - batch.n_tokens()});
    bool has_pages = reserve(*s, n_tokens);
    while (!has_pages && preempt_for(*s)) has_pages = reserve(*s, n_tokens);
    if (!has_pages) continue;
    place(batch, *s, n_tokens);
    budget -= n_tokens;
  }
}

std::unique_ptr<Sequence> Scheduler::remove(Sequence* sequence, bool distrust) {
  std::unique_ptr<Sequence> owned;
  const auto is_it = [&](const auto& s) { return s.get() == sequence; };
  if (auto it = std::find_if(running_.begin(), running_.end(), is_it); it != running_.end()) {
    owned = std::move(*it);
    running_.erase(it);
  } else if (auto w = std::find_if(waiting_.begin(), waiting_.end(), is_it); w != waiting_.end()) {
    owned = std::move(*w);
    waiting_.erase(w);
  }
  if (owned == nullptr) return owned;
  if (distrust && !owned->pages.empty()) {
    for (const int32_t page : owned->pages) pages_.forget(page);
  }
  let_go(*owned);
  return owned;
}

}  // namespace patchbay
