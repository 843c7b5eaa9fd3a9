#include "core/service/stop_matcher.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {

namespace {

std::vector<size_t> borders(std::string_view text) {
  std::vector<size_t> border(text.size() + 1, 0);
  for (size_t i = 1, k = 0; i < text.size(); ++i) {
    while (k > 0 && text[i] != text[k]) k = border[k];
    if (text[i] == text[k]) ++k;
    border[i + 1] = k;
  }
  return border;
}

}  // namespace

moe::Result<StopMatcher> StopMatcher::create(std::vector<std::string> strings) {
  if (strings.size() > kMaxStrings) {
    return moe::invalid(fmt::format("stop: expected at most {} strings, got {}", kMaxStrings, strings.size()));
  }
  std::vector<Pattern> patterns;
  for (std::string& s : strings) {
    if (s.empty() || s.size() > kMaxBytes) {
      return moe::invalid(fmt::format("stop: expected 1 to {} bytes, got {}", kMaxBytes, s.size()));
    }
    if (!unicode::is_valid(s)) return moe::invalid("stop: expected UTF-8, got other bytes");
    auto border = borders(s);
    patterns.push_back({std::move(s), std::move(border), 0});
  }
  return StopMatcher(std::move(patterns));
}

bool StopMatcher::Pattern::step(char c) {
  while (n_seen > 0 && text[n_seen] != c) n_seen = border[n_seen];
  if (text[n_seen] == c) ++n_seen;
  return n_seen == text.size();
}

std::string StopMatcher::push(std::string_view text) {
  if (matched_) return {};
  if (patterns_.empty()) return std::string(text);
  for (const char c : text) {
    held_ += c;
    for (size_t i = 0; i < patterns_.size(); ++i) {
      const bool found = patterns_[i].step(c);
      if (found && (!matched_ || patterns_[i].text.size() > patterns_[*matched_].text.size())) matched_ = i;
    }
    if (matched_) {
      held_.resize(held_.size() - patterns_[*matched_].text.size());
      return std::exchange(held_, {});
    }
  }
  size_t n_open = 0;  // bytes at the end that may be the beginning of a match
  for (const Pattern& p : patterns_) n_open = std::max(n_open, p.n_seen);
  std::string certain = held_.substr(0, held_.size() - n_open);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopMatcher::flush() { return matched_ ? std::string() : std::exchange(held_, {}); }

}  // namespace patchbay
