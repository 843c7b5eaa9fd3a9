// TextModel: what turns people's text into a model's token ids and back, as its files describe it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/model/template/chat.hpp"
#include "core/model/tokenizer/tokenizer.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// Messages for the model's chat template.
struct ChatPrompt {
  nlohmann::ordered_json messages;  // an array of {"role", "content", ...}
  nlohmann::ordered_json
      variables;  // an object, or null: variables of the template, such as {"enable_thinking": false}
};

// Text as it is, a chat, or token ids.
using Prompt = std::variant<std::string, ChatPrompt, std::vector<int32_t>>;

// Tokenizer, chat format and end-of-text ids of a model. Immutable. [thread-safe]
class TextModel {
 public:
  // Reads them from where ModelFiles finds a model. Tokenizer and template may be missing; what is there and wrong is
  // an error.
  static moe::Result<std::unique_ptr<TextModel>> load(const std::filesystem::path& path);

  // From parts; the first two may be null.
  TextModel(std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<ChatFormat> chat, std::vector<int32_t> stop_ids);

  [[nodiscard]] const Tokenizer* tokenizer() const { return tokenizer_.get(); }  // null: the model speaks ids only
  [[nodiscard]] const ChatFormat* chat() const { return chat_.get(); }           // null: it has no chat template
  // The ids that end a text.
  [[nodiscard]] std::span<const int32_t> stop_ids() const { return stop_ids_; }

  // The ids of a prompt. `context` is the number of tokens that the model can hold: a text that is certainly longer is
  // refused before it is tokenized. MOE_INVALID_ARGUMENT: empty, too long, or not what the chat template takes;
  // MOE_FAILED_PRECONDITION: the model has no tokenizer or no chat template.
  [[nodiscard]] moe::Result<std::vector<int32_t>> prompt_ids(const Prompt& prompt, int64_t context) const;

 private:
  [[nodiscard]] moe::Result<std::vector<int32_t>> text_ids(const std::string& text, bool add_special,
                                                           int64_t context) const;
  [[nodiscard]] moe::Result<std::vector<int32_t>> chat_ids(const ChatPrompt& prompt, int64_t context) const;

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatFormat> chat_;
  std::vector<int32_t> stop_ids_;
  size_t longest_token_bytes_ = 1;
};

}  // namespace patchbay
