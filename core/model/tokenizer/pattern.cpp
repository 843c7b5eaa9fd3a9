#include "core/model/tokenizer/pattern.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace patchbay {
namespace {

constexpr size_t kMaxLiteralBytes = 1024;

void find_literal(std::string_view text, std::string_view wanted, std::vector<Match>& out) {
  size_t tiled = 0;
  while (tiled < text.size()) {
    // memmem is linear for any needle; std::string_view::find is not.
    const void* hit = memmem(text.data() + tiled, text.size() - tiled, wanted.data(), wanted.size());
    if (hit == nullptr) break;
    const auto begin = static_cast<size_t>(static_cast<const char*>(hit) - text.data());
    if (begin > tiled) out.push_back({tiled, begin, false});
    tiled = begin + wanted.size();
    out.push_back({begin, tiled, true});
  }
  if (tiled < text.size()) out.push_back({tiled, text.size(), false});
}

// Joins a stretch to the one before where `joins(is_match, previous_is_match)`; none is left out.
template <typename Joins>
void fold(std::vector<Match>& stretches, Joins joins) {
  size_t n = 0;
  bool previous = false;
  for (const Match m : stretches) {
    if (n > 0 && joins(m.is_match, previous)) {
      stretches[n - 1].begin = std::min(stretches[n - 1].begin, m.begin);
      stretches[n - 1].end = std::max(stretches[n - 1].end, m.end);
    } else {
      stretches[n++] = {m.begin, m.end, false};
    }
    previous = m.is_match;
  }
  stretches.resize(n);
}

}  // namespace

moe::Result<TextPattern> TextPattern::literal(std::string text) {
  if (text.empty() || text.size() > kMaxLiteralBytes) {
    return moe::invalid(fmt::format("pattern: expected 1 to {} bytes, got {}", kMaxLiteralBytes, text.size()));
  }
  return TextPattern(std::move(text));
}

moe::Result<TextPattern> TextPattern::regex(std::string_view pattern) {
  MOE_ASSIGN(Regex compiled, Regex::compile(pattern));
  return TextPattern(std::move(compiled));
}

moe::Status TextPattern::find_all(std::string_view text, std::vector<Match>& out) const {
  if (const std::string* wanted = as_literal()) {
    find_literal(text, *wanted, out);
    return {};
  }
  return std::get<Regex>(what_).find_all(text, out);
}

void apply_behavior(SplitBehavior behavior, std::vector<Match>& stretches) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
      return;
    case SplitBehavior::kIsolated:
      for (Match& m : stretches) m.is_match = false;
      return;
    case SplitBehavior::kContiguous:
      return fold(stretches, [](bool match, bool previous) { return match == previous; });
    case SplitBehavior::kMergedWithPrevious:
      return fold(stretches, [](bool match, bool previous) { return match && !previous; });
    case SplitBehavior::kMergedWithNext:
      std::reverse(stretches.begin(), stretches.end());
      fold(stretches, [](bool match, bool previous) { return match && !previous; });
      std::reverse(stretches.begin(), stretches.end());
      return;
  }
}

}  // namespace patchbay
