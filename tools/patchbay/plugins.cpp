// patchbay plugins: what there is, and what it says of itself.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "core/plugin/nearest.hpp"
#include "core/plugin/probe.hpp"
#include "moe/sdk/growth.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

using nlohmann::json;

void list(const CommonFlags& flags) {
  const PluginSession session = value_or_fail(open_plugins(value_or_fail(settings_of(flags))));
  if (flags.json) {
    json all = json::array();
    for (const auto& l : session.registry->libraries()) all.push_back(json::parse(to_json(l)));
    fmt::print("{}\n", all.dump(2));
    return;
  }
  fmt::print("{:<10} {:<14} {:<8} {}\n", "KIND", "NAME", "VERSION", "WHAT IT IS");
  for (const auto& kind : kKinds) {
    for (const auto& l : session.registry->libraries()) {
      for (const auto& c : l.components) {
        if (c.kind == kind.word) fmt::print("{:<10} {:<14} {:<8} {}\n", c.kind, c.name, l.version, c.doc);
      }
    }
  }
  for (const auto& l : session.registry->libraries()) {
    if (!l.problem.empty()) fmt::print("refused: {}\n", l.problem);
  }
}

std::vector<std::string> capabilities(uint32_t bits) {
  constexpr std::pair<uint32_t, const char*> kNames[] = {{MOE_CAP_GRAPH_SAFE, "graph-safe"},   {MOE_CAP_HOST_SYNC, "host-sync"},
                                                         {MOE_CAP_DETERMINISTIC, "deterministic"}, {MOE_CAP_BATCH_INVARIANT, "batch-invariant"},
                                                         {MOE_CAP_REENTRANT, "reentrant"},     {MOE_CAP_PICKS, "picks"}};
  std::vector<std::string> out;
  for (const auto& [bit, name] : kNames) {
    if ((bits & bit) != 0) out.emplace_back(name);
  }
  return out;
}

std::string range_of(const moe_option& o) {
  if (o.choices != nullptr) {
    std::vector<std::string> all;
    for (const char* const* c = o.choices; *c != nullptr; ++c) all.emplace_back(*c);
    return fmt::format("{}", fmt::join(all, " | "));
  }
  return o.min <= o.max ? fmt::format("[{}, {}]", o.min, o.max) : "";
}

std::vector<std::string> option_flags(const moe_option& o) {
  std::vector<std::string> out;
  if ((o.flags & MOE_OPTION_REQUIRED) != 0) out.emplace_back("required");
  if ((o.flags & MOE_OPTION_RUNTIME) != 0) out.emplace_back("runtime");
  if ((o.flags & MOE_OPTION_PER_LAYER) != 0) out.emplace_back("per layer");
  if ((o.flags & MOE_OPTION_REQUEST) != 0) out.emplace_back("per request");
  return out;
}

json describe(const std::string& kind, const Component<moe_component>& c) {
  json options = json::array();
  for (uint32_t i = 0; i < c.table->n_options; ++i) {
    const moe_option& o = moe::nth(c.table->options, i);
    options.push_back({{"key", o.key},
                       {"type", option_type_name(o.type)},
                       {"default", o.default_text == nullptr ? json() : json(o.default_text)},
                       {"range", range_of(o)},
                       {"unit", o.unit == nullptr ? "" : o.unit},
                       {"flags", option_flags(o)},
                       {"doc", o.doc}});
  }
  const moe_plugin& entry = c.library->entry();
  return {{"kind", kind},
          {"name", c.table->name},
          {"doc", c.table->doc},
          {"version", entry.version},
          {"license", entry.license},
          {"author", entry.author},
          {"abi", fmt::format("{}.{}", entry.abi_major, entry.abi_minor)},
          {"library", c.library->path().string()},
          {"capabilities", capabilities(c.table->capabilities)},
          {"options", options}};
}

void print_description(const json& d) {
  fmt::print("{} {} {} ({}, {})\n  {}\n  library       {}\n  ABI           {}\n  capabilities  {}\n", d["kind"].get<std::string>(),
             d["name"].get<std::string>(), d["version"].get<std::string>(), d["license"].get<std::string>(), d["author"].get<std::string>(),
             d["doc"].get<std::string>(), d["library"].get<std::string>(), d["abi"].get<std::string>(),
             fmt::join(d["capabilities"].get<std::vector<std::string>>(), ", "));
  if (d["options"].empty()) fmt::print("  no options\n");
  for (const auto& o : d["options"]) {
    std::vector<std::string> facts = {o["type"].get<std::string>()};
    if (!o["range"].get<std::string>().empty()) facts.push_back(o["range"].get<std::string>());
    if (!o["unit"].get<std::string>().empty()) facts.push_back(o["unit"].get<std::string>());
    for (const auto& f : o["flags"]) facts.push_back(f.get<std::string>());
    fmt::print("  {} = {}    ({})\n      {}\n", o["key"].get<std::string>(), o["default"].is_null() ? "?" : o["default"].get<std::string>(),
               fmt::join(facts, ", "), o["doc"].get<std::string>());
  }
}

