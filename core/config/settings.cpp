#include "core/config/settings.hpp"

#include <fmt/format.h>

#include <charconv>

#include "core/config/table_reader.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

moe::Result<OptionScalar> scalar(const TomlNode& node, std::string_view subject) {
  const auto wrong = [&](const TomlNode& at) {
    return moe::invalid(fmt::format("{}: {}: expected a value or a list of numbers, got {}", at.where(), subject, at.type_name()));
  };
  if (const auto* b = std::get_if<bool>(&node.value)) return OptionScalar(*b);
  if (const auto* i = std::get_if<int64_t>(&node.value)) return OptionScalar(*i);
  if (const auto* f = std::get_if<double>(&node.value)) return OptionScalar(*f);
  if (const auto* s = std::get_if<std::string>(&node.value)) return OptionScalar(*s);
  const auto* items = node.array();
  if (items == nullptr) return wrong(node);
  std::vector<int64_t> ints;
  std::vector<double> floats;
  for (const auto& item : *items) {
    if (const auto* i = std::get_if<int64_t>(&item.value)) {
      ints.push_back(*i);
      floats.push_back(static_cast<double>(*i));
    } else if (const auto* f = std::get_if<double>(&item.value)) {
      floats.push_back(*f);
    } else {
      return wrong(item);
    }
  }
  if (ints.size() == floats.size()) return OptionScalar(std::move(ints));
  return OptionScalar(std::move(floats));
}

// { plugin = "name", option = value, ... }; a plain string is a plugin without options.
moe::Result<PluginChoice> plugin_choice(const TomlNode& node, const std::string& subject) {
  PluginChoice choice;
  choice.where = node.where();
  if (const auto* name = std::get_if<std::string>(&node.value)) {
    choice.plugin = *name;
    return choice;
  }
  TableReader reader(node, subject);
  choice.plugin = reader.text("plugin");
  for (const auto& [key, child] : reader.rest()) {
    MOE_ASSIGN(OptionScalar value, scalar(*child, subject + "." + key));
    choice.options.push_back({key, std::move(value), child->where()});
  }
  MOE_TRY(reader.finish());
  return choice;
}

moe::Result<std::optional<PluginChoice>> optional_choice(TableReader& reader, std::string_view key, const std::string& subject) {
  const TomlNode* node = reader.node(key);
  if (node == nullptr) return std::optional<PluginChoice>();
  MOE_ASSIGN(PluginChoice choice, plugin_choice(*node, subject));
  return std::optional<PluginChoice>(std::move(choice));
}

moe::Result<std::vector<PluginChoice>> plugin_list(TableReader& reader, std::string_view key) {
  std::vector<PluginChoice> list;
  for (const TomlNode* node : reader.tables(key)) {
    MOE_ASSIGN(PluginChoice choice, plugin_choice(*node, std::string(key)));
    if (choice.plugin.empty()) {
      return moe::invalid(fmt::format("{}: {}.plugin: expected the name of a plugin, got none", choice.where, key));
    }
    list.push_back(std::move(choice));
  }
  return list;
}

bool parse_index(std::string_view text, int64_t& out) {
  const auto r = std::from_chars(text.data(), text.data() + text.size(), out);
  return r.ec == std::errc() && r.ptr == text.data() + text.size() && out >= 0;
}

// "4" | "2-5" | "4-" | "-3" | "all"
moe::Status parse_match(const TomlNode& node, LayerOverride& out) {
  std::string text;
  if (const auto* i = std::get_if<int64_t>(&node.value)) text = std::to_string(*i);
  if (const auto* s = std::get_if<std::string>(&node.value)) text = *s;
  constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();
  out.first = 0;
  out.last = kEnd;
  if (text == "all") return {};
  const size_t dash = text.find('-');
  bool good = !text.empty() && text != "-";
  if (dash == std::string::npos) {
    good = good && parse_index(text, out.first);
    out.last = out.first;
  } else {
    if (dash > 0) good = good && parse_index(std::string_view(text).substr(0, dash), out.first);
    if (dash + 1 < text.size()) good = good && parse_index(std::string_view(text).substr(dash + 1), out.last);
  }
  if (!good || out.last < out.first) {
    return moe::invalid(fmt::format("{}: layer.match: expected layers as \"4\", \"2-5\", \"4-\", \"-3\" or \"all\", got \"{}\"", node.where(), text));
  }
  return {};
}

