#include "core/model/template/unicode.hpp"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cstring>

namespace patchbay::jinja {
namespace {

icu::UnicodeString to_icu(std::string_view text) {
  return icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
}

std::string from_icu(const icu::UnicodeString& text) {
  std::string out;
  text.toUTF8String(out);
  return out;
}

std::string title_char(std::string_view c) {
  return from_icu(to_icu(c).toTitle(nullptr, icu::Locale::getRoot(), U_TITLECASE_NO_LOWERCASE));
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

size_t next_char(std::string_view text, size_t offset) {
  for (++offset; offset < text.size() && continues(text[offset]);) ++offset;
  return offset;
}

size_t previous_char(std::string_view text, size_t offset) {
  for (--offset; offset > 0 && continues(text[offset]);) --offset;
  return offset;
}

size_t count_chars(std::string_view text) {
  if (text.empty()) return 0;
  const auto later = std::count_if(text.begin() + 1, text.end(), [](char c) { return !continues(c); });
  return 1 + static_cast<size_t>(later);
}

size_t offset_of(std::string_view text, size_t index) {
  size_t offset = 0;
  for (; index > 0 && offset < text.size(); --index) offset = next_char(text, offset);
  return offset;
}

std::vector<std::string_view> split_chars(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < text.size();) {
    const size_t end = next_char(text, i);
    out.push_back(text.substr(i, end - i));
    i = end;
  }
  return out;
}

size_t find_text(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return found == nullptr ? std::string_view::npos : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t find_last_text(std::string_view text, std::string_view needle) {
  const std::string backwards(text.rbegin(), text.rend());
  const size_t at = find_text(backwards, std::string(needle.rbegin(), needle.rend()));
  return at == std::string_view::npos ? at : text.size() - at - needle.size();
}

char32_t decode(std::string_view character) {
  constexpr char32_t kBad = 0xFFFD;
  if (character.empty()) return kBad;
  const auto lead = static_cast<unsigned char>(character[0]);
  if (lead < 0x80) return character.size() == 1 ? lead : kBad;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || character.size() != length) return kBad;
  char32_t c = lead & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) c = (c << 6) | (static_cast<unsigned char>(character[i]) & 0x3F);
  const bool overlong = (length == 3 && c < 0x800) || (length == 4 && c < 0x10000);
  const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
  return overlong || surrogate || c > 0x10FFFF ? kBad : c;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  const int extra = c >= 0x10000 ? 3 : c >= 0x800 ? 2 : 1;
  constexpr unsigned kLead[] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(kLead[extra] | (c >> (6 * extra)));
  for (int i = extra - 1; i >= 0; --i) out += static_cast<char>(0x80 | ((c >> (6 * i)) & 0x3F));
}

bool valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t end = next_char(text, i);
    const std::string_view c = text.substr(i, end - i);
    if (decode(c) == 0xFFFD && c != "\xEF\xBF\xBD") return false;
    i = end;
  }
  return true;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string_view strip_left(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const size_t end = next_char(text, i);
    if (!is_space(decode(text.substr(i, end - i)))) break;
    i = end;
  }
  return text.substr(i);
}

std::string_view strip_right(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t begin = previous_char(text, end);
    if (!is_space(decode(text.substr(begin, end - begin)))) break;
    end = begin;
  }
  return text.substr(0, end);
}

std::string to_upper(std::string_view text) { return from_icu(to_icu(text).toUpper(icu::Locale::getRoot())); }
std::string to_lower(std::string_view text) { return from_icu(to_icu(text).toLower(icu::Locale::getRoot())); }
std::string fold_case(std::string_view text) { return from_icu(to_icu(text).foldCase()); }

std::string to_title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (const std::string_view c : split_chars(text)) {
    out += inside ? to_lower(c) : title_char(c);
    inside = is_class(decode(c), CharClass::kCased);
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (const std::string_view c : split_chars(text)) {
    const char32_t code = decode(c);
    out += is_class(code, CharClass::kUpper)   ? to_lower(c)
           : is_class(code, CharClass::kLower) ? to_upper(c)
                                               : std::string(c);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return "";
  const size_t first = next_char(text, 0);
  if (is_ascii(text.substr(0, first))) return to_upper(text.substr(0, first)) + to_lower(text.substr(first));
  return title_char(text.substr(0, first)) + to_lower(text.substr(first));
}

bool is_class(char32_t code, CharClass which) {
  const auto c = static_cast<UChar32>(code);
  switch (which) {
    case CharClass::kAlpha:
      return u_isalpha(c) != 0;
    case CharClass::kDecimal:
      return u_charType(c) == U_DECIMAL_DIGIT_NUMBER;
    case CharClass::kDigit: {
      const int type = u_getIntPropertyValue(c, UCHAR_NUMERIC_TYPE);
      return type == U_NT_DECIMAL || type == U_NT_DIGIT;
    }
    case CharClass::kNumeric:
      return u_getIntPropertyValue(c, UCHAR_NUMERIC_TYPE) != U_NT_NONE;
    case CharClass::kAlnum:
      return is_class(code, CharClass::kAlpha) || is_class(code, CharClass::kNumeric);
    case CharClass::kUpper:
      return u_hasBinaryProperty(c, UCHAR_UPPERCASE) != 0;
    case CharClass::kLower:
      return u_hasBinaryProperty(c, UCHAR_LOWERCASE) != 0;
    case CharClass::kCased:
      return u_hasBinaryProperty(c, UCHAR_CASED) != 0 || u_istitle(c) != 0;
  }
  return false;
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  constexpr uint32_t kHidden = U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CS_MASK | U_GC_CO_MASK | U_GC_CN_MASK | U_GC_Z_MASK;
  return (U_MASK(u_charType(static_cast<UChar32>(c))) & kHidden) == 0;
}

}  // namespace patchbay::jinja
