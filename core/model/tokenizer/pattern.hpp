// A literal or a regular expression, and what a split does with its matches.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/model/tokenizer/regex.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

class TextPattern {
 public:
  // MOE_INVALID_ARGUMENT: empty, or over 1 KiB (no known file has more than a few bytes).
  static moe::Result<TextPattern> literal(std::string text);
  static moe::Result<TextPattern> regex(std::string_view pattern);

  // Appends the stretches of `text` (valid UTF-8), which they tile; errors as Regex::find_all.
  moe::Status find_all(std::string_view text, std::vector<Match>& out) const;

  // The text to look for, or nullptr for a regular expression.
  [[nodiscard]] const std::string* as_literal() const { return std::get_if<std::string>(&what_); }

 private:
  explicit TextPattern(std::variant<std::string, Regex> what) : what_(std::move(what)) {}
  std::variant<std::string, Regex> what_;
};

// What becomes of the matches of a split (Hugging Face's SplitDelimiterBehavior).
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Reworks stretches in place: afterwards is_match says "leave this one out".
void apply_behavior(SplitBehavior behavior, std::vector<Match>& stretches);

}  // namespace patchbay
