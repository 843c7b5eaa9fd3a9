// A vocabulary as GGUF carries it to a Tokenizer. What tokenizer.json says in parts, GGUF says by a name.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/model/tokenizer/impl.hpp"
#include "core/model/tokenizer/tokenizer.hpp"
#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {
namespace {

constexpr int32_t kControl = 3;
constexpr int32_t kUserDefined = 4;

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kDigit = R"(\p{N})";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekken = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
                                R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
                                R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepseekNumbers = R"(\p{N}{1,3})";
constexpr const char* kDeepseekHan = "[一-龥\u3040-ゟ゠-ヿ]+";
constexpr const char* kDeepseekWords =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

// How a family splits text: patterns one after another, each match a piece of its own.
struct Family {
  const char* name;  // tokenizer.ggml.pre
  bool nfc;
  bool ignore_merges;
  const char* patterns[3];
};
constexpr Family kFamilies[] = {
    {"default", false, false, {kGpt2}},
    {"gpt-2", false, false, {kGpt2}},
    {"olmo", true, false, {kGpt2}},
    {"dbrx", false, false, {kLlama3}},
    {"qwen2", true, false, {kQwen2}},
    {"deepseek-v3", false, false, {kDeepseekNumbers, kDeepseekHan, kDeepseekWords}},
    {"gpt-4o", false, true, {kGpt4o}},
    {"llama-bpe", false, true, {kLlama3}},
    {"llama4", false, false, {kGpt4o}},
    {"tekken", false, true, {kTekken}},
    {"glm4", false, false, {kLlama3}},
    {"refact", false, false, {kDigit, kGpt2}},
    {"starcoder", false, false, {kDigit, kGpt2}},
    {"command-r", true, false, {kDigit, kGpt2}},
};

moe::Result<const Family*> find_family(const std::string& name) {
  std::string known;
  for (const Family& f : kFamilies) {
    if (name == f.name) return &f;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", f.name);
  }
  return moe::unimplemented(fmt::format("pre-tokenizer: expected one of {}, got \"{}\"", known, name));
}

moe::Status check(const TokenizerData& d) {
  const size_t n = d.tokens.size();
  if (n == 0 || n > INT32_MAX) return moe::invalid(fmt::format("tokens: expected 1 to 2^31 - 1, got {}", n));
  if (!d.types.empty() && d.types.size() != n)
    return moe::invalid(fmt::format("token types: expected {}, got {}", n, d.types.size()));
  for (const auto& [name, id] : {std::pair("bos", d.bos), std::pair("eos", d.eos), std::pair("unknown", d.unknown)}) {
    if (id && (*id < 0 || static_cast<size_t>(*id) >= n)) {
      return moe::invalid(fmt::format("{} token: expected an id from 0 to {}, got {}", name, n - 1, *id));
    }
  }
  if ((d.add_bos && !d.bos) || (d.add_eos && !d.eos))
    return moe::invalid("bos or eos token: expected an id for what is to be added, got none");
  if (d.kind == TokenizerData::Kind::kByteLevelBpe) return {};
  if (d.scores.size() != n) return moe::invalid(fmt::format("scores: expected {}, got {}", n, d.scores.size()));
  for (const float s : d.scores) {
    if (std::isnan(s)) return moe::invalid("scores: expected numbers, got NaN");
  }
  return {};
}

moe::Status fill_tokens(const TokenizerData& d, TokenizerParts& parts) {
  parts.table = std::make_unique<TokenTable>(d.tokens.size());
  for (size_t i = 0; i < d.tokens.size(); ++i) {
    const int32_t type = d.types.empty() ? 1 : d.types[i];
    const bool added = type == kControl || type == kUserDefined;
    MOE_TRY(parts.table->add(d.tokens[i], static_cast<int64_t>(i), !added));
    if (!added) continue;
    AddedToken t;
    t.id = static_cast<int32_t>(i);
    t.content = d.tokens[i];
    t.special = type == kControl;
    parts.added.push_back(std::move(t));
  }
  return {};
}

moe::Status make_byte_level(const TokenizerData& d, TokenizerParts& parts) {
  MOE_ASSIGN(const Family* family, find_family(d.pre_tokenizer));
  std::vector<PreTokenizerStep> steps;
  for (const char* text : family->patterns) {
    if (text == nullptr) break;
    MOE_ASSIGN(TextPattern pattern, TextPattern::regex(text));
    steps.emplace_back(SplitStep{std::move(pattern), SplitBehavior::kIsolated, false});
  }
  steps.emplace_back(ByteLevelStep{false, true, {}});
  parts.pre_tokenizer = PreTokenizer(std::move(steps));
  if (family->nfc) parts.normalizer = Normalizer({UnicodeFormStep{UnicodeFormStep::Form::kNfc}});
  parts.decoder = {ByteLevelDecoder{}};
  BpeOptions options;
  options.ignore_merges = family->ignore_merges;
  options.bytes = take_bytes(parts.pre_tokenizer, options);
  parts.bpe = std::make_unique<Bpe>(*parts.table, options, d.merges.size());
  for (size_t i = 0; i < d.merges.size(); ++i) {
    auto pair = split_merge(d.merges[i]);
    if (!pair.ok()) return pair.error().in(fmt::format("merges[{}]", i));
    if (auto done = parts.bpe->add_merge(pair->first, pair->second, static_cast<uint32_t>(i)); !done.ok()) {
      return done.error().in(fmt::format("merges[{}]", i));
    }
  }
  return {};
}

// SentencePiece merges the two neighbours whose joined token scores best (Kudo and Richardson 2018): so each way to cut
// a token in two is a merge with the token's place among the scores; equal scores share a place, and then the leftmost
// pair goes first.
moe::Status add_score_merges(const TokenizerData& d, const TokenTable& table, Bpe& bpe) {
  std::vector<size_t> order(d.tokens.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&d](size_t a, size_t b) { return d.scores[a] > d.scores[b]; });
  uint32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && d.scores[order[i]] != d.scores[order[i - 1]]) ++rank;
    const std::string_view token = d.tokens[order[i]];
    if (!table.in_model(static_cast<int32_t>(order[i]))) continue;
    for (size_t at = token.empty() ? 0 : unicode::length_at(token, 0); at < token.size();
         at += unicode::length_at(token, at)) {
      if (!table.find_in_model(token.substr(0, at)) || !table.find_in_model(token.substr(at))) continue;
      MOE_TRY(bpe.add_merge(token.substr(0, at), token.substr(at), rank));
    }
  }
  return {};
}

