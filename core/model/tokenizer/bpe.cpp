#include "core/model/tokenizer/bpe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "core/model/tokenizer/byte_level.hpp"
#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

// Up to here a scan for the best pair is faster than a heap.
constexpr size_t kShort = 48;

// Collects unknown characters as Hugging Face does: one token each, or one for a run.
class Unknowns {
 public:
  Unknowns(const BpeOptions& options, std::vector<int32_t>& out) : options_(options), out_(out) {}
  void add() {
    if (!options_.unknown) return;
    if (pending_ && !options_.fuse_unknown) out_.push_back(*options_.unknown);
    pending_ = true;
  }
  void flush() {
    if (pending_) out_.push_back(*options_.unknown);
    pending_ = false;
  }

 private:
  const BpeOptions& options_;
  std::vector<int32_t>& out_;
  bool pending_ = false;
};

}  // namespace

Bpe::Bpe(const TokenTable& table, BpeOptions options, size_t n_merges)
    : table_(&table), options_(std::move(options)), merges_(n_merges) {
  for (unsigned b = 0; b < 256; ++b) {
    std::string text;
    if (options_.bytes) {
      unicode::append(text, byte_level::characters()[b]);
    } else {
      text = fmt::format("<0x{:02X}>", b);
    }
    byte_ids_[b] = table.find_in_model(text).value_or(-1);
  }
  all_bytes_ = std::all_of(byte_ids_.begin(), byte_ids_.end(), [](int32_t id) { return id >= 0; });
}

moe::Status Bpe::add_merge(std::string_view left, std::string_view right, uint32_t rank) {
  const std::optional<int32_t> l = table_->find_in_model(left);
  const std::optional<int32_t> r = table_->find_in_model(right);
  std::string joined(left);
  joined += right.substr(right.starts_with(options_.continuing_prefix) ? options_.continuing_prefix.size() : 0);
  const std::optional<int32_t> whole = table_->find_in_model(joined);
  if (!l || !r || !whole) {
    return moe::invalid(fmt::format("expected tokens of the vocabulary, got \"{}\"", !l ? left : !r ? right : joined));
  }
  merges_.set(pair_key(*l, *r), (uint64_t{rank} << 32) | static_cast<uint32_t>(*whole));
  return {};
}

Bpe::Merge Bpe::merge_of(int32_t left, int32_t right) const {
  const uint64_t* m = merges_.find(pair_key(left, right));
  if (m == nullptr) return {kNoRank, 0};
  return {static_cast<uint32_t>(*m >> 32), static_cast<int32_t>(*m & 0xFFFFFFFFu)};
}

void Bpe::split_bytes(std::string_view piece, BpeScratch& s) const {
  if (all_bytes_) {
    for (const char c : piece) s.symbols.push_back(byte_ids_[static_cast<uint8_t>(c)]);
    return;
  }
  Unknowns unknowns(options_, s.symbols);
  for (const char c : piece) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    if (id < 0) {
      unknowns.add();
      continue;
    }
    unknowns.flush();
    s.symbols.push_back(id);
  }
  unknowns.flush();
}

void Bpe::split_characters(std::string_view piece, BpeScratch& s) const {
  Unknowns unknowns(options_, s.symbols);
  for (size_t at = 0; at < piece.size();) {
    const size_t n = unicode::length_at(piece, at);
    s.text.assign(at == 0 ? "" : options_.continuing_prefix);
    s.text += piece.substr(at, n);
    at += n;
    if (at == piece.size()) s.text += options_.end_suffix;
    if (const std::optional<int32_t> id = table_->find_in_model(s.text)) {
      unknowns.flush();
      s.symbols.push_back(*id);
      continue;
    }
    const auto has_token = [this](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; };
    if (options_.byte_fallback && std::all_of(s.text.begin(), s.text.end(), has_token)) {
      // An unknown character before stays pending and comes behind the bytes: Hugging Face's order.
      for (const char c : s.text) s.symbols.push_back(byte_ids_[static_cast<uint8_t>(c)]);
      continue;
    }
    unknowns.add();
  }
  unknowns.flush();
}

