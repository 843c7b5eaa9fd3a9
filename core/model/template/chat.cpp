#include "core/model/template/chat.hpp"

#include <fmt/format.h>

#include "core/model/json/json.hpp"

namespace patchbay {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kMaxTemplateBytes = size_t{1} << 20;
constexpr const char* kTokenNames[] = {"bos", "eos", "unk", "pad", "sep", "cls", "mask"};

// "text", or an AddedToken {"content": "text", ...}; nothing for null and absent ones.
moe::Result<std::optional<std::string>> token_text(const json& config, const std::string& key) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return std::optional<std::string>();
  if (it->is_string()) return std::optional<std::string>(it->get<std::string>());
  const auto content = it->is_object() ? it->find("content") : it->end();
  if (!it->is_object() || content == it->end() || !content->is_string()) {
    return moe::invalid(fmt::format("{}: expected a string or an object with \"content\"", key));
  }
  return std::optional<std::string>(content->get<std::string>());
}

// Adds the tokens of one file to those of the files before it.
moe::Status read_tokens(const json& config, std::map<std::string, std::string>& tokens) {
  for (const char* name : kTokenNames) {
    MOE_ASSIGN(std::optional<std::string> text, token_text(config, fmt::format("{}_token", name)));
    if (text) tokens.emplace(name, std::move(*text));
  }
  return {};
}

// The template in tokenizer_config.json, if it has one.
moe::Result<std::optional<std::string>> configured_template(const json& config) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return std::optional<std::string>();
  if (it->is_string()) return std::optional<std::string>(it->get<std::string>());
  if (!it->is_array()) return moe::invalid("chat_template: expected a string or a list of {name, template}");
  for (const json& entry : *it) {
    const bool named = entry.is_object() && entry.contains("name") && entry.contains("template");
    if (!named || !entry["name"].is_string() || !entry["template"].is_string()) {
      return moe::invalid("chat_template: expected entries with the strings \"name\" and \"template\"");
    }
    if (entry["name"] == "default") return std::optional<std::string>(entry["template"].get<std::string>());
  }
  return moe::invalid("chat_template: expected an entry named \"default\", got none");
}

// The object in a file that may be absent; then an empty one.
moe::Result<json> optional_object(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return json::object();
  MOE_ASSIGN(json document, parse_json_file(path));
  if (!document.is_object()) return moe::invalid(fmt::format("{}: expected an object", path.string()));
  return document;
}

}  // namespace

moe::Result<ChatFormat> ChatFormat::load(const fs::path& model_dir) {
  const fs::path config_path = model_dir / "tokenizer_config.json";
  MOE_ASSIGN(const json config, optional_object(config_path));
  std::map<std::string, std::string> tokens;
  if (const auto s = read_tokens(config, tokens); !s.ok()) return s.error().in(config_path.string());
  const fs::path map_path = model_dir / "special_tokens_map.json";
  MOE_ASSIGN(const json map, optional_object(map_path));
  if (const auto s = read_tokens(map, tokens); !s.ok()) return s.error().in(map_path.string());

  fs::path from = model_dir / "chat_template.jinja";
  std::string source;
  std::error_code error;
  if (fs::exists(from, error)) {
    MOE_ASSIGN(source, read_file(from, kMaxTemplateBytes));
  } else {
    from = config_path;
    auto configured = configured_template(config);
    if (!configured.ok()) return configured.error().in(from.string());
    if (!*configured) return moe::not_found(fmt::format("{}: expected a chat template, got none", model_dir.string()));
    source = std::move(**configured);
  }
  auto parsed = Template::parse(std::move(source));
  if (!parsed.ok()) return parsed.error().in(fmt::format("{}: chat template", from.string()));
  return ChatFormat(std::move(parsed).value(), std::move(tokens));
}

moe::Result<ChatFormat> ChatFormat::from_source(std::string template_text, std::string bos_token,
                                                std::string eos_token) {
  auto parsed = Template::parse(std::move(template_text));
  if (!parsed.ok()) return parsed.error().in("chat template");
  return ChatFormat(std::move(parsed).value(), {{"bos", std::move(bos_token)}, {"eos", std::move(eos_token)}});
}

moe::Result<std::string> ChatFormat::render(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                                            bool add_generation_prompt, const nlohmann::ordered_json& kwargs,
                                            const TemplateBudget& budget, const std::optional<std::tm>& now) const {
  if (!messages.is_array()) return moe::invalid("messages: expected an array");
  if (!tools.is_array() && !tools.is_null()) return moe::invalid("tools: expected an array or null");
  if (!kwargs.is_object() && !kwargs.is_null()) return moe::invalid("template arguments: expected an object or null");
  nlohmann::ordered_json context = nlohmann::ordered_json::object();
  for (const auto& [name, text] : tokens_) context[name + "_token"] = text;
  for (const auto& [name, value] : kwargs.items()) context[name] = value;
  context["messages"] = messages;
  context["tools"] = tools;
  if (!context.contains("documents")) context["documents"] = nullptr;
  context["add_generation_prompt"] = add_generation_prompt;
  auto text = template_.render(context, budget, now);
  if (!text.ok()) return text.error().in("chat template");
  return text;
}

}  // namespace patchbay