moe::Result<PlanSettings> read_plan(const TomlNode& node, const std::string& subject) {
  PlanSettings plan;
  TableReader table(node, subject);
  for (const auto& [key, value, most] : {std::tuple{"capacity", &plan.capacity, 1e6}, {"balance", &plan.balance, 1.0}}) {
    *value = table.number(key, 0);
    if (!(*value >= 0 && *value <= most)) {
      return moe::invalid(fmt::format("{}: {}.{}: expected a number from 0 to {}, got {}", table.where(), subject, key, most, *value));
    }
  }
  plan.overflow = table.choice("overflow", "position", {"position", "weight"}) == "weight" ? Overflow::kWeight : Overflow::kPosition;
  MOE_TRY(table.finish());
  return plan;
}

moe::Result<LayerOverride> layer_override(const TomlNode& node) {
  LayerOverride out;
  out.where = node.where();
  TableReader reader(node, "layer");
  const TomlNode* match = reader.node("match");
  if (match == nullptr) return moe::invalid(fmt::format("{}: layer.match: expected layers such as \"4-\", got none", out.where));
  MOE_TRY(parse_match(*match, out));
  MOE_ASSIGN(out.router, optional_choice(reader, "router", "layer.router"));
  MOE_ASSIGN(out.expert, optional_choice(reader, "expert", "layer.expert"));
  if (const TomlNode* plan = reader.table("plan")) {
    MOE_ASSIGN(out.plan, read_plan(*plan, "layer.plan"));
  }
  if (const TomlNode* backend = reader.node("backend")) {
    if (const auto* name = std::get_if<std::string>(&backend->value)) {
      out.attention_backend = out.expert_backend = *name;
    } else {
      TableReader parts(*backend, "layer.backend");
      out.attention_backend = parts.text("attention");
      out.expert_backend = parts.text("experts");
      MOE_TRY(parts.finish());
    }
  }
  MOE_TRY(reader.finish());
  return out;
}

// A path in a file is meant from that file's folder, as in every other tool; an override is typed in the current folder.
fs::path beside_file(const TomlNode& node, const fs::path& path) {
  const bool in_file = node.line != 0 && !node.source.starts_with("--set");
  return in_file && path.is_relative() ? fs::path(node.source).parent_path() / path : path;
}

moe::Status read_model(TableReader& reader, ModelSettings& model) {
  const TomlNode* node = reader.table("model");
  if (node == nullptr) return {};
  TableReader table(*node, "model");
  model.path = table.text("path");
  if (const TomlNode* path = node->find("path"); path != nullptr) model.path = beside_file(*path, model.path);
  model.precision = table.choice("precision", "auto", {"auto", "fp32", "fp16", "bf16", "int8", "int4", "fp8"});
  model.context = table.integer("context", 0);
  model.architecture = table.text("architecture");
  model.packed_cache = table.text("packed_cache", model.packed_cache);
  const TomlNode* folder = node->find("packed_cache");
  if (model.packed_cache.empty()) {
    return moe::invalid(fmt::format("{}: model.packed_cache: expected auto, off or a folder, got \"\"", table.where()));
  }
  if (model.packed_cache != "auto" && model.packed_cache != "off" && folder != nullptr) {
    model.packed_cache = beside_file(*folder, model.packed_cache).string();
  }
  return table.finish();
}