void Bpe::merge_short(BpeScratch& s) const {
  const size_t n = s.symbols.size();
  s.merges.resize(n);
  size_t left = n - 1;  // pairs that are left
  for (size_t i = 0; i < left; ++i) s.merges[i] = merge_of(s.symbols[i], s.symbols[i + 1]);
  while (left > 0) {
    size_t best = 0;
    for (size_t i = 1; i < left; ++i) {
      if (s.merges[i].rank < s.merges[best].rank) best = i;
    }
    if (s.merges[best].rank == kNoRank) break;
    s.symbols[best] = s.merges[best].id;
    std::copy(s.symbols.begin() + static_cast<ptrdiff_t>(best) + 2,
              s.symbols.begin() + static_cast<ptrdiff_t>(left) + 1,
              s.symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
    std::copy(s.merges.begin() + static_cast<ptrdiff_t>(best) + 1, s.merges.begin() + static_cast<ptrdiff_t>(left),
              s.merges.begin() + static_cast<ptrdiff_t>(best));
    --left;
    if (best > 0) s.merges[best - 1] = merge_of(s.symbols[best - 1], s.symbols[best]);
    if (best < left) s.merges[best] = merge_of(s.symbols[best], s.symbols[best + 1]);
  }
  s.symbols.resize(left + 1);
}

// A linked list of symbols and a heap of (rank, position). An entry is stale when the pair at its position has another
// rank.
void Bpe::merge_long(BpeScratch& s) const {
  const auto n = static_cast<uint32_t>(s.symbols.size());
  const uint32_t none = n;
  s.merges.assign(n, Merge{kNoRank, 0});
  s.next.resize(n);
  s.previous.resize(n);
  s.heap.clear();
  const auto entry = [](uint32_t rank, uint32_t at) { return (uint64_t{rank} << 32) | at; };
  for (uint32_t i = 0; i < n; ++i) {
    s.next[i] = i + 1;
    s.previous[i] = i == 0 ? none : i - 1;
    if (i + 1 == n) break;
    s.merges[i] = merge_of(s.symbols[i], s.symbols[i + 1]);
    if (s.merges[i].rank != kNoRank) s.heap.push_back(entry(s.merges[i].rank, i));
  }
  std::make_heap(s.heap.begin(), s.heap.end(), std::greater<>());
  const auto renew = [&](uint32_t i) {
    s.merges[i] = s.next[i] == none ? Merge{kNoRank, 0} : merge_of(s.symbols[i], s.symbols[s.next[i]]);
    if (s.merges[i].rank == kNoRank) return;
    s.heap.push_back(entry(s.merges[i].rank, i));
    std::push_heap(s.heap.begin(), s.heap.end(), std::greater<>());
  };
  while (!s.heap.empty()) {
    std::pop_heap(s.heap.begin(), s.heap.end(), std::greater<>());
    const uint64_t top = s.heap.back();
    s.heap.pop_back();
    const auto at = static_cast<uint32_t>(top & UINT32_MAX);
    if (s.merges[at].rank != top >> 32) continue;
    const uint32_t gone = s.next[at];
    s.symbols[at] = s.merges[at].id;
    s.merges[gone].rank = kNoRank;
    s.next[at] = s.next[gone];
    if (s.next[at] != none) s.previous[s.next[at]] = at;
    renew(at);
    if (s.previous[at] != none) renew(s.previous[at]);
  }
  size_t n_left = 0;
  for (uint32_t i = 0; i != none; i = s.next[i]) s.symbols[n_left++] = s.symbols[i];
  s.symbols.resize(n_left);
}

void Bpe::encode(std::string_view piece, BpeScratch& s, std::vector<int32_t>& out) const {
  if (piece.empty()) return;
  if (options_.ignore_merges) {
    s.text.clear();
    if (options_.bytes) byte_level::append_spelled(s.text, piece);
    const auto id = table_->find_in_model(options_.bytes ? std::string_view(s.text) : piece);
    if (id) {
      out.push_back(*id);
      return;
    }
  }
  s.symbols.clear();
  if (options_.bytes) {
    split_bytes(piece, s);
  } else {
    split_characters(piece, s);
  }
  if (s.symbols.size() > kShort) {
    merge_long(s);
  } else if (s.symbols.size() > 1) {
    merge_short(s);
  }
  out.insert(out.end(), s.symbols.begin(), s.symbols.end());
}

}  // namespace patchbay
