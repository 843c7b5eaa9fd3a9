#include "core/model/files/gguf_vocabulary.hpp"

#include <fmt/format.h>

#include <limits>

namespace patchbay {
namespace {

moe::Error wrong(std::string_view key, std::string_view expected, std::string_view got) {
  return moe::invalid(fmt::format("metadata {}: expected {}, got {}", quoted_name(key), expected, got));
}

// Nothing: no such key.
moe::Result<std::optional<std::string>> text_of(const GgufFile& file, std::string_view key) {
  const GgufValue* value = file.find_metadata(key);
  if (value == nullptr) return std::optional<std::string>();
  const auto text = value->string();
  if (!text) return wrong(key, "a string", "another type");
  return std::optional<std::string>(*text);
}

moe::Result<bool> flag_of(const GgufFile& file, std::string_view key, bool otherwise) {
  const GgufValue* value = file.find_metadata(key);
  if (value == nullptr) return otherwise;
  const auto flag = value->boolean();
  if (!flag) return wrong(key, "a bool", "another type");
  return *flag;
}

moe::Result<std::vector<std::string>> texts_of(const GgufFile& file, std::string_view key) {
  const GgufValue* value = file.find_metadata(key);
  if (value == nullptr) return std::vector<std::string>();
  const auto views = value->array() == nullptr ? std::nullopt : value->array()->strings();
  if (!views) return wrong(key, "an array of strings", "another type");
  return std::vector<std::string>(views->begin(), views->end());
}

// An array of numbers as T, which must hold each of them.
template <typename T, typename Take>
moe::Result<std::vector<T>> numbers_of(const GgufFile& file, std::string_view key, std::string_view kind, Take take) {
  std::vector<T> out;
  const GgufValue* value = file.find_metadata(key);
  if (value == nullptr) return out;
  if (value->array() == nullptr) return wrong(key, fmt::format("an array of {}", kind), "another type");
  bool good = true;
  out.reserve(value->array()->n);
  value->array()->for_each([&](const GgufValue& element) {
    const std::optional<T> number = take(element);
    good = good && number.has_value();
    out.push_back(number.value_or(T{}));
  });
  if (!good) return wrong(key, fmt::format("an array of {}", kind), "another type");
  return out;
}

std::optional<int32_t> as_i32(const GgufValue& value) {
  const auto n = value.integer();
  if (!n || *n < std::numeric_limits<int32_t>::min() || *n > std::numeric_limits<int32_t>::max()) return std::nullopt;
  return static_cast<int32_t>(*n);
}
std::optional<float> as_float(const GgufValue& value) {
  const auto x = value.number();
  return x ? std::optional(static_cast<float>(*x)) : std::nullopt;
}

// What the format leaves to the reader: a byte-level vocabulary of these families begins with bos where the file does
// not say, as SentencePiece's does.
bool begins_with_bos(const TokenizerData& data) {
  if (data.kind == TokenizerData::Kind::kSentencePiece) return true;
  constexpr std::string_view kFamilies[] = {"llama-bpe", "llama3", "llama-v3", "tekken"};
  return std::find(std::begin(kFamilies), std::end(kFamilies), data.pre_tokenizer) != std::end(kFamilies);
}

}  // namespace

moe::Result<std::optional<int32_t>> gguf_token_id(const GgufFile& file, std::string_view key) {
  const GgufValue* value = file.find_metadata(key);
  if (value == nullptr) return std::optional<int32_t>();
  const auto id = as_i32(*value);
  if (!id || *id < 0)
    return wrong(key, "a token id below 2^31", value->integer() ? std::to_string(*value->integer()) : "another type");
  return id;
}

moe::Result<std::string> gguf_token_text(const GgufFile& file, std::string_view key) {
  MOE_ASSIGN(const auto id, gguf_token_id(file, key));
  const GgufValue* tokens = file.find_metadata("tokenizer.ggml.tokens");
  if (!id || tokens == nullptr || tokens->array() == nullptr) return std::string();
  if (static_cast<uint64_t>(*id) >= tokens->array()->n)
    return wrong(key, fmt::format("an id below {}", tokens->array()->n), std::to_string(*id));
  const auto texts = tokens->array()->strings();
  return texts ? std::string((*texts)[static_cast<size_t>(*id)]) : std::string();
}

moe::Result<std::unique_ptr<Tokenizer>> gguf_tokenizer(const GgufFile& file) {
  MOE_ASSIGN(const auto model, text_of(file, "tokenizer.ggml.model"));
  if (!model || *model == "none" || *model == "no_vocab") return std::unique_ptr<Tokenizer>();
  TokenizerData data;
  if (*model == "llama") {
    data.kind = TokenizerData::Kind::kSentencePiece;
  } else if (*model != "gpt2") {
    return moe::unimplemented(
        fmt::format("metadata \"tokenizer.ggml.model\": expected gpt2 or llama, got {}", quoted_name(*model)));
  }
  MOE_ASSIGN(const auto pre, text_of(file, "tokenizer.ggml.pre"));
  data.pre_tokenizer = pre.value_or("default");
  MOE_ASSIGN(data.tokens, texts_of(file, "tokenizer.ggml.tokens"));
  MOE_ASSIGN(data.merges, texts_of(file, "tokenizer.ggml.merges"));
  MOE_ASSIGN(data.scores, numbers_of<float>(file, "tokenizer.ggml.scores", "numbers", as_float));
  MOE_ASSIGN(data.types, numbers_of<int32_t>(file, "tokenizer.ggml.token_type", "32-bit integers", as_i32));
  MOE_ASSIGN(data.bos, gguf_token_id(file, "tokenizer.ggml.bos_token_id"));
  MOE_ASSIGN(data.eos, gguf_token_id(file, "tokenizer.ggml.eos_token_id"));
  MOE_ASSIGN(data.unknown, gguf_token_id(file, "tokenizer.ggml.unknown_token_id"));
  MOE_ASSIGN(data.add_bos,
             flag_of(file, "tokenizer.ggml.add_bos_token", begins_with_bos(data) && data.bos.has_value()));
  MOE_ASSIGN(data.add_eos, flag_of(file, "tokenizer.ggml.add_eos_token", false));
  MOE_ASSIGN(data.add_space_prefix, flag_of(file, "tokenizer.ggml.add_space_prefix", true));
  auto tokenizer = Tokenizer::from_vocabulary(data);
  if (!tokenizer.ok()) return tokenizer.error().in("tokenizer");
  return tokenizer;
}

}  // namespace patchbay
