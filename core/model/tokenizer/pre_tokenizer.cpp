#include "core/model/tokenizer/pre_tokenizer.hpp"

#include <fmt/format.h>

#include "core/model/tokenizer/byte_level.hpp"
#include "core/model/tokenizer/normalizer.hpp"
#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {
namespace {

using Span = Pieces::Span;

// Cuts every piece at the stretches that `find(text, stretches)` gives and drops those that it marks, and the empty
// ones.
template <typename Find>
moe::Status cut(Pieces& p, Find find) {
  p.next.clear();
  for (const Span& s : p.spans) {
    p.scratch.clear();
    MOE_TRY(find(p.at(s), p.scratch));
    for (const Match& m : p.scratch) {
      if (m.is_match || m.begin == m.end) continue;
      p.next.push_back({s.begin + static_cast<uint32_t>(m.begin), s.begin + static_cast<uint32_t>(m.end),
                        s.starts_input && m.begin == 0});
    }
  }
  p.spans.swap(p.next);
  return {};
}

// Writes every piece anew with `write(piece, starts_input, out)`.
template <typename Write>
moe::Status rewrite(Pieces& p, Write write) {
  std::string out;
  out.reserve(p.text.size() + p.spans.size());
  for (Span& s : p.spans) {
    const auto begin = static_cast<uint32_t>(out.size());
    write(p.at(s), s.starts_input, out);
    if (out.size() > kMaxTextBytes) {
      return moe::exhausted(fmt::format("pre_tokenizer: expected at most {} bytes, got more", kMaxTextBytes));
    }
    s.begin = begin;
    s.end = static_cast<uint32_t>(out.size());
  }
  p.text = std::move(out);
  return {};
}

moe::Status run(const SplitStep& step, Pieces& p) {
  return cut(p, [&step](std::string_view text, std::vector<Match>& out) -> moe::Status {
    MOE_TRY(step.pattern.find_all(text, out));
    if (step.invert) {
      for (Match& m : out) m.is_match = !m.is_match;
    }
    apply_behavior(step.behavior, out);
    return {};
  });
}

moe::Status run(const CharacterStep& step, Pieces& p) {
  return cut(p, [&step](std::string_view text, std::vector<Match>& out) -> moe::Status {
    size_t tiled = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      if (!step.is_member(unicode::next(text, at))) continue;
      if (begin > tiled) out.push_back({tiled, begin, false});
      out.push_back({begin, at, true});
      tiled = at;
    }
    if (tiled < text.size()) out.push_back({tiled, text.size(), false});
    apply_behavior(step.behavior, out);
    return {};
  });
}

enum class CharacterClass { kSpace, kWord, kOther };

CharacterClass class_of(char32_t c) {
  if (unicode::is_word(c)) return CharacterClass::kWord;
  return unicode::is_space(c) ? CharacterClass::kSpace : CharacterClass::kOther;
}

moe::Status run(const WhitespaceStep&, Pieces& p) {
  return cut(p, [](std::string_view text, std::vector<Match>& out) -> moe::Status {
    CharacterClass previous = CharacterClass::kSpace;
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      const CharacterClass c = class_of(unicode::next(text, at));
      if (!out.empty() && c == previous) {
        out.back().end = at;
      } else {
        out.push_back({begin, at, c == CharacterClass::kSpace});
      }
      previous = c;
    }
    return {};
  });
}

moe::Status run(const ByteLevelStep& step, Pieces& p) {
  if (step.add_prefix_space) {
    const auto prefix = [](std::string_view piece, bool, std::string& out) {
      if (!piece.starts_with(' ')) out += ' ';
      out += piece;
    };
    MOE_TRY(rewrite(p, prefix));
  }
  for (const TextPattern& pattern : step.pattern) {
    const auto words = [&pattern](std::string_view text, std::vector<Match>& out) -> moe::Status {
      MOE_TRY(pattern.find_all(text, out));
      apply_behavior(SplitBehavior::kIsolated, out);
      return {};
    };
    MOE_TRY(cut(p, words));
  }
  if (!step.spell) return {};
  return rewrite(p, [](std::string_view piece, bool, std::string& out) { byte_level::append_spelled(out, piece); });
}

moe::Status run(const MetaspaceStep& step, Pieces& p) {
  using Prepend = MetaspaceStep::Prepend;
  const auto replace = [&step](std::string_view piece, bool starts_input, std::string& out) {
    const bool asks = step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && starts_input);
    // A leading space is about to become the replacement: it then has its prefix already.
    if (asks && !piece.starts_with(' ') && !piece.starts_with(step.replacement)) out += step.replacement;
    for (const char c : piece) {
      if (c == ' ') {
        out += step.replacement;
      } else {
        out += c;
      }
    }
  };
  MOE_TRY(rewrite(p, replace));
  if (!step.split) return {};
  return cut(p, [&step](std::string_view text, std::vector<Match>& out) -> moe::Status {
    MOE_ASSIGN(const TextPattern pattern, TextPattern::literal(step.replacement));
    MOE_TRY(pattern.find_all(text, out));
    apply_behavior(SplitBehavior::kMergedWithNext, out);
    return {};
  });
}

}  // namespace

moe::Status PreTokenizer::run(Pieces& pieces) const {
  for (const PreTokenizerStep& step : steps_) {
    MOE_TRY(std::visit([&pieces](const auto& s) { return patchbay::run(s, pieces); }, step));
  }
  return {};
}

}  // namespace patchbay
