// UTF-8 and the character classes that tokenizers use.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace patchbay::unicode {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

enum class Form { kWhole, kInvalid, kIncomplete };

// What stands at the start of non-empty `text`: a whole character; or the longest part of one that no character
// continues (Unicode 15, section 3.9, "maximal subpart": what one U+FFFD replaces); or such a part that the end of the
// text cuts off.
struct Sequence {
  size_t n_bytes;
  Form form;
};
Sequence first_sequence(std::string_view text);

bool is_valid(std::string_view text);
// The text with each maximal invalid part replaced by U+FFFD.
std::string repaired(std::string_view text);

// The character at `at` of valid UTF-8; `at` moves behind it.
char32_t next(std::string_view text, size_t& at);
// The character that ends valid, non-empty UTF-8.
char32_t last(std::string_view text);
size_t length_at(std::string_view text, size_t at);
void append(std::string& out, char32_t c);

bool is_space(char32_t c);        // White_Space
bool is_word(char32_t c);         // \w: Alphabetic, Mark, Decimal_Number, Connector_Punctuation, Join_Control
bool is_numeric(char32_t c);      // Nd, Nl, No
bool is_punctuation(char32_t c);  // P*, and what is punctuation in ASCII ($+<=>^`|~ are symbols)
bool is_mark(char32_t c);         // M*

}  // namespace patchbay::unicode
