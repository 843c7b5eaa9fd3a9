// Every token of a vocabulary, by id and by text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

class TokenTable {
 public:
  // For about n_tokens tokens. Ids may leave holes, but only kMaxHoles of them: a huge id is an error, not an
  // allocation.
  explicit TokenTable(size_t n_tokens = 0);
  static constexpr size_t kMaxHoles = 65536;
  static constexpr size_t kMaxTokenBytes = size_t{64} << 10;  // known vocabularies: under 1 KiB

  // Adds a token of the model's vocabulary (`in_model`) or an added one; the same text under the same id may be both.
  // MOE_INVALID_ARGUMENT: an id that is out of range or taken by another text, a text that has another id, is not
  // UTF-8 or is over kMaxTokenBytes.
  moe::Status add(std::string_view text, int64_t id, bool in_model);
  void mark_special(int32_t id) { tokens_[static_cast<size_t>(id)].special = true; }
  // Sets what decoding starts from where that is not the token's text.
  void set_shown(int32_t id, std::string_view shown);
  // Sets what token_bytes() gives.
  void set_bytes(int32_t id, std::string_view bytes);

  [[nodiscard]] std::optional<int32_t> find(std::string_view text) const;
  // Only tokens of the model's vocabulary.
  [[nodiscard]] std::optional<int32_t> find_in_model(std::string_view text) const;

  [[nodiscard]] bool has(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < tokens_.size() && tokens_[static_cast<size_t>(id)].used;
  }
  // Only after has(id).
  [[nodiscard]] std::string_view text(int32_t id) const { return slice(texts_, tokens_[static_cast<size_t>(id)].text); }
  [[nodiscard]] std::string_view shown(int32_t id) const {
    return slice(texts_, tokens_[static_cast<size_t>(id)].shown);
  }
  [[nodiscard]] std::string_view bytes(int32_t id) const {
    return slice(bytes_, tokens_[static_cast<size_t>(id)].bytes);
  }
  [[nodiscard]] bool in_model(int32_t id) const { return tokens_[static_cast<size_t>(id)].in_model; }
  [[nodiscard]] bool special(int32_t id) const { return tokens_[static_cast<size_t>(id)].special; }

  // One more than the highest id.
  [[nodiscard]] size_t size() const { return tokens_.size(); }

 private:
  struct Slice {
    uint32_t begin = 0;
    uint32_t n = 0;
  };
  struct Token {
    Slice text;
    Slice shown;
    Slice bytes;
    bool used = false;
    bool in_model = false;
    bool special = false;
  };
  static std::string_view slice(const std::string& arena, Slice s) {
    return std::string_view(arena).substr(s.begin, s.n);
  }
  [[nodiscard]] size_t slot_of(std::string_view text) const;
  void grow();

  std::vector<Token> tokens_;
  std::vector<int32_t> slots_;  // -1: free
  std::string texts_;
  std::string bytes_;
  size_t n_texts_ = 0;
  size_t max_id_;
};

}  // namespace patchbay
