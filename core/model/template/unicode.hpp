// Text as Python sees it: UTF-8 inside, indexed by code point.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace patchbay::jinja {

// A character begins at offset 0 and at every byte that continues none, so these are total on malformed text too.
inline bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The offset after the character at `offset` (< size).
size_t next_char(std::string_view text, size_t offset);
// The offset of the character that ends before `offset` (> 0).
size_t previous_char(std::string_view text, size_t offset);
size_t count_chars(std::string_view text);
// The byte offset of character `index`; the text's size if it has no more than `index` characters.
size_t offset_of(std::string_view text, size_t index);
std::vector<std::string_view> split_chars(std::string_view text);

// The first and the last place of `needle`, npos if it has none; in linear time, which std::string::find does not
// promise.
size_t find_text(std::string_view text, std::string_view needle, size_t from = 0);
size_t find_last_text(std::string_view text, std::string_view needle);

// The code point of one character; U+FFFD if malformed.
char32_t decode(std::string_view character);
void append_utf8(std::string& out, char32_t code_point);
bool valid_utf8(std::string_view text);

// str.isspace for one code point.
bool is_space(char32_t c);
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);
inline std::string_view strip(std::string_view text) { return strip_left(strip_right(text)); }

// Full case mappings without a locale, as str.upper, str.lower and str.casefold.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string fold_case(std::string_view text);
// str.title and str.swapcase.
std::string to_title(std::string_view text);
std::string swap_case(std::string_view text);
// str.capitalize: the first character in title case, the rest in lower case.
std::string capitalize(std::string_view text);

// The classes of str.isalpha, isdigit, ... for one code point.
enum class CharClass { kAlpha, kDigit, kDecimal, kNumeric, kAlnum, kUpper, kLower, kCased };
bool is_class(char32_t c, CharClass which);
// str.isprintable: what repr() shows as it is.
bool is_printable(char32_t c);

}  // namespace patchbay::jinja
