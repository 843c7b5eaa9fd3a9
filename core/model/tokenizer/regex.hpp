// Regular expressions of tokenizer files: Oniguruma's dialect (what Hugging Face's library runs) by PCRE2.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

// A stretch of a text [begin, end) and whether a pattern matched it. The stretches of a text tile it.
struct Match {
  size_t begin;
  size_t end;
  bool is_match;
};

class Regex {
 public:
  // MOE_INVALID_ARGUMENT: not a pattern; MOE_UNIMPLEMENTED: Oniguruma's alone (nested classes, &&).
  static moe::Result<Regex> compile(std::string_view pattern);

  // Appends to `out` the matches in valid UTF-8 `text`, left to right, and the stretches between them. Nothing outside
  // `text` is seen by look-around. MOE_RESOURCE_EXHAUSTED: more backtracking than the budget, which grows with the
  // text.
  [[nodiscard]] moe::Status find_all(std::string_view text, std::vector<Match>& out) const;

 private:
  struct Code;
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  std::shared_ptr<const Code> code_;
};

// The same pattern in PCRE2's dialect under UTF, UCP and MULTILINE. For tests and for Regex.
moe::Result<std::string> pcre2_from_oniguruma(std::string_view pattern);

}  // namespace patchbay
