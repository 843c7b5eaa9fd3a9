#include "core/engine/scheduler.hpp"

#include <algorithm>

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
  pages_.release_all(victim->pages);
  victim->n_cached = 0;
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
  for (const auto& s : running_) promised += std::max<int64_t>(0, pages_.pages_for(s->n_tokens() + 1) - static_cast<int64_t>(s->pages.size()));
  while (!waiting_.empty() && n_running() < limits_.max_sequences && budget > 0) {
    Sequence& next = *waiting_.front();
    const int64_t wanted = pages_.pages_for(next.n_tokens() + 1);
    if (promised + wanted > pages_.n_free() && !running_.empty()) return;
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

std::unique_ptr<Sequence> Scheduler::remove(Sequence* sequence) {
  std::unique_ptr<Sequence> owned;
  const auto is_it = [&](const auto& s) { return s.get() == sequence; };
  if (auto it = std::find_if(running_.begin(), running_.end(), is_it); it != running_.end()) {
    owned = std::move(*it);
    running_.erase(it);
  } else if (auto w = std::find_if(waiting_.begin(), waiting_.end(), is_it); w != waiting_.end()) {
    owned = std::move(*w);
    waiting_.erase(w);
  }
  if (owned != nullptr) pages_.release_all(owned->pages);
  return owned;
}

}  // namespace patchbay