moe::Status make_sentencepiece(const TokenizerData& d, TokenizerParts& parts) {
  constexpr size_t kMaxTokenBytes = 1024;  // cutting a token takes the square of its length
  for (size_t i = 0; i < d.tokens.size(); ++i) {
    if (d.tokens[i].size() > kMaxTokenBytes) {
      return moe::invalid(
          fmt::format("token {}: expected at most {} bytes, got {}", i, kMaxTokenBytes, d.tokens[i].size()));
    }
  }
  const std::string space = "▁";
  MOE_ASSIGN(TextPattern blank, TextPattern::literal(" "));
  std::vector<NormalizerStep> steps;
  if (d.add_space_prefix) steps.emplace_back(PrependStep{space});
  steps.emplace_back(ReplaceStep{std::move(blank), space});
  parts.normalizer = Normalizer(std::move(steps));
  parts.decoder = {ReplaceDecoder{space, " "}, ByteFallbackDecoder{}, FuseDecoder{}};
  if (d.add_space_prefix) parts.decoder.emplace_back(StripDecoder{" ", 1, 0});
  BpeOptions options;
  options.byte_fallback = true;
  options.fuse_unknown = true;
  options.unknown = d.unknown;
  parts.bpe = std::make_unique<Bpe>(*parts.table, options, d.tokens.size());
  return add_score_merges(d, *parts.table, *parts.bpe);
}

}  // namespace

moe::Result<std::unique_ptr<Tokenizer>> Tokenizer::from_vocabulary(const TokenizerData& data) {
  MOE_TRY(check(data));
  TokenizerParts parts;
  MOE_TRY(fill_tokens(data, parts));
  const bool byte_level = data.kind == TokenizerData::Kind::kByteLevelBpe;
  MOE_TRY(byte_level ? make_byte_level(data, parts) : make_sentencepiece(data, parts));
  if (data.add_bos) parts.post.before.push_back(*data.bos);
  if (data.add_eos) parts.post.after.push_back(*data.eos);
  return TokenizerBuilder::build(std::move(parts));
}

}  // namespace patchbay
