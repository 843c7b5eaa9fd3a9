#include "core/model/tokenizer/tokenizer.hpp"

#include <fmt/format.h>

#include "core/model/tokenizer/impl.hpp"
#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {
namespace {

constexpr size_t kKeptScratchBytes = size_t{4} << 20;  // after a giant text the work space is given back

// An EncodeScratch out of the tokenizer's pool, for as long as this lives.
class Lease {
 public:
  Lease(std::mutex& mutex, std::vector<std::unique_ptr<EncodeScratch>>& pool) : mutex_(mutex), pool_(pool) {
    const std::lock_guard lock(mutex_);
    if (!pool_.empty()) {
      scratch_ = std::move(pool_.back());
      pool_.pop_back();
    }
  }
  ~Lease() {
    if (scratch_ == nullptr || scratch_->pieces.text.capacity() > kKeptScratchBytes) return;
    const std::lock_guard lock(mutex_);
    pool_.push_back(std::move(scratch_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  EncodeScratch& operator*() {
    if (scratch_ == nullptr) scratch_ = std::make_unique<EncodeScratch>();
    return *scratch_;
  }

 private:
  std::mutex& mutex_;
  std::vector<std::unique_ptr<EncodeScratch>>& pool_;
  std::unique_ptr<EncodeScratch> scratch_;
};

// One encoding: the text goes down from segment to piece to ids.
class Encoder {
 public:
  Encoder(const TokenizerParts& parts, const AddedTokens& raw, const AddedTokens& normalized, bool parse_special,
          EncodeScratch& scratch, std::vector<int32_t>& out)
      : parts_(parts),
        raw_(raw),
        normalized_(normalized),
        parse_special_(parse_special),
        scratch_(scratch),
        out_(out) {}

  moe::Status text(std::string_view text) {
    scratch_.segments.clear();
    raw_.split(text, parse_special_, scratch_.segments);
    for (const Segment& s : scratch_.segments) {
      if (s.id != Segment::kText) {
        out_.push_back(s.id);
      } else {
        MOE_TRY(segment(text.substr(s.begin, s.end - s.begin), s.begin == 0));
      }
    }
    return {};
  }

 private:
  moe::Status segment(std::string_view text, bool starts_input) {
    std::string& normalized = scratch_.pieces.text;
    normalized.assign(text);
    MOE_TRY(parts_.normalizer.apply(normalized));
    if (normalized_.empty()) return plain(starts_input);
    scratch_.inner_segments.clear();
    normalized_.split(normalized, parse_special_, scratch_.inner_segments);
    const std::string whole = normalized;
    for (const Segment& s : scratch_.inner_segments) {
      if (s.id != Segment::kText) {
        out_.push_back(s.id);
        continue;
      }
      scratch_.pieces.text.assign(whole, s.begin, s.end - s.begin);
      MOE_TRY(plain(starts_input && s.begin == 0));
    }
    return {};
  }

  // pieces.text holds plain text.
  moe::Status plain(bool starts_input) {
    Pieces& pieces = scratch_.pieces;
    if (pieces.text.empty()) return {};
    pieces.spans.assign(1, {0, static_cast<uint32_t>(pieces.text.size()), starts_input});
    MOE_TRY(parts_.pre_tokenizer.run(pieces));
    for (const Pieces::Span& s : pieces.spans) piece(pieces.at(s));
    return {};
  }

  void piece(std::string_view piece) {
    if (const auto known = scratch_.cache.find(piece)) {
      out_.insert(out_.end(), known->begin(), known->end());
      return;
    }
    const size_t n_before = out_.size();
    parts_.bpe->encode(piece, scratch_.bpe, out_);
    scratch_.cache.insert(piece, std::span<const int32_t>(out_).subspan(n_before));
  }

  const TokenizerParts& parts_;
  const AddedTokens& raw_;
  const AddedTokens& normalized_;
  bool parse_special_;
  EncodeScratch& scratch_;
  std::vector<int32_t>& out_;
};

}  // namespace

moe::Status TokenizerBuilder::fill_bytes(TokenizerParts& parts) {
  constexpr size_t kMaxBytes = size_t{1} << 30;
  size_t n_bytes = 0;
  for (size_t i = 0; i < parts.table->size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (!parts.table->has(id)) continue;
    const std::string bytes = decoded_bytes(parts.decoder, parts.table->shown(id));
    n_bytes += bytes.size();
    if (n_bytes > kMaxBytes)
      return moe::invalid(fmt::format("tokens: expected at most {} decoded bytes, got more", kMaxBytes));
    parts.table->set_bytes(id, bytes);
  }
  return {};
}

moe::Result<std::unique_ptr<Tokenizer>> TokenizerBuilder::build(TokenizerParts parts) {
  auto impl = std::make_unique<Tokenizer::Impl>();
  size_t n_normalized = 0;
  for (const AddedToken& token : parts.added) {
    if (token.special) parts.table->mark_special(token.id);
    if (!token.normalized) {
      impl->raw_tokens.add(token);
      continue;
    }
    AddedToken normalized = token;
    if (auto done = parts.normalizer.apply(normalized.content); !done.ok()) {
      return done.error().in(fmt::format("added token {}", token.id));
    }
    n_normalized += normalized.content.size();
    if (n_normalized > kMaxTextBytes) {
      return moe::invalid(fmt::format("added tokens: expected at most {} bytes, got more", kMaxTextBytes));
    }
    // Decoding gives the normalized form too, as Hugging Face's library does.
    if (normalized.content != token.content) parts.table->set_shown(token.id, normalized.content);
    impl->normalized_tokens.add(std::move(normalized));
  }
  MOE_TRY(fill_bytes(parts));
  impl->parts = std::move(parts);
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

moe::Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > kMaxTextBytes) {
    return moe::invalid(fmt::format("text: expected at most {} bytes, got {}", kMaxTextBytes, text.size()));
  }
  std::string repaired;
  if (!unicode::is_valid(text)) text = repaired = unicode::repaired(text);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  const PostProcessor& post = impl_->parts.post;
  if (options.add_special) ids = post.before;
  Lease lease(impl_->mutex, impl_->free_scratch);
  Encoder encoder(impl_->parts, impl_->raw_tokens, impl_->normalized_tokens, options.parse_special, *lease, ids);
  MOE_TRY(encoder.text(text));
  if (options.add_special) ids.insert(ids.end(), post.after.begin(), post.after.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  const TokenTable& table = *impl_->parts.table;
  std::string out;
  DecoderChain chain(impl_->parts.decoder, out);
  for (const int32_t id : ids) {
    if (table.has(id) && !(skip_special && table.special(id))) chain.push(table.shown(id));
  }
  chain.flush();
  return out;
}

moe::Result<int32_t> Tokenizer::id_of(std::string_view token) const {
  const std::optional<int32_t> id = impl_->parts.table->find(token);
  if (!id) return moe::not_found(fmt::format("token: expected one of the vocabulary, got \"{}\"", token));
  return *id;
}

std::string_view Tokenizer::token_text(int32_t id) const {
  const TokenTable& table = *impl_->parts.table;
  return table.has(id) ? table.text(id) : std::string_view();
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  const TokenTable& table = *impl_->parts.table;
  return table.has(id) ? table.bytes(id) : std::string_view();
}

size_t Tokenizer::vocab_size() const { return impl_->parts.table->size(); }

bool Tokenizer::is_special(int32_t id) const {
  const TokenTable& table = *impl_->parts.table;
  return table.has(id) && table.special(id);
}

struct StreamDecoder::Impl {
  Impl(const TokenizerParts& parts, bool skip) : table(*parts.table), skip_special(skip), chain(parts.decoder, out) {}
  const TokenTable& table;
  bool skip_special;
  std::string out;
  DecoderChain chain;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : impl_(std::make_unique<Impl>(tokenizer.impl_->parts, skip_special)) {}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(int32_t id) {
  if (!impl_->table.has(id) || (impl_->skip_special && impl_->table.special(id))) return {};
  impl_->chain.push(impl_->table.shown(id));
  return std::exchange(impl_->out, {});
}

std::string StreamDecoder::flush() {
  impl_->chain.flush();
  return std::exchange(impl_->out, {});
}

}  // namespace patchbay
