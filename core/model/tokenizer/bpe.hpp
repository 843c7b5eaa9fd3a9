// Byte-pair encoding of one piece (Sennrich et al. 2016; Gage 1994): the best-ranked adjacent pair is merged, leftmost
// first, until none is left.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/tokenizer/flat_map.hpp"
#include "core/model/tokenizer/token_table.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

struct BpeOptions {
  bool bytes = false;              // pieces are raw bytes, tokens are spelled in the byte-level alphabet
  bool ignore_merges = false;      // a piece that is a token is that token
  bool byte_fallback = false;      // an unknown character becomes its bytes' tokens <0xXX> if there are all of them
  bool fuse_unknown = false;       // a run of unknown characters becomes one unknown token
  std::optional<int32_t> unknown;  // without, unknown characters vanish
  std::string continuing_prefix;   // before every character but the first, "##"
  std::string end_suffix;          // behind the last, "</w>"
};

// Work space of one encoding, kept to save allocations.
struct BpeScratch {
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  std::vector<int32_t> symbols;
  std::vector<Merge> merges;  // merges[i]: of the pair that begins at symbol i
  std::vector<uint32_t> next;
  std::vector<uint32_t> previous;
  std::vector<uint64_t> heap;
  std::string text;
};

class Bpe {
 public:
  // `table` must outlive the model.
  Bpe(const TokenTable& table, BpeOptions options, size_t n_merges);

  // The pair of tokens left, right merges with `rank`, lower first. MOE_INVALID_ARGUMENT: one of them or the token that
  // they make is not in the vocabulary. A pair given twice has its last rank, as in Hugging Face.
  moe::Status add_merge(std::string_view left, std::string_view right, uint32_t rank);

  // Appends the ids of a piece: UTF-8, or bytes with options.bytes. O(n log n).
  void encode(std::string_view piece, BpeScratch& scratch, std::vector<int32_t>& out) const;

 private:
  using Merge = BpeScratch::Merge;
  static constexpr uint32_t kNoRank = UINT32_MAX;

  [[nodiscard]] Merge merge_of(int32_t left, int32_t right) const;
  void split_bytes(std::string_view piece, BpeScratch& scratch) const;
  void split_characters(std::string_view piece, BpeScratch& scratch) const;
  void merge_short(BpeScratch& scratch) const;
  void merge_long(BpeScratch& scratch) const;

  const TokenTable* table_;
  BpeOptions options_;
  FlatMap merges_;                     // left << 32 | right -> rank << 32 | id
  std::array<int32_t, 256> byte_ids_;  // the token of a byte, as options.bytes or byte_fallback spell it; -1: none
  bool all_bytes_;
};

}  // namespace patchbay
