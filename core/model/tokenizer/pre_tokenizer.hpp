// Cuts a text into the pieces that BPE then treats one by one: a sequence of steps, each from one part of the file's
// `pre_tokenizer`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/model/tokenizer/pattern.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// A text and the pieces of it that are left, in order. Steps cut pieces smaller or write a new text.
struct Pieces {
  struct Span {
    uint32_t begin;
    uint32_t end;
    bool starts_input;  // begins where the whole input begins: what Metaspace's "first" asks
  };
  std::string text;
  std::vector<Span> spans;
  std::vector<Match> scratch;  // for the steps, so that one input allocates once
  std::vector<Span> next;      // likewise

  [[nodiscard]] std::string_view at(const Span& s) const {
    return std::string_view(text).substr(s.begin, s.end - s.begin);
  }
};

struct SplitStep {
  TextPattern pattern;
  SplitBehavior behavior;
  bool invert;
};
// Splits at single characters of one class: Digits, Punctuation, WhitespaceSplit.
struct CharacterStep {
  bool (*is_member)(char32_t);
  SplitBehavior behavior;
};
struct WhitespaceStep {};  // \w+|[^\w\s]+, the rest removed
struct ByteLevelStep {
  bool add_prefix_space;
  bool spell;  // write the bytes in the byte-level alphabet; false where BPE takes the bytes themselves
  std::vector<TextPattern> pattern;  // none or one
};
struct MetaspaceStep {
  enum class Prepend { kNever, kFirst, kAlways };
  std::string replacement;
  Prepend prepend;
  bool split;
};

using PreTokenizerStep = std::variant<SplitStep, CharacterStep, WhitespaceStep, ByteLevelStep, MetaspaceStep>;

class PreTokenizer {
 public:
  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {}
  // Errors as Normalizer::apply.
  moe::Status run(Pieces& pieces) const;
  [[nodiscard]] std::vector<PreTokenizerStep>& steps() { return steps_; }

 private:
  std::vector<PreTokenizerStep> steps_;
};

}  // namespace patchbay
