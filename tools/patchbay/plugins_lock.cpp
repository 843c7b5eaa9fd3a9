// patchbay plugins lock and manifest: what a library is, without running any of its code.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/config/lock_file.hpp"
#include "core/plugin/manifest.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

using nlohmann::json;

struct LockFlags {
  CommonFlags common;
  std::string file;
  std::vector<std::string> libraries;
};

void lock(const LockFlags& flags) {
  const Settings settings = value_or_fail(settings_of(flags.common));
  std::error_code ec;
  const std::filesystem::path file =
      flags.file.empty() ? settings.plugin_lock : std::filesystem::absolute(flags.file, ec);
  if (file.empty())
    fail(moe::invalid("plugins.lock: expected the file to write, in the configuration or as --out, got none"));
  std::vector<LockedLibrary> libraries;
  for (const auto& path : PluginRegistry::libraries_below(plugin_folders(settings))) {
    LockedLibrary l{path, sha256_of(path), "", ""};
    if (l.sha256.empty()) fail(moe::Error{MOE_UNAVAILABLE, fmt::format("{}: could not be read", path.string())});
    if (auto manifest = read_manifest(path); manifest.ok()) {
      l.name = manifest->name;
      l.version = manifest->version;
    }
    libraries.push_back(std::move(l));
  }
  ok_or_fail(write_lock_file(file, libraries));
  if (flags.common.json) {
    fmt::print("{}\n", json{{"file", file.string()}, {"libraries", libraries.size()}}.dump());
  } else {
    fmt::print("{}: {} libraries\n", file.string(), libraries.size());
  }
}

void manifest(const LockFlags& flags) {
  json all = json::array();
  for (const auto& path : flags.libraries) {
    const Manifest m = value_or_fail(read_manifest(path));
    json components = json::array();
    for (const auto& c : m.components) components.push_back({{"kind", c.kind_id}, {"name", c.name}});
    all.push_back({{"library", path},
                   {"sha256", sha256_of(path)},
                   {"name", m.name},
                   {"version", m.version},
                   {"license", m.license},
                   {"author", m.author},
                   {"abi", {{"major", m.abi_major}, {"least_minor", m.abi_least_minor}, {"minor", m.abi_minor}}},
                   {"components", components}});
    if (flags.common.json) continue;
    fmt::print("{} {} ({}, {})\n  library     {}\n  sha256      {}\n  ABI         {}.{} (hosts from {}.{})\n", m.name,
               m.version, m.license, m.author, path, sha256_of(path), m.abi_major, m.abi_minor, m.abi_major,
               m.abi_least_minor);
    for (const auto& c : m.components) fmt::print("  component   {} {}\n", c.kind_id, c.name);
  }
  if (flags.common.json) fmt::print("{}\n", all.dump(2));
}

}  // namespace

void add_plugins_lock(CLI::App& plugins) {
  auto flags = std::make_shared<LockFlags>();
  CLI::App* command =
      plugins.add_subcommand("lock", "Write the allow list of the plugins that a configuration finds, by SHA-256");
  command
      ->add_option("--config", flags->common.config, "TOML file: its [plugins] paths, and lock for the file to write")
      ->type_name("FILE");
  command->add_option("--set", flags->common.sets, "override one setting, as TOML")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--out", flags->file, "file to write; by default plugins.lock of the configuration")
      ->type_name("FILE");
  command->add_flag("--json", flags->common.json, "machine-readable output");
  command->callback([flags] { lock(*flags); });

  auto of = std::make_shared<LockFlags>();
  CLI::App* show = plugins.add_subcommand("manifest", "What libraries say of themselves, read without loading them");
  show->add_option("file", of->libraries, "libraries")->required();
  show->add_flag("--json", of->common.json, "machine-readable output");
  show->callback([of] { manifest(*of); });
}

}  // namespace patchbay
