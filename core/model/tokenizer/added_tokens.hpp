// Tokens that are cut out of the text as a whole, before it is split: control tokens and what users added.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/tokenizer/flat_map.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character stands beside it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = false;   // looked for in the normalized text, in its own normalized form
  bool special = false;
};

// A part of a text: a token that was found, or plain text.
struct Segment {
  static constexpr int32_t kText = -1;
  int32_t id;
  size_t begin;
  size_t end;
};

// Finds tokens in a text, leftmost first and there the longest. Time: text × longest token at worst; one table look-up
// a byte where no token begins.
class AddedTokens {
 public:
  // `token.content` is what to look for. Empty contents are never found.
  void add(AddedToken token);
  [[nodiscard]] bool empty() const { return tokens_.empty(); }

  // Appends the segments of valid UTF-8 `text`, which they tile. Without parse_special the special ones are plain text.
  void split(std::string_view text, bool parse_special, std::vector<Segment>& out) const;

 private:
  struct Hit {
    size_t n_bytes;
    const AddedToken* token;
  };
  [[nodiscard]] Hit longest_at(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  FlatMap edges_;                     // node << 8 | byte -> node
  std::vector<int32_t> ends_ = {-1};  // by node: the token that ends there
  std::array<bool, 256> begins_{};
};

}  // namespace patchbay
