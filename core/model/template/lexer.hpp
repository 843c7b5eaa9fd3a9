// Source text to tokens, with Jinja2's whitespace rules already applied (trim_blocks, lstrip_blocks, the signs - and
// +).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay::jinja {

enum class TokenKind {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,   // `text` is the value, escapes decoded
  kInteger,  // `text` as written, without underscores
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  std::string text;
  int line;
};

// What a message calls the token: "'%}'", "end of template".
std::string describe(const Token& token);

// All tokens, the last of kind kEnd. Errors are "line L: ...". `source` is valid UTF-8.
moe::Result<std::vector<Token>> tokenize(std::string_view source);

}  // namespace patchbay::jinja
