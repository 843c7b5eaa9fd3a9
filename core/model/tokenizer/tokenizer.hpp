// Text to token ids and back, as Hugging Face's tokenizer.json or a GGUF vocabulary describes it (BPE, byte-level or
// SentencePiece-style). A Tokenizer is immutable: any number of threads may use one at once.
//
// encode: added tokens are cut out -> normalizer -> pre-tokenizer -> BPE of each piece -> post-processor.
// decode: token texts -> decoder chain. `truncation` and `padding` of the file are ignored: the runtime decides on
// lengths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

// A vocabulary without a tokenizer.json, as GGUF carries it (`tokenizer.ggml.*`).
struct TokenizerData {
  enum class Kind {
    kByteLevelBpe,   // tokenizer.ggml.model = "gpt2": tokens in the byte-level alphabet, `merges` in order of rank
    kSentencePiece,  // tokenizer.ggml.model = "llama": tokens with "▁" for a space and <0xXX> for bytes, `scores`
  };
  Kind kind = Kind::kByteLevelBpe;
  // tokenizer.ggml.pre; byte-level only: "default" (or "gpt-2"), "qwen2", "deepseek-v3", "gpt-4o", "olmo", "llama-bpe"
  // and others: see from_vocabulary.cpp. An unknown name is an error, since a wrong split gives wrong ids silently.
  std::string pre_tokenizer;
  std::vector<std::string> tokens;  // by id
  std::vector<std::string> merges;  // "a b", best first; byte-level only
  std::vector<float> scores;   // by id; SentencePiece, and byte-level without merges: what joins to the best goes first
  std::vector<int32_t> types;  // by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; may be empty
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
  std::optional<int32_t> unknown;
  bool add_bos = false;          // encode(add_special) begins with bos ...
  bool add_eos = false;          // ... and ends with eos
  bool add_space_prefix = true;  // SentencePiece only
};

struct EncodeOptions {
  bool add_special = true;    // what the post-processor adds: begin-of-sequence and the like
  bool parse_special = true;  // false: the text of a special token in the input is plain text (untrusted input)
};

class Tokenizer {
 public:
  // Reads a tokenizer.json. MOE_NOT_FOUND: no such file; MOE_INVALID_ARGUMENT: wrong JSON, ids or merges;
  // MOE_UNIMPLEMENTED: a part that this tokenizer does not have; each names the place in the file.
  static moe::Result<std::unique_ptr<Tokenizer>> load(const std::filesystem::path& tokenizer_json);
  // The same for a document that is already parsed.
  static moe::Result<std::unique_ptr<Tokenizer>> from_json(const nlohmann::json& document);
  // A tokenizer for a vocabulary from a GGUF file; same errors.
  static moe::Result<std::unique_ptr<Tokenizer>> from_vocabulary(const TokenizerData& data);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The ids of `text` in about linear time. Bytes that are not UTF-8 are read as U+FFFD, one for each maximal part of a
  // character, as Python's errors="replace" does. Fails only for texts over 64 MiB (MOE_INVALID_ARGUMENT) and where a
  // pattern of the file backtracks beyond its budget (MOE_RESOURCE_EXHAUSTED), which those of known models do not.
  [[nodiscard]] moe::Result<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options) const;
  [[nodiscard]] moe::Result<std::vector<int32_t>> encode(std::string_view text, bool add_special) const {
    return encode(text, EncodeOptions{.add_special = add_special});
  }

  // The text of `ids`: valid UTF-8. Ids that name no token (negative, beyond the vocabulary) are left out, as Hugging
  // Face does. skip_special leaves out the special tokens.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  // The id of a token by its text as the file spells it ("Ġthe", "<|im_end|>"). MOE_NOT_FOUND if there is none.
  [[nodiscard]] moe::Result<int32_t> id_of(std::string_view token) const;
  // The token as the file spells it; empty for ids that name no token. Lives as long as the tokenizer.
  [[nodiscard]] std::string_view token_text(int32_t id) const;
  // The bytes that the token stands for, not always whole characters; empty for ids that name no token. A SentencePiece
  // token keeps its leading space, which decode() drops at the start of a text. Lives as long as the tokenizer.
  [[nodiscard]] std::string_view token_bytes(int32_t id) const;
  // One more than the highest id. Ids below it may still name no token.
  [[nodiscard]] size_t vocab_size() const;
  // True for control tokens, which decode(skip_special) leaves out.
  [[nodiscard]] bool is_special(int32_t id) const;

 private:
  friend class StreamDecoder;
  friend class TokenizerBuilder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// decode() one token at a time: the pushes and the flush, joined, are decode() of all the ids. What push() returns is
// never half a character. The tokenizer must outlive it. One thread at a time.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  // The text that has become certain with this token; often empty in the middle of a character.
  std::string push(int32_t id);
  // The rest: U+FFFD for an unfinished character. The decoder then starts anew.
  std::string flush();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace patchbay