// Text as it may stand in a cell of a Markdown table.
std::string cell(std::string text) {
  for (size_t at = text.find_first_of("|<"); at != std::string::npos; at = text.find_first_of("|<", at + 2)) text.insert(at, 1, '\\');
  return text;
}

// Every plugin with its options, as a page of the reference book.
void print_book_page(PluginRegistry& registry) {
  fmt::print("# Plugins and their options {{#plugin_options}}\n\nFrom the option tables of the plugins themselves (`patchbay plugins inspect`).\n");
  for (const auto& kind : kKinds) {
    for (const auto& name : registry.names(kind.word)) {
      const json d = describe(kind.word, value_or_fail(registry.component(kind.word, name)));
      fmt::print("\n## {} {}\n\n{} Version {}, {}; {}.\n", kind.word, name, cell(d["doc"].get<std::string>()), d["version"].get<std::string>(),
                 d["license"].get<std::string>(), fmt::join(d["capabilities"].get<std::vector<std::string>>(), ", "));
      if (d["options"].empty()) continue;
      fmt::print("\n| option | type | default | range | |\n|---|---|---|---|---|\n");
      for (const auto& o : d["options"]) {
        std::string type = o["type"].get<std::string>();
        if (const auto unit = o["unit"].get<std::string>(); !unit.empty()) type.append(", ").append(unit);
        fmt::print("| `{}` | {} | {} | {} | {} |\n", o["key"].get<std::string>(), type,
                   o["default"].is_null() ? "required" : cell(fmt::format("`{}`", o["default"].get<std::string>())), cell(o["range"].get<std::string>()),
                   cell(o["doc"].get<std::string>()));
      }
    }
  }
}

void inspect(const CommonFlags& flags, const std::string& name) {
  const PluginSession session = value_or_fail(open_plugins(value_or_fail(settings_of(flags))));
  json found = json::array();
  std::vector<std::string> all;
  for (const auto& kind : kKinds) {
    const auto names = session.registry->names(kind.word);
    all.insert(all.end(), names.begin(), names.end());
    if (std::find(names.begin(), names.end(), name) == names.end()) continue;
    const auto component = value_or_fail(session.registry->component(kind.word, name));
    found.push_back(describe(kind.word, component));
  }
  if (found.empty()) {
    std::string broken;
    for (const auto& l : session.registry->libraries()) {
      if (!l.problem.empty()) broken += "; refused: " + l.problem;
    }
    fail(moe::not_found(fmt::format("plugin: expected one of {}, got \"{}\"{}{}", fmt::join(all, ", "), name, did_you_mean(name, all), broken)));
  }
  if (flags.json) {
    fmt::print("{}\n", found.dump(2));
    return;
  }
  for (const auto& d : found) print_description(d);
}

}  // namespace

void add_plugins(CLI::App& app) {
  CLI::App* command = app.add_subcommand("plugins", "List, inspect, check and start plugins");
  command->require_subcommand(1);
  auto flags = std::make_shared<CommonFlags>();
  const auto common = [&](CLI::App* c) {
    c->add_option("--config", flags->config, "TOML file (its [plugins] paths are searched too)")->type_name("FILE");
    c->add_option("--set", flags->sets, "override one setting, as TOML")->type_name("KEY=VALUE")->allow_extra_args(false);
    c->add_flag("--json", flags->json, "machine-readable output");
  };
  CLI::App* list_command = command->add_subcommand("list", "What plugins there are");
  common(list_command);
  list_command->callback([flags] { list(*flags); });
  auto name = std::make_shared<std::string>();
  auto markdown = std::make_shared<bool>(false);
  CLI::App* inspect_command = command->add_subcommand("inspect", "Kind, version, capabilities and options of a plugin");
  common(inspect_command);
  CLI::Option* which = inspect_command->add_option("name", *name, "as the configuration names it");
  inspect_command->add_flag("--markdown", *markdown, "all plugins, as a page of the reference book")->excludes(which);
  inspect_command->callback([flags, name, markdown] {
    if (!*markdown && name->empty()) throw CLI::RequiredError("name");
    if (!*markdown) return inspect(*flags, *name);
    const PluginSession session = value_or_fail(open_plugins(value_or_fail(settings_of(*flags))));
    print_book_page(*session.registry);
  });
  add_plugins_new(*command);
  add_plugins_check(*command);
  add_plugins_lock(*command);
  auto file = std::make_shared<std::string>();
  CLI::App* probe_command = command->add_subcommand("probe", "Load one library and print its summary as JSON (what the host asks a child process)");
  probe_command->add_option("file", *file, "absolute path of the library")->required();
  probe_command->callback([file] {
    const int code = run_probe(*file);
    if (code != 0) throw CLI::RuntimeError(code);
  });
}

}  // namespace patchbay
