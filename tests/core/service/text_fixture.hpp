// A tokenizer whose tokens are the 256 bytes (id = byte), some longer ones, and an end-of-text.
#pragma once

#include <string>
#include <vector>

#include "core/service/text_model.hpp"

namespace patchbay::testing {

inline constexpr int32_t kHello = 256;  // "Hello"
inline constexpr int32_t kEnd = 257;    // <end>, special

inline std::string in_byte_alphabet(std::string_view bytes) {  // as GPT-2 spells bytes
  std::string text;
  for (const char c : bytes) {
    int next = 256;
    int code = 0;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174);
      const int here = printable ? b : next++;
      if (b == static_cast<unsigned char>(c)) code = here;
    }
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else {
      text += static_cast<char>(0xC0 | (code >> 6));
      text += static_cast<char>(0x80 | (code & 0x3F));
    }
  }
  return text;
}

inline std::unique_ptr<Tokenizer> byte_tokenizer() {
  TokenizerData data;
  data.pre_tokenizer = "gpt-2";
  for (int b = 0; b < 256; ++b) data.tokens.push_back(in_byte_alphabet(std::string(1, static_cast<char>(b))));
  data.tokens.emplace_back("Hello");
  data.tokens.emplace_back("<end>");
  data.types.assign(data.tokens.size(), 1);
  data.types[kEnd] = 3;
  data.eos = kEnd;
  auto tokenizer = Tokenizer::from_vocabulary(data);
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

inline std::unique_ptr<TextModel> byte_model(const std::string& chat_template = "") {
  std::unique_ptr<ChatFormat> chat;
  if (!chat_template.empty()) {
    auto format = ChatFormat::from_source(chat_template, "", "<end>");
    if (!format.ok()) return nullptr;
    chat = std::make_unique<ChatFormat>(std::move(format).value());
  }
  return std::make_unique<TextModel>(byte_tokenizer(), std::move(chat), std::vector<int32_t>{kEnd});
}

inline std::vector<int32_t> bytes_of(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

}  // namespace patchbay::testing