moe::Status read_engine(TableReader& reader, EngineSettings& engine) {
  const TomlNode* node = reader.table("engine");
  if (node == nullptr) return {};
  TableReader table(*node, "engine");
  engine.batch_size = table.integer("batch_size", engine.batch_size, 1, 4096);
  engine.batch_tokens = table.integer("batch_tokens", engine.batch_tokens, 1, 65536);
  engine.queue = table.integer("queue", engine.queue, 0, 1 << 20);
  engine.queue_ms = table.integer("queue_ms", engine.queue_ms, 0, 86'400'000);
  engine.cache_tokens = table.integer("cache_tokens", 0, 0, int64_t{1} << 32);
  engine.page_tokens = table.integer("page_tokens", engine.page_tokens, 1, 4096);
  engine.prefix_cache = table.flag("prefix_cache", engine.prefix_cache);
  engine.cache_dtype = table.choice("cache_dtype", "auto", {"auto", "f32", "f16", "bf16"});
  engine.threads = table.integer("threads", 0, 0, 1024);
  engine.max_tokens = table.integer("max_tokens", 0);
  return table.finish();
}

moe::Status read_log(TableReader& reader, LogSettings& log) {
  const TomlNode* node = reader.table("log");
  if (node == nullptr) return {};
  TableReader table(*node, "log");
  log.level = table.choice("level", log.level, {"debug", "info", "warning", "error"});
  log.format = table.choice("format", log.format, {"text", "json"});
  return table.finish();
}

moe::Result<Settings> read_settings(const TomlNode& document) {
  Settings settings;
  TableReader reader(document, "");
  MOE_TRY(read_model(reader, settings.model));
  MOE_TRY(read_engine(reader, settings.engine));
  MOE_TRY(read_log(reader, settings.log));
  for (const TomlNode* node : reader.tables("backend")) {
    MOE_ASSIGN(PluginChoice choice, plugin_choice(*node, "backend"));
    if (choice.plugin.empty()) choice.plugin = "auto";
    settings.backends.push_back(std::move(choice));
  }
  MOE_ASSIGN(settings.router, optional_choice(reader, "router", "router"));
  MOE_ASSIGN(settings.expert, optional_choice(reader, "expert", "expert"));
  if (const TomlNode* plan = reader.table("plan")) {
    MOE_ASSIGN(settings.plan, read_plan(*plan, "plan"));
  }
  for (const TomlNode* node : reader.tables("layer")) {
    MOE_ASSIGN(LayerOverride layer, layer_override(*node));
    settings.layers.push_back(std::move(layer));
  }
  MOE_ASSIGN(settings.samplers, plugin_list(reader, "sampler"));
  MOE_ASSIGN(settings.transports, plugin_list(reader, "transport"));
  // A path in a file is meant from that file's folder, an override's from the current one.
  const auto absolute = [](const TableReader& table, const std::string& text) {
    fs::path path(text);
    if (path.is_relative() && !table.where().starts_with("--set")) {
      path = fs::path(table.where().substr(0, table.where().find(": line"))).parent_path() / path;
    }
    std::error_code ec;
    return fs::absolute(path, ec).lexically_normal();
  };
  for (auto [key, list] : {std::pair{"plugins", &settings.plugin_paths}, {"architectures", &settings.architecture_paths}}) {
    const TomlNode* node = reader.table(key);
    if (node == nullptr) continue;
    TableReader table(*node, key);
    for (const auto& text : table.texts("paths")) list->push_back(absolute(table, text));
    if (key == std::string_view("plugins") && table.has("lock")) settings.plugin_lock = absolute(table, table.text("lock"));
    MOE_TRY(table.finish());
  }
  MOE_TRY(reader.finish());
  if (settings.backends.empty()) settings.backends.push_back({"auto", {}, ""});
  return settings;
}

}  // namespace

moe::Result<Settings> load_settings(const fs::path& file, const std::vector<std::string>& overrides) {
  TomlNode document;
  if (!file.empty()) {
    std::error_code ec;
    MOE_ASSIGN(document, parse_toml_file(fs::absolute(file, ec)));
  }
  for (const auto& text : overrides) {
    MOE_ASSIGN(const TomlNode over, parse_override(text));
    merge(document, over);
  }
  return read_settings(document);
}

moe::Result<Settings> settings_from_node(const TomlNode& document) { return read_settings(document); }

moe::Result<Settings> settings_from_text(std::string_view text, const std::string& source) {
  MOE_ASSIGN(const TomlNode document, parse_toml(text, source));
  return read_settings(document);
}

}  // namespace patchbay
