// Token texts to plain text: a chain of stages, each from one part of the file's `decoder`. Stages take one token at a
// time and give out what has become certain, so that decoding a stream and decoding a whole are the same code.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace patchbay {

struct ByteLevelDecoder {};     // byte-level alphabet to bytes; ends the tokens: one text goes on
struct ByteFallbackDecoder {};  // a run of <0xXX> to the text that it spells, or U+FFFD for each if it is not UTF-8
struct FuseDecoder {};          // ends the tokens: one text goes on
struct MetaspaceDecoder {       // the replacement to a space; nothing in the first token if the encoder put one there
  std::string replacement;
  bool drop_first;
};
struct StripDecoder {  // up to n_start and n_stop of `content` (one character) from the ends of each token
  std::string content;
  size_t n_start;
  size_t n_stop;
};
struct ReplaceDecoder {  // in each token
  std::string pattern;
  std::string content;
};
struct JoinDecoder {};  // no decoder: tokens with a space between

using DecoderStep = std::variant<ByteLevelDecoder, ByteFallbackDecoder, FuseDecoder, MetaspaceDecoder, StripDecoder,
                                 ReplaceDecoder, JoinDecoder>;

// The bytes that a token stands for in the middle of a text.
std::string decoded_bytes(const std::vector<DecoderStep>& steps, std::string_view token);

class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  // Takes a token, or behind a stage that ends tokens the next part of the one text; puts what is certain out to the
  // next.
  virtual void push(std::string_view token) = 0;
  // No more comes: puts out the rest and begins anew.
  virtual void flush() = 0;
};

// The stages of one decoding, which append to `out`; `out` and `steps` must outlive them.
class DecoderChain {
 public:
  DecoderChain(const std::vector<DecoderStep>& steps, std::string& out);
  void push(std::string_view token) { stages_.back()->push(token); }
  void flush() { stages_.back()->flush(); }

 private:
  std::vector<std::unique_ptr<DecodeStage>> stages_;  // last to first
};

}  // namespace patchbay
