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

constexpr const char* kNewline = R"([\r\n])";
// Letters of scripts that have two cases, as the model's own file lists them.
constexpr const char* kDeepseekCased =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376})"
    R"(\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F})"
    R"(\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B})"
    R"(\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57})"
    R"(\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC})"
    R"(\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113})"
    R"(\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149})"
    R"(\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B})"
    R"(\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A})"
    R"(\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2})"
    R"(\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)";
constexpr const char* kDeepseekMarks =
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)";
constexpr const char* kTrailingSpace = R"(\s+$)";
constexpr const char* kDeepseekAsian = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
constexpr const char* kSpacedLetters = R"(\s?\p{L}+)";
constexpr const char* kSpacedMarks = R"(\s?\p{P}+)";
constexpr const char* kKimi =
    R"([\p{Han}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// How a family splits text: patterns one after another, each match a piece of its own.
struct Family {
  const char* name;  // tokenizer.ggml.pre
  bool nfc;
  bool ignore_merges;
  const char* patterns[6];
};
constexpr Family kFamilies[] = {
    {"default", false, false, {kGpt2}},
    {"gpt-2", false, false, {kGpt2}},
    {"olmo", true, false, {kGpt2}},
    {"dbrx", false, false, {kLlama3}},
    {"qwen2", true, false, {kQwen2}},
    {"deepseek-v3", false, false, {kDeepseekNumbers, kDeepseekHan, kDeepseekWords}},
    {"deepseek-llm", false, false, {kNewline, kDeepseekCased, kDeepseekMarks, kTrailingSpace, kDeepseekAsian, kDigit}},
    {"deepseek-coder", false, false, {kNewline, kSpacedLetters, kSpacedMarks, kDeepseekAsian, kDigit}},
    {"kimi-k2", false, true, {kKimi}},
    {"hunyuan", false, false, {kQwen2}},
    {"minimax-m2", false, false, {kGpt4o}},
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
  if (d.kind == TokenizerData::Kind::kByteLevelBpe && (d.scores.empty() || !d.merges.empty())) return {};
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

// SentencePiece (Kudo and Richardson 2018) and tiktoken merge the two neighbours whose joined token scores best: so
// each way to cut a token in two is a merge with the token's place among the scores; equal scores share a place, and
// then the leftmost pair goes first.
moe::Status add_score_merges(const TokenizerData& d, const TokenTable& table, Bpe& bpe) {
  constexpr size_t kMaxTokenBytes = 1024;  // cutting a token takes the square of its length
  for (size_t i = 0; i < d.tokens.size(); ++i) {
    if (d.tokens[i].size() > kMaxTokenBytes) {
      return moe::invalid(
          fmt::format("token {}: expected at most {} bytes, got {}", i, kMaxTokenBytes, d.tokens[i].size()));
    }
  }
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
  if (d.merges.empty() && !d.scores.empty()) {
    parts.bpe = std::make_unique<Bpe>(*parts.table, options, d.tokens.size());
    return add_score_merges(d, *parts.table, *parts.bpe);
  }
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

moe::Status make_sentencepiece(const TokenizerData& d, TokenizerParts& parts) {
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
