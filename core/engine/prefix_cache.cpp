#include "core/engine/prefix_cache.hpp"

namespace patchbay {

std::optional<int32_t> PrefixCache::find(int32_t parent, std::span<const int32_t> tokens) const {
  const auto found = pages_.find({parent, {tokens.begin(), tokens.end()}});
  return found == pages_.end() ? std::nullopt : std::optional(found->second);
}

bool PrefixCache::insert(int32_t page, int32_t parent, std::span<const int32_t> tokens) {
  if (parent != kNone && !contains(parent)) return false;
  const auto place = pages_.emplace(Key(parent, {tokens.begin(), tokens.end()}), page).first;
  entries_[page] = {place, {}, std::nullopt};
  if (parent != kNone) {
    entries_[parent].children.insert(page);
    update_leaf(parent);
  }
  return true;
}

void PrefixCache::retire(int32_t page) {
  entries_[page].idle_since = ++n_retired_;
  ++n_idle_;
  update_leaf(page);
}

void PrefixCache::hold(int32_t page) {
  Entry& entry = entries_[page];
  idle_leaves_.erase({*entry.idle_since, page});
  entry.idle_since.reset();
  --n_idle_;
}

void PrefixCache::update_leaf(int32_t page) {
  const Entry& entry = entries_[page];
  if (!entry.idle_since) return;
  if (entry.children.empty()) {
    idle_leaves_.insert({*entry.idle_since, page});
  } else {
    idle_leaves_.erase({*entry.idle_since, page});
  }
}

void PrefixCache::remove(int32_t page) {
  const auto found = entries_.find(page);
  const int32_t parent = found->second.place->first.first;
  if (found->second.idle_since) {
    idle_leaves_.erase({*found->second.idle_since, page});
    --n_idle_;
  }
  pages_.erase(found->second.place);
  entries_.erase(found);
  if (parent == kNone) return;
  entries_[parent].children.erase(page);
  update_leaf(parent);
}

std::optional<int32_t> PrefixCache::evict() {
  if (idle_leaves_.empty()) return std::nullopt;
  const int32_t page = idle_leaves_.begin()->second;
  remove(page);
  return page;
}

std::vector<int32_t> PrefixCache::forget(int32_t page) {
  std::vector<int32_t> order{page};  // parents before children
  for (size_t i = 0; i < order.size(); ++i) {
    const auto& children = entries_[order[i]].children;
    order.insert(order.end(), children.begin(), children.end());
  }
  std::vector<int32_t> idle;
  for (size_t i = order.size(); i-- > 0;) {
    if (entries_[order[i]].idle_since) idle.push_back(order[i]);
    remove(order[i]);
  }
  return idle;
}

}  // namespace patchbay
