#include "core/model/tokenizer/normalizer.hpp"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>

#include <algorithm>

#include "core/model/tokenizer/byte_level.hpp"
#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {
namespace {

bool is_ascii(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; });
}

const icu::Normalizer2* normalizer_of(UnicodeFormStep::Form form, UErrorCode& error) {
  switch (form) {
    case UnicodeFormStep::Form::kNfc:
      return icu::Normalizer2::getNFCInstance(error);
    case UnicodeFormStep::Form::kNfd:
      return icu::Normalizer2::getNFDInstance(error);
    case UnicodeFormStep::Form::kNfkc:
      return icu::Normalizer2::getNFKCInstance(error);
    case UnicodeFormStep::Form::kNfkd:
      return icu::Normalizer2::getNFKDInstance(error);
  }
  return nullptr;
}

moe::Status run(const UnicodeFormStep& step, std::string& text) {
  if (is_ascii(text)) return {};
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* n = normalizer_of(step.form, error);
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  std::string out;
  if (U_SUCCESS(error) && n->isNormalizedUTF8(piece, error) != 0 && U_SUCCESS(error)) return {};
  icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text.size()));
  if (U_SUCCESS(error)) n->normalizeUTF8(0, piece, sink, nullptr, error);
  if (U_FAILURE(error)) return moe::internal(fmt::format("normalizer: ICU says {}", u_errorName(error)));
  text = std::move(out);
  return {};
}

moe::Status run(const LowercaseStep&, std::string& text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t c = unicode::next(text, at);
    if (c == 0x130) {  // the one character whose lower case is two, whatever stands around it
      out += "i\xCC\x87";
    } else {
      unicode::append(out, static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))));
    }
  }
  text = std::move(out);
  return {};
}

moe::Status run(const StripStep& step, std::string& text) {
  size_t begin = 0;
  size_t end = text.size();
  while (step.left && begin < end) {
    size_t at = begin;
    if (!unicode::is_space(unicode::next(text, at))) break;
    begin = at;
  }
  while (step.right && end > begin) {
    const std::string_view rest = std::string_view(text).substr(0, end);
    if (!unicode::is_space(unicode::last(rest))) break;
    --end;
    while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  }
  text = text.substr(begin, end - begin);
  return {};
}

moe::Status run(const StripAccentsStep&, std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = unicode::next(text, at);
    if (!unicode::is_mark(c)) unicode::append(out, c);
  }
  text = std::move(out);
  return {};
}

moe::Status run(const PrependStep& step, std::string& text) {
  if (!text.empty()) text.insert(0, step.text);
  return {};
}

moe::Status run(const ReplaceStep& step, std::string& text) {
  std::vector<Match> stretches;
  MOE_TRY(step.pattern.find_all(text, stretches));
  std::string out;
  for (const Match& m : stretches) {
    out += m.is_match ? std::string_view(step.content) : std::string_view(text).substr(m.begin, m.end - m.begin);
    if (out.size() > kMaxTextBytes) break;  // apply() says so
  }
  text = std::move(out);
  return {};
}

moe::Status run(const SpellBytesStep&, std::string& text) {
  std::string out;
  byte_level::append_spelled(out, text);
  text = std::move(out);
  return {};
}

}  // namespace

moe::Status Normalizer::apply(std::string& text) const {
  for (const NormalizerStep& step : steps_) {
    MOE_TRY(std::visit([&text](const auto& s) { return run(s, text); }, step));
    if (text.size() > kMaxTextBytes) {
      return moe::exhausted(fmt::format("normalizer: expected at most {} bytes, got more", kMaxTextBytes));
    }
  }
  return {};
}

}  // namespace patchbay
