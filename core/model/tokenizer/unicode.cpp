#include "core/model/tokenizer/unicode.hpp"

#include <unicode/uchar.h>

#include <cstdint>
#include <cstring>

namespace patchbay::unicode {
namespace {

uint8_t byte_at(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// Length of the ASCII run at `at`, eight bytes a step.
size_t skip_ascii(std::string_view text, size_t at) {
  while (at + 8 <= text.size()) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + at, 8);
    if ((word & 0x8080808080808080ULL) != 0) break;
    at += 8;
  }
  while (at < text.size() && byte_at(text, at) < 0x80) ++at;
  return at;
}

}  // namespace

Sequence first_sequence(std::string_view text) {
  const uint8_t lead = byte_at(text, 0);
  if (lead < 0x80) return {1, Form::kWhole};
  if (lead < 0xC2 || lead > 0xF4) return {1, Form::kInvalid};
  const size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < need; ++i) {
    if (i == text.size()) return {i, Form::kIncomplete};
    if (byte_at(text, i) < low || byte_at(text, i) > high) return {i, Form::kInvalid};
    low = 0x80;
    high = 0xBF;
  }
  return {need, Form::kWhole};
}

bool is_valid(std::string_view text) {
  for (size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    const Sequence s = first_sequence(text.substr(at));
    if (s.form != Form::kWhole) return false;
    at += s.n_bytes;
  }
  return true;
}

std::string repaired(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Sequence s = first_sequence(text.substr(at));
    out += s.form == Form::kWhole ? text.substr(at, s.n_bytes) : kReplacement;
    at += s.n_bytes;
  }
  return out;
}

size_t length_at(std::string_view text, size_t at) {
  const uint8_t lead = byte_at(text, at);
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

char32_t next(std::string_view text, size_t& at) {
  const size_t n = length_at(text, at);
  char32_t c = n == 1 ? byte_at(text, at) : byte_at(text, at) & (0x7Fu >> n);
  for (size_t i = 1; i < n; ++i) c = (c << 6) | (byte_at(text, at + i) & 0x3Fu);
  at += n;
  return c;
}

char32_t last(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (byte_at(text, at) & 0xC0) == 0x80) --at;
  return next(text, at);
}

void append(std::string& out, char32_t c) {
  const auto put = [&out](char32_t b) { out += static_cast<char>(b); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

bool is_space(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0; }

bool is_word(char32_t c) {
  const auto u = static_cast<UChar32>(c);
  return u_hasBinaryProperty(u, UCHAR_ALPHABETIC) != 0 || u_hasBinaryProperty(u, UCHAR_JOIN_CONTROL) != 0 ||
         (U_GET_GC_MASK(u) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

bool is_numeric(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0; }

bool is_punctuation(char32_t c) {
  if (c < 0x80) return std::strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", static_cast<int>(c)) != nullptr && c != 0;
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_P_MASK) != 0;
}

bool is_mark(char32_t c) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_M_MASK) != 0; }

}  // namespace patchbay::unicode
