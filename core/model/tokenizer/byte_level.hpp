// The byte-level alphabet of GPT-2 (Radford et al. 2019): each byte is written as one printable character, so that a
// vocabulary of text covers every byte string.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace patchbay::byte_level {

// The pattern that ByteLevel's `use_regex` splits by.
inline constexpr std::string_view kPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The character that stands for each byte: itself if printable in Latin-1, else U+0100 onwards in order.
const std::array<char32_t, 256>& characters();

// Bytes to characters (UTF-8), appended to `out`.
void append_spelled(std::string& out, std::string_view bytes);
// Characters to bytes; nullopt if one of them is not of the alphabet. `text` is valid UTF-8.
std::optional<std::string> bytes_of(std::string_view text);
// The same, but a text with a character outside the alphabet stands for itself, as in Hugging Face's decoder.
std::string bytes_or_self(std::string_view text);

}  // namespace patchbay::byte_level
