#include "core/service/text_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/model/json/json.hpp"

namespace patchbay {

namespace {

// Normalizers can shrink a text (spaces stripped, accents composed), so a text is refused unread only well beyond what
// can fit.
constexpr size_t kShrinkAllowance = 4;

moe::Result<int32_t> stop_id(const nlohmann::json& value) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  if (value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(kMax)) return value.get<int32_t>();
  return moe::invalid(fmt::format("eos_token_id: expected a token id or a list of them, got {}", value.type_name()));
}

// Nothing: the file does not say.
moe::Result<std::optional<std::vector<int32_t>>> stop_ids_of(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return std::optional<std::vector<int32_t>>();
  MOE_ASSIGN(const nlohmann::json document, parse_json_file(file));
  if (!document.is_object()) {
    return moe::invalid(fmt::format("{}: expected an object, got {}", file.string(), document.type_name()));
  }
  const auto found = document.find("eos_token_id");
  if (found == document.end() || found->is_null()) return std::optional<std::vector<int32_t>>();
  std::vector<int32_t> ids;
  const auto add = [&](const nlohmann::json& value) -> moe::Status {
    auto id = stop_id(value);
    if (!id.ok()) return id.error().in(file.string());
    ids.push_back(*id);
    return {};
  };
  if (found->is_array()) {
    for (const auto& value : *found) MOE_TRY(add(value));
  } else {
    MOE_TRY(add(*found));
  }
  return std::optional(std::move(ids));
}

}  // namespace

moe::Result<std::vector<int32_t>> read_stop_ids(const std::filesystem::path& model_dir) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    MOE_ASSIGN(auto ids, stop_ids_of(model_dir / name));
    if (ids) return std::move(*ids);
  }
  return std::vector<int32_t>();
}

TextModel::TextModel(std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<ChatFormat> chat,
                     std::vector<int32_t> stop_ids)
    : tokenizer_(std::move(tokenizer)), chat_(std::move(chat)), stop_ids_(std::move(stop_ids)) {
  if (tokenizer_ == nullptr) return;
  for (size_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    longest_token_bytes_ = std::max(longest_token_bytes_, tokenizer_->token_bytes(static_cast<int32_t>(id)).size());
  }
}

moe::Result<std::unique_ptr<TextModel>> TextModel::load(const std::filesystem::path& model_dir) {
  std::unique_ptr<Tokenizer> tokenizer;
  std::error_code ignored;
  if (std::filesystem::exists(model_dir / "tokenizer.json", ignored)) {
    MOE_ASSIGN(tokenizer, Tokenizer::load(model_dir / "tokenizer.json"));
  }
  std::unique_ptr<ChatFormat> chat;
  auto format = ChatFormat::load(model_dir);
  if (format.ok()) {
    chat = std::make_unique<ChatFormat>(std::move(format).value());
  } else if (format.error().code != MOE_NOT_FOUND) {
    return format.error();
  }
  MOE_ASSIGN(std::vector<int32_t> stop_ids, read_stop_ids(model_dir));
  return std::make_unique<TextModel>(std::move(tokenizer), std::move(chat), std::move(stop_ids));
}

moe::Result<std::vector<int32_t>> TextModel::prompt_ids(const Prompt& prompt, int64_t context) const {
  std::vector<int32_t> ids;
  if (const auto* given = std::get_if<std::vector<int32_t>>(&prompt)) {
    ids = *given;
  } else if (const auto* text = std::get_if<std::string>(&prompt)) {
    MOE_ASSIGN(ids, text_ids(*text, true, context));
  } else {
    MOE_ASSIGN(ids, chat_ids(std::get<ChatPrompt>(prompt), context));
  }
  if (ids.empty()) return moe::invalid("prompt: expected at least one token, got none");
  return ids;
}

moe::Result<std::vector<int32_t>> TextModel::text_ids(const std::string& text, bool add_special,
                                                      int64_t context) const {
  if (tokenizer_ == nullptr)
    return moe::precondition("prompt: expected token ids (the model has no tokenizer.json), got text");
  const size_t most = static_cast<size_t>(std::max<int64_t>(context, 1)) * longest_token_bytes_ * kShrinkAllowance;
  if (text.size() > most) {
    return moe::invalid(fmt::format("prompt: expected at most {} tokens, got {} bytes of text", context, text.size()));
  }
  return tokenizer_->encode(text, add_special);
}

moe::Result<std::vector<int32_t>> TextModel::chat_ids(const ChatPrompt& prompt, int64_t context) const {
  if (chat_ == nullptr) return moe::precondition("prompt: expected text (the model has no chat template), got a chat");
  auto text = chat_->render(prompt.messages, nullptr, true, prompt.variables);
  if (!text.ok()) return text.error().in("chat");
  return text_ids(*text, false, context);  // the template has written the special tokens already
}

}  // namespace patchbay
