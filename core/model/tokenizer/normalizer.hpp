// What is done to a text before it is split: a sequence of steps, each from one part of the file's `normalizer`.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "core/model/tokenizer/pattern.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

struct UnicodeFormStep {
  enum class Form { kNfc, kNfd, kNfkc, kNfkd };
  Form form;
};
struct LowercaseStep {};
struct StripStep {
  bool left;
  bool right;
};
struct StripAccentsStep {};  // drops marks
struct PrependStep {         // to a text that is not empty
  std::string text;
};
struct ReplaceStep {
  TextPattern pattern;
  std::string content;
};
struct SpellBytesStep {};  // ByteLevel as a normalizer: bytes in the byte-level alphabet

using NormalizerStep =
    std::variant<UnicodeFormStep, LowercaseStep, StripStep, StripAccentsStep, PrependStep, ReplaceStep, SpellBytesStep>;

class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}

  [[nodiscard]] bool empty() const { return steps_.empty(); }
  // Rewrites valid UTF-8 in place. MOE_RESOURCE_EXHAUSTED: a pattern beyond its budget, or a result over kMaxTextBytes.
  moe::Status apply(std::string& text) const;

 private:
  std::vector<NormalizerStep> steps_;
};

// No text in the tokenizer grows beyond this: offsets fit 32 bits, and the heap of one giant piece 2 GB.
inline constexpr size_t kMaxTextBytes = size_t{64} << 20;

}  // namespace patchbay
