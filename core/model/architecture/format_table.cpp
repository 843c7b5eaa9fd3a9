#include "core/model/architecture/format_table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/model/architecture/expression.hpp"
#include "core/plugin/nearest.hpp"

namespace patchbay {
namespace {

constexpr const char* kOverlaid[] = {"variables", "model", "attention", "rope", "ffn", "router", "expert"};

nlohmann::json to_json(const Value& value) {
  if (const auto* b = value.as<bool>()) return *b;
  if (const auto* i = value.as<int64_t>()) return *i;
  if (const auto* d = value.as<double>()) return *d;
  if (const auto* s = value.as<std::string>()) return *s;
  if (const auto* list = value.as<Value::List>()) {
    nlohmann::json out = nlohmann::json::array();
    for (const auto& item : *list) out.push_back(to_json(item));
    return out;
  }
  return nullptr;
}

moe::Result<nlohmann::json> evaluate(const TomlNode& node, const std::string& key, const nlohmann::json& values) {
  if (const auto* b = std::get_if<bool>(&node.value)) return nlohmann::json(*b);
  if (const auto* i = std::get_if<int64_t>(&node.value)) return nlohmann::json(*i);
  if (const auto* d = std::get_if<double>(&node.value)) return nlohmann::json(*d);
  const auto* text = std::get_if<std::string>(&node.value);
  if (text == nullptr) {
    return moe::invalid(
        fmt::format("{}: {}: expected a value or an expression, got {}", node.where(), key, node.type_name()));
  }
  auto expression = Expression::parse(*text);
  auto value = expression.ok() ? expression->evaluate(values) : moe::Result<Value>(expression.error());
  if (!value.ok()) return value.error().in(fmt::format("{}: {}: \"{}\"", node.where(), key, *text));
  return to_json(*value);
}

moe::Result<nlohmann::json> evaluate_table(const TomlNode& table, const std::string& key,
                                           const nlohmann::json& values) {
  nlohmann::json out = nlohmann::json::object();
  for (const auto& [name, node] : *table.table()) {
    const std::string path = key + "." + name;
    auto value = node.table() != nullptr ? evaluate_table(node, path, values) : evaluate(node, path, values);
    if (!value.ok()) return value.error();
    if (!value->is_null()) out[name] = std::move(*value);
  }
  return out;
}

moe::Status check_keys(const TomlNode& table, const std::string& format) {
  std::vector<std::string> known = {"match", "when", "config", "tensors"};
  known.insert(known.end(), std::begin(kOverlaid), std::end(kOverlaid));
  for (const auto& [key, node] : *table.table()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    return moe::invalid(fmt::format("{}: {}: expected one of {}, got \"{}\"{}", node.where(), format,
                                    fmt::join(known, ", "), key, did_you_mean(key, known)));
  }
  for (const char* key : {"config", "tensors"}) {
    const TomlNode* node = table.find(key);
    if (node == nullptr)
      return moe::invalid(fmt::format("{}: {}.{}: expected a table, got none", table.where(), format, key));
    if (node->table() == nullptr)
      return moe::invalid(
          fmt::format("{}: {}.{}: expected a table, got {}", node->where(), format, key, node->type_name()));
  }
  return {};
}

}  // namespace

moe::Result<bool> format_applies(const TomlNode& table, const nlohmann::json& values) {
  const TomlNode* when = table.find("when");
  if (when == nullptr) return true;
  MOE_ASSIGN(const nlohmann::json holds, evaluate(*when, "when", values));
  if (!holds.is_boolean())
    return moe::invalid(fmt::format("{}: when: expected true or false, got {}", when->where(), holds.type_name()));
  return holds.get<bool>();
}

moe::Result<TomlNode> document_for_format(const TomlNode& document, const std::string& format) {
  const TomlNode* table = document.find(format);
  if (table == nullptr || table->table() == nullptr)
    return moe::internal(fmt::format("{}: expected a table, got none", format));
  MOE_TRY(check_keys(*table, format));
  TomlNode out = document;
  std::erase_if(std::get<TomlTable>(out.value),
                [&](const auto& member) { return member.first == format || member.first == "tensors"; });
  TomlNode overlay;
  overlay.source = table->source;
  overlay.line = table->line;
  overlay.column = table->column;
  auto& members = std::get<TomlTable>(overlay.value);
  for (const auto& [key, node] : *table->table()) {
    if (key == "tensors" || std::find(std::begin(kOverlaid), std::end(kOverlaid), key) != std::end(kOverlaid))
      members.emplace_back(key, node);
  }
  merge(out, overlay);
  return out;
}

moe::Result<nlohmann::json> config_for_format(const TomlNode& table, const std::string& format,
                                              const nlohmann::json& values) {
  MOE_TRY(check_keys(table, format));
  return evaluate_table(*table.find("config"), format + ".config", values);
}

}  // namespace patchbay
