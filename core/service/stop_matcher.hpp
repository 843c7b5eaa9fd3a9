// StopMatcher: finds the first of several strings in a text that comes in pieces.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

// The match that ends first counts; of those that end at one place, the longest. So the result does not depend on how
// the text was cut into pieces. Linear: every byte costs an amortised step for each string (Knuth, Morris, Pratt 1977),
// and no more text is held back than could still become a match. One thread at a time.
class StopMatcher {
 public:
  static constexpr size_t kMaxStrings = 32;
  static constexpr size_t kMaxBytes = 1024;  // of one string

  // MOE_INVALID_ARGUMENT: too many strings, an empty or too long one, or one that is not UTF-8.
  static moe::Result<StopMatcher> create(std::vector<std::string> strings);

  // The text that is certain to stand before any match, after `text` has come. Once matched() it is empty.
  std::string push(std::string_view text);
  // What was held back, where no more text will come.
  std::string flush();
  // The string that was found.
  [[nodiscard]] const std::string* matched() const { return matched_ ? &patterns_[*matched_].text : nullptr; }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> border;  // [i]: length of the longest proper border of the first i bytes
    size_t n_seen = 0;           // bytes of `text` that end the input so far
    [[nodiscard]] bool step(char c);
  };
  explicit StopMatcher(std::vector<Pattern> patterns) : patterns_(std::move(patterns)) {}

  std::vector<Pattern> patterns_;
  std::string held_;
  std::optional<size_t> matched_;
};

}  // namespace patchbay
