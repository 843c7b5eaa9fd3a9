#include "core/service/text_model.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/model/files/model_files.hpp"

namespace patchbay {

namespace {

// Normalizers can shrink a text (spaces stripped, accents composed), so a text is refused unread only well beyond what
// can fit.
constexpr size_t kShrinkAllowance = 4;

}  // namespace

TextModel::TextModel(std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<ChatFormat> chat,
                     std::vector<int32_t> stop_ids)
    : tokenizer_(std::move(tokenizer)), chat_(std::move(chat)), stop_ids_(std::move(stop_ids)) {
  if (tokenizer_ == nullptr) return;
  for (size_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    longest_token_bytes_ = std::max(longest_token_bytes_, tokenizer_->token_bytes(static_cast<int32_t>(id)).size());
  }
}

moe::Result<std::unique_ptr<TextModel>> TextModel::load(const std::filesystem::path& path) {
  MOE_ASSIGN(const auto files, ModelFiles::open(path));
  MOE_ASSIGN(std::unique_ptr<Tokenizer> tokenizer, files->tokenizer());
  MOE_ASSIGN(std::unique_ptr<ChatFormat> chat, files->chat_format());
  MOE_ASSIGN(std::vector<int32_t> stop_ids, files->stop_ids());
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
    return moe::precondition("prompt: expected token ids (the model has no tokenizer), got text");
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
