#include "core/model/tokenizer/byte_level.hpp"

#include "core/model/tokenizer/unicode.hpp"

namespace patchbay::byte_level {
namespace {

bool is_printable(unsigned b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; }

constexpr size_t kAlphabetEnd = 0x100 + 68;  // 68 bytes are not printable

}  // namespace

const std::array<char32_t, 256>& characters() {
  static const std::array<char32_t, 256> table = [] {
    std::array<char32_t, 256> t{};
    char32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) t[b] = is_printable(b) ? b : next++;
    return t;
  }();
  return table;
}

void append_spelled(std::string& out, std::string_view bytes) {
  for (const char c : bytes) unicode::append(out, characters()[static_cast<uint8_t>(c)]);
}

std::optional<std::string> bytes_of(std::string_view text) {
  static const std::array<int16_t, kAlphabetEnd> table = [] {
    std::array<int16_t, kAlphabetEnd> t{};
    t.fill(-1);
    for (unsigned b = 0; b < 256; ++b) t[characters()[b]] = static_cast<int16_t>(b);
    return t;
  }();
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t c = unicode::next(text, at);
    if (c >= kAlphabetEnd || table[c] < 0) return std::nullopt;
    out += static_cast<char>(table[c]);
  }
  return out;
}

std::string bytes_or_self(std::string_view text) {
  std::optional<std::string> bytes = bytes_of(text);
  return bytes ? std::move(*bytes) : std::string(text);
}

}  // namespace patchbay::byte_level
