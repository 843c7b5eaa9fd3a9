// What a Tokenizer is made of, and how its makers put it together. Private to this folder.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/model/tokenizer/added_tokens.hpp"
#include "core/model/tokenizer/bpe.hpp"
#include "core/model/tokenizer/decoder.hpp"
#include "core/model/tokenizer/normalizer.hpp"
#include "core/model/tokenizer/pre_tokenizer.hpp"
#include "core/model/tokenizer/token_table.hpp"
#include "core/model/tokenizer/tokenizer.hpp"
#include "core/model/tokenizer/word_cache.hpp"

namespace patchbay {

// What encode(add_special) puts around the ids.
struct PostProcessor {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};

struct TokenizerParts {
  std::unique_ptr<TokenTable> table = std::make_unique<TokenTable>();
  std::unique_ptr<Bpe> bpe;  // refers to *table
  std::vector<AddedToken> added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  PostProcessor post;
  std::vector<DecoderStep> decoder;
};

// "a b" to its two tokens. MOE_INVALID_ARGUMENT: not exactly one space.
moe::Result<std::pair<std::string_view, std::string_view>> split_merge(std::string_view merge);

// True if BPE may take raw bytes: the last step spells bytes and nothing in the model looks at characters. The step
// then stops spelling.
bool take_bytes(PreTokenizer& pre_tokenizer, const BpeOptions& options);

class TokenizerBuilder {
 public:
  // Errors: an added token whose normalized form cannot be made; a decoder that makes tokens huge.
  static moe::Result<std::unique_ptr<Tokenizer>> build(TokenizerParts parts);

 private:
  static moe::Status fill_bytes(TokenizerParts& parts);
};

// What one encoding works with; made once a thread that encodes at the same time as others, then kept.
struct EncodeScratch {
  std::vector<Segment> segments;
  std::vector<Segment> inner_segments;
  Pieces pieces;
  BpeScratch bpe;
  WordCache cache;
};

struct Tokenizer::Impl {
  TokenizerParts parts;
  AddedTokens raw_tokens;         // looked for in the text as it comes
  AddedTokens normalized_tokens;  // and in the normalized text

  mutable std::mutex mutex;  // guards free_scratch
  mutable std::vector<std::unique_ptr<EncodeScratch>> free_scratch;
};

}  // namespace patchbay
