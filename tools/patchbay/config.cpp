// patchbay config check: everything that a configuration says, checked without loading a model.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/engine/parts.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

template <typename Find>
moe::Status check_choice(const PluginChoice& choice, const std::string& what, Find&& find) {
  if (choice.plugin.empty() || choice.plugin == "auto") return {};  // its options are the checkpoint's plugin's, known when one is loaded
  auto component = find(choice.plugin);
  if (!component.ok()) return choice.where.empty() ? component.error() : component.error().in(choice.where);
  std::vector<GivenOption> options = choice.options;
  // What the plugin requires the checkpoint gives: only what is there is judged.
  auto checked = check_options(component->header(), options, fmt::format("{} \"{}\"", what, choice.plugin));
  if (!checked.ok()) return checked.error();
  return {};
}

moe::Status check(const Settings& s, PluginRegistry& r) {
  const auto router = [&](const std::string& n) { return r.router(n); };
  const auto expert = [&](const std::string& n) { return r.expert(n); };
  for (const auto& b : s.backends) MOE_TRY(check_choice(b, "backend", [&](const std::string& n) { return r.backend(n); }));
  if (s.router) MOE_TRY(check_choice(*s.router, "router", router));
  if (s.expert) MOE_TRY(check_choice(*s.expert, "expert", expert));
  for (const auto& l : s.layers) {
    if (l.router) MOE_TRY(check_choice(*l.router, "layer.router", router));
    if (l.expert) MOE_TRY(check_choice(*l.expert, "layer.expert", expert));
    for (const auto* name : {&l.attention_backend, &l.expert_backend}) {
      if (!name->empty()) MOE_TRY(check_choice({*name, {}, l.where}, "layer.backend", [&](const std::string& n) { return r.backend(n); }));
    }
  }
  for (const auto& x : s.samplers) MOE_TRY(check_choice(x, "sampler", [&](const std::string& n) { return r.sampler(n); }));
  for (const auto& x : s.transports) MOE_TRY(check_choice(x, "transport", [&](const std::string& n) { return r.transport(n); }));
  return {};
}

}  // namespace

void add_config(CLI::App& app) {
  CLI::App* command = app.add_subcommand("config", "Check a configuration");
  command->require_subcommand(1);
  auto flags = std::make_shared<CommonFlags>();
  CLI::App* check_command = command->add_subcommand("check", "Say whether a configuration is right, or where it is wrong");
  check_command->add_option("file", flags->config, "TOML file")->required();
  check_command->add_option("--set", flags->sets, "override one setting, as TOML")->type_name("KEY=VALUE")->allow_extra_args(false);
  check_command->add_flag("--json", flags->json, "machine-readable output");
  check_command->callback([flags] {
    const Settings settings = value_or_fail(settings_of(*flags));
    const PluginSession session = value_or_fail(open_plugins(settings));
    ok_or_fail(check(settings, *session.registry));
    if (flags->json) {
      fmt::print("{}\n", nlohmann::json{{"ok", true}, {"file", flags->config}}.dump());
    } else {
      fmt::print("{}: ok\n", flags->config);
    }
  });
}

}  // namespace patchbay
