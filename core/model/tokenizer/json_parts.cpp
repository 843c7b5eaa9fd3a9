#include "core/model/tokenizer/json_parts.hpp"

#include <algorithm>

#include "core/model/tokenizer/byte_level.hpp"
#include "core/model/tokenizer/json_fields.hpp"
#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {
namespace {

using fields::json;

constexpr size_t kMaxNesting = 8;
constexpr size_t kMaxParts = 64;

// A reader of one type of part: appends its steps.
template <typename Step>
struct Reader {
  const char* type;
  moe::Status (*read)(const json& part, std::vector<Step>& out);
};

template <typename Step, size_t n>
moe::Result<std::vector<Step>> read_steps(const json& part, const char* list_key, const Reader<Step> (&readers)[n]) {
  MOE_ASSIGN(const std::vector<TypedPart> flat, flatten_sequence(part, list_key));
  std::vector<Step> steps;
  for (const TypedPart& p : flat) {
    const Reader<Step>* found = nullptr;
    std::string known;
    for (const Reader<Step>& r : readers) {
      if (p.type == r.type) found = &r;
      known += fmt::format("{}, ", r.type);
    }
    if (found == nullptr)
      return moe::unimplemented(fmt::format("type: expected one of {}Sequence, got \"{}\"", known, p.type));
    if (auto done = found->read(*p.part, steps); !done.ok()) return done.error().in(p.type);
  }
  return steps;
}

moe::Result<SplitBehavior> read_behavior(const json& part, const char* fallback) {
  MOE_ASSIGN(const std::string name, fields::text(part, "behavior", fallback));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return moe::invalid(fmt::format(
      "behavior: expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, got \"{}\"", name));
}

moe::Result<std::string> read_character(const json& part, const char* key) {
  MOE_ASSIGN(std::string text, fields::text(part, key));
  if (text.empty() || !unicode::is_valid(text) || unicode::length_at(text, 0) != text.size()) {
    return moe::invalid(fmt::format("{}: expected one character, got \"{}\"", key, text));
  }
  return text;
}

// What a part puts into the text: short, so that no file makes a small text huge.
moe::Result<std::string> read_content(const json& part, const char* key) {
  constexpr size_t kMaxBytes = 1024;
  MOE_ASSIGN(std::string text, fields::text(part, key));
  if (text.size() > kMaxBytes)
    return moe::invalid(fmt::format("{}: expected at most {} bytes, got {}", key, kMaxBytes, text.size()));
  return text;
}

template <UnicodeFormStep::Form form>
moe::Status read_form(const json&, std::vector<NormalizerStep>& out) {
  out.emplace_back(UnicodeFormStep{form});
  return {};
}

template <typename Step, typename In>
moe::Status read_plain(const json&, std::vector<In>& out) {
  out.emplace_back(Step{});
  return {};
}

moe::Status read_strip(const json& part, std::vector<NormalizerStep>& out) {
  MOE_ASSIGN(const bool left, fields::boolean(part, "strip_left", true));
  MOE_ASSIGN(const bool right, fields::boolean(part, "strip_right", true));
  out.emplace_back(StripStep{left, right});
  return {};
}

moe::Status read_prepend(const json& part, std::vector<NormalizerStep>& out) {
  MOE_ASSIGN(std::string text, read_content(part, "prepend"));
  out.emplace_back(PrependStep{std::move(text)});
  return {};
}

moe::Status read_replace(const json& part, std::vector<NormalizerStep>& out) {
  MOE_ASSIGN(TextPattern pattern, read_pattern(part));
  MOE_ASSIGN(std::string content, read_content(part, "content"));
  out.emplace_back(ReplaceStep{std::move(pattern), std::move(content)});
  return {};
}

constexpr Reader<NormalizerStep> kNormalizers[] = {
    {"NFC", read_form<UnicodeFormStep::Form::kNfc>},
    {"NFD", read_form<UnicodeFormStep::Form::kNfd>},
    {"NFKC", read_form<UnicodeFormStep::Form::kNfkc>},
    {"NFKD", read_form<UnicodeFormStep::Form::kNfkd>},
    {"Lowercase", read_plain<LowercaseStep, NormalizerStep>},
    {"Strip", read_strip},
    {"StripAccents", read_plain<StripAccentsStep, NormalizerStep>},
    {"Prepend", read_prepend},
    {"Replace", read_replace},
    {"ByteLevel", read_plain<SpellBytesStep, NormalizerStep>},
};

moe::Status read_split(const json& part, std::vector<PreTokenizerStep>& out) {
  MOE_ASSIGN(TextPattern pattern, read_pattern(part));
  MOE_ASSIGN(const SplitBehavior behavior, read_behavior(part, "Isolated"));
  MOE_ASSIGN(const bool invert, fields::boolean(part, "invert", false));
  out.emplace_back(SplitStep{std::move(pattern), behavior, invert});
  return {};
}

moe::Status read_digits(const json& part, std::vector<PreTokenizerStep>& out) {
  MOE_ASSIGN(const bool individual, fields::boolean(part, "individual_digits", false));
  out.emplace_back(
      CharacterStep{unicode::is_numeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  return {};
}

moe::Status read_punctuation(const json& part, std::vector<PreTokenizerStep>& out) {
  MOE_ASSIGN(const SplitBehavior behavior, read_behavior(part, "Isolated"));
  out.emplace_back(CharacterStep{unicode::is_punctuation, behavior});
  return {};
}

moe::Status read_whitespace_split(const json&, std::vector<PreTokenizerStep>& out) {
  out.emplace_back(CharacterStep{unicode::is_space, SplitBehavior::kRemoved});
  return {};
}

moe::Status read_byte_level(const json& part, std::vector<PreTokenizerStep>& out) {
  MOE_ASSIGN(const bool prefix, fields::boolean(part, "add_prefix_space", true));
  MOE_ASSIGN(const bool use_regex, fields::boolean(part, "use_regex", true));
  MOE_TRY(fields::boolean(part, "trim_offsets", true));  // offsets are not kept, so there is nothing to trim
  std::vector<TextPattern> pattern;
  if (use_regex) {
    MOE_ASSIGN(TextPattern words, TextPattern::regex(byte_level::kPattern));
    pattern.push_back(std::move(words));
  }
  out.emplace_back(ByteLevelStep{prefix, true, std::move(pattern)});
  return {};
}

// "prepend_scheme" in files of today, "add_prefix_space" in older ones.
moe::Result<MetaspaceStep::Prepend> read_prepend_scheme(const json& part) {
  MOE_ASSIGN(const bool old_prefix, fields::boolean(part, "add_prefix_space", true));
  MOE_ASSIGN(const std::string scheme, fields::text(part, "prepend_scheme", old_prefix ? "always" : "never"));
  if (scheme == "always") return MetaspaceStep::Prepend::kAlways;
  if (scheme == "first") return MetaspaceStep::Prepend::kFirst;
  if (scheme == "never") return MetaspaceStep::Prepend::kNever;
  return moe::invalid(fmt::format("prepend_scheme: expected always, first or never, got \"{}\"", scheme));
}

moe::Status read_metaspace(const json& part, std::vector<PreTokenizerStep>& out) {
  MOE_ASSIGN(std::string replacement, read_character(part, "replacement"));
  MOE_ASSIGN(const MetaspaceStep::Prepend prepend, read_prepend_scheme(part));
  MOE_ASSIGN(const bool split, fields::boolean(part, "split", true));
  out.emplace_back(MetaspaceStep{std::move(replacement), prepend, split});
  return {};
}

constexpr Reader<PreTokenizerStep> kPreTokenizers[] = {
    {"Split", read_split},
    {"ByteLevel", read_byte_level},
    {"Digits", read_digits},
    {"Whitespace", read_plain<WhitespaceStep, PreTokenizerStep>},
    {"WhitespaceSplit", read_whitespace_split},
    {"Punctuation", read_punctuation},
    {"Metaspace", read_metaspace},
};

moe::Status read_metaspace_decoder(const json& part, std::vector<DecoderStep>& out) {
  MOE_ASSIGN(std::string replacement, read_character(part, "replacement"));
  MOE_ASSIGN(const MetaspaceStep::Prepend prepend, read_prepend_scheme(part));
  out.emplace_back(MetaspaceDecoder{std::move(replacement), prepend != MetaspaceStep::Prepend::kNever});
  return {};
}

moe::Status read_strip_decoder(const json& part, std::vector<DecoderStep>& out) {
  MOE_ASSIGN(std::string content, read_character(part, "content"));
  MOE_ASSIGN(const int64_t start, fields::natural(part, "start", 0));
  MOE_ASSIGN(const int64_t stop, fields::natural(part, "stop", 0));
  out.emplace_back(StripDecoder{std::move(content), static_cast<size_t>(start), static_cast<size_t>(stop)});
  return {};
}

moe::Status read_replace_decoder(const json& part, std::vector<DecoderStep>& out) {
  MOE_ASSIGN(const TextPattern pattern, read_pattern(part));
  if (pattern.as_literal() == nullptr) return moe::unimplemented("pattern: expected a String, got a Regex");
  MOE_ASSIGN(std::string content, read_content(part, "content"));
  out.emplace_back(ReplaceDecoder{*pattern.as_literal(), std::move(content)});
  return {};
}

constexpr Reader<DecoderStep> kDecoders[] = {
    {"ByteLevel", read_plain<ByteLevelDecoder, DecoderStep>},
    {"ByteFallback", read_plain<ByteFallbackDecoder, DecoderStep>},
    {"Fuse", read_plain<FuseDecoder, DecoderStep>},
    {"Metaspace", read_metaspace_decoder},
    {"Strip", read_strip_decoder},
    {"Replace", read_replace_decoder},
};

}  // namespace

moe::Result<std::vector<TypedPart>> flatten_sequence(const json& part, const char* list_key) {
  std::vector<TypedPart> flat;
  struct Open {
    const json* part;
    size_t depth;
  };
  std::vector<Open> open{{&part, 0}};
  size_t n_seen = 0;
  while (!open.empty()) {
    const Open at = open.back();
    open.pop_back();
    if (++n_seen > kMaxParts || at.depth > kMaxNesting) {
      return moe::invalid(
          fmt::format("Sequence: expected at most {} parts in {} levels, got more", kMaxParts, kMaxNesting));
    }
    if (!at.part->is_object()) return moe::invalid(fmt::format("expected an object, got {}", at.part->type_name()));
    MOE_ASSIGN(std::string type, fields::text(*at.part, "type"));
    if (type != "Sequence") {
      flat.push_back({std::move(type), at.part});
      continue;
    }
    MOE_ASSIGN(const json* list, fields::array(*at.part, list_key));
    if (list->size() > kMaxParts)
      return moe::invalid(fmt::format("{}: expected at most {}, got {}", list_key, kMaxParts, list->size()));
    for (auto it = list->rbegin(); it != list->rend(); ++it) open.push_back({&*it, at.depth + 1});
  }
  return flat;
}

moe::Result<TextPattern> read_pattern(const json& part) {
  MOE_ASSIGN(const json* pattern, fields::object(part, "pattern"));
  auto made = [&]() -> moe::Result<TextPattern> {
    if (pattern->contains("String")) {
      MOE_ASSIGN(std::string text, fields::text(*pattern, "String"));
      return TextPattern::literal(std::move(text));
    }
    MOE_ASSIGN(const std::string text, fields::text(*pattern, "Regex"));
    return TextPattern::regex(text);
  }();
  return made;
}

moe::Result<std::vector<NormalizerStep>> read_normalizer(const json& part) {
  return read_steps(part, "normalizers", kNormalizers);
}

moe::Result<std::vector<PreTokenizerStep>> read_pre_tokenizer(const json& part) {
  return read_steps(part, "pretokenizers", kPreTokenizers);
}

moe::Result<std::vector<DecoderStep>> read_decoder(const json& part) {
  constexpr size_t kMaxGrowth = 64;
  MOE_ASSIGN(std::vector<DecoderStep> steps, read_steps(part, "decoders", kDecoders));
  size_t growth = 1;  // times that a token may become longer: replacements multiply
  for (const DecoderStep& step : steps) {
    const auto* replace = std::get_if<ReplaceDecoder>(&step);
    if (replace == nullptr) continue;
    growth *= std::max<size_t>(1, (replace->content.size() + replace->pattern.size() - 1) / replace->pattern.size());
    if (growth > kMaxGrowth)
      return moe::invalid(fmt::format("Replace: expected tokens to grow at most {} times, got more", kMaxGrowth));
  }
  return steps;
}

}  // namespace patchbay
