#include "core/model/files/tiktoken_vocabulary.hpp"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "core/model/json/json.hpp"
#include "core/model/tokenizer/byte_level.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{64} << 20;
constexpr size_t kMaxAddedTokens = size_t{1} << 16;  // beyond the last of the file

// tokenizer_class of tokenizer_config.json, and how its models split text (TokenizerData::pre_tokenizer).
struct TokenizerClass {
  std::string_view name;
  const char* splits_as;
};
constexpr TokenizerClass kClasses[] = {{"TikTokenTokenizer", "kimi-k2"}};

std::optional<uint32_t> base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return std::nullopt;
}

// RFC 4648, section 4.
std::optional<std::string> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
  std::string out;
  uint32_t bits = 0;
  int n_bits = 0;
  for (const char c : text) {
    const auto digit = base64_digit(c);
    if (!digit) return std::nullopt;
    bits = (bits << 6 | *digit) & 0xFFF;
    n_bits += 6;
    if (n_bits < 8) continue;
    n_bits -= 8;
    out.push_back(static_cast<char>(bits >> n_bits & 0xFF));
  }
  return out;
}

// Lines "dGhl 1820", ranks from 0 without a hole.
moe::Status read_ranks(std::string_view text, TokenizerData& data) {
  for (size_t line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view entry = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t space = std::min(entry.find(' '), entry.size());
    const auto bytes = from_base64(entry.substr(0, space));
    size_t rank = 0;
    const std::string_view digits = entry.substr(std::min(space + 1, entry.size()));
    const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
    const bool is_number = error == std::errc() && rest == digits.data() + digits.size();
    if (!bytes || bytes->empty() || !is_number || rank != data.tokens.size()) {
      return moe::invalid(
          fmt::format("line {}: expected a token in base64 and its rank, {}, got another", line, data.tokens.size()));
    }
    byte_level::append_spelled(data.tokens.emplace_back(), *bytes);
    data.scores.push_back(-static_cast<float>(rank));
  }
  return {};
}

// added_tokens_decoder: {"163584": {"content": "[BOS]", "special": true, ...}, ...}. Ids in between have no text.
moe::Status add_tokens(const json& config, TokenizerData& data) {
  const auto added = config.find("added_tokens_decoder");
  if (added == config.end()) return {};
  if (!added->is_object()) return moe::invalid("added_tokens_decoder: expected an object");
  const size_t limit = data.tokens.size() + kMaxAddedTokens;
  constexpr int32_t kNormal = 1;
  constexpr int32_t kControl = 3;
  constexpr int32_t kUserDefined = 4;
  constexpr int32_t kUnused = 5;
  data.types.assign(data.tokens.size(), kNormal);
  for (const auto& [key, token] : added->items()) {
    size_t id = 0;
    const auto [rest, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || rest != key.data() + key.size() || id >= limit) {
      return moe::invalid(fmt::format("added_tokens_decoder: expected ids below {}, got {}", limit, key));
    }
    const bool whole = token.is_object() && token.contains("content") && token["content"].is_string();
    if (!whole) return moe::invalid(fmt::format("added_tokens_decoder.{}: expected an object with \"content\"", key));
    while (data.tokens.size() <= id) {
      data.tokens.push_back(fmt::format("<|reserved_token_{}|>", data.tokens.size()));
      data.types.push_back(kUnused);
    }
    data.tokens[id] = token["content"].get<std::string>();
    data.types[id] = token.value("special", json(false)) == true ? kControl : kUserDefined;
  }
  data.scores.resize(data.tokens.size(), -static_cast<float>(data.tokens.size()));
  return {};
}

}  // namespace

moe::Result<std::unique_ptr<Tokenizer>> tiktoken_tokenizer(const fs::path& directory) {
  const fs::path file = directory / "tiktoken.model";
  const fs::path config_file = directory / "tokenizer_config.json";
  MOE_ASSIGN(const std::string text, read_file(file, kMaxFileBytes));
  MOE_ASSIGN(const json config, parse_json_file(config_file));
  const auto name = config.is_object() && config.contains("tokenizer_class") ? config["tokenizer_class"] : json();
  TokenizerData data;
  std::string known;
  for (const TokenizerClass& c : kClasses) {
    if (name == c.name) data.pre_tokenizer = c.splits_as;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", c.name);
  }
  if (data.pre_tokenizer.empty()) {
    return moe::unimplemented(fmt::format("{}: tokenizer_class: expected {} beside tiktoken.model, got {}",
                                          config_file.string(), known, name.dump()));
  }
  if (auto s = read_ranks(text, data); !s.ok()) return s.error().in(file.string());
  if (auto s = add_tokens(config, data); !s.ok()) return s.error().in(config_file.string());
  auto tokenizer = Tokenizer::from_vocabulary(data);
  if (!tokenizer.ok()) return tokenizer.error().in(file.string());
  return tokenizer;
}

}  // namespace patchbay
