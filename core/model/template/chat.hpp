// ChatFormat: a model's own chat template with its special tokens; messages in, prompt text out.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "core/model/template/template.hpp"

namespace patchbay {

// Does what transformers' apply_chat_template does. Immutable after loading. [thread-safe]
class ChatFormat {
 public:
  // Reads chat_template.jinja if the model has one, else tokenizer_config.json's "chat_template" (a text, or a list of
  // {name, template} of which "default" counts), and the special tokens from tokenizer_config.json and
  // special_tokens_map.json. MOE_NOT_FOUND: the model has no chat template.
  static moe::Result<ChatFormat> load(const std::filesystem::path& model_dir);

  // The same from parts, as a GGUF file holds them.
  static moe::Result<ChatFormat> from_source(std::string template_text, std::string bos_token, std::string eos_token);

  // The prompt for `messages`, an array of {"role", "content", ...}, as text that already holds its special tokens:
  // encode it without adding any. `tools` is an array of JSON schemas or null. `kwargs` is an object or null; its
  // entries become variables ("enable_thinking") and win over those of the same name. Errors name the template's line.
  [[nodiscard]] moe::Result<std::string> render(const nlohmann::ordered_json& messages,
                                                const nlohmann::ordered_json& tools = nullptr,
                                                bool add_generation_prompt = true,
                                                const nlohmann::ordered_json& kwargs = nullptr,
                                                const TemplateBudget& budget = {},
                                                const std::optional<std::tm>& now = std::nullopt) const;

  // By name without the "_token": bos, eos, unk, pad, sep, cls, mask; those that the model has.
  [[nodiscard]] const std::map<std::string, std::string>& special_tokens() const { return tokens_; }

 private:
  ChatFormat(Template program, std::map<std::string, std::string> tokens)
      : template_(std::move(program)), tokens_(std::move(tokens)) {}

  Template template_;
  std::map<std::string, std::string> tokens_;
};

}  // namespace patchbay
