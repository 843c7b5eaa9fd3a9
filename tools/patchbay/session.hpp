// What most commands begin with: configuration, plugins, model, engine.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/config/settings.hpp"
#include "core/engine/engine.hpp"
#include "core/engine/model.hpp"
#include "core/engine/sampling.hpp"
#include "core/model/files/model_files.hpp"
#include "core/plugin/registry.hpp"
#include "core/service/text_model.hpp"

namespace patchbay {

// Flags that most commands share.
struct CommonFlags {
  std::string config;
  std::string model;
  std::string backend;
  std::string precision;
  int64_t threads = 0;
  std::vector<std::string> sets;
  bool json = false;
  bool quiet = false;
};
void add_common_flags(CLI::App& command, CommonFlags& flags);

// The settings of the flags: file, then --set, then the flags of their own.
moe::Result<Settings> settings_of(const CommonFlags& flags);

// Plugins without a model.
struct PluginSession {
  std::unique_ptr<Host> host;
  std::shared_ptr<PluginRegistry> registry;
};
moe::Result<PluginSession> open_plugins(const Settings& settings);
// Where libraries are looked for: [plugins] paths, then the built-in folder.
std::vector<std::filesystem::path> plugin_folders(const Settings& settings);

// A model ready to run. Members in the order in which they depend on each other.
struct Session {
  Settings settings;
  std::unique_ptr<Host> host;
  std::shared_ptr<PluginRegistry> registry;
  std::shared_ptr<Model> model;
  std::shared_ptr<const SamplerChain> chain;
  std::unique_ptr<TextModel> text;  // null where it was not asked for
  std::unique_ptr<Engine> engine;
  double load_seconds = 0;
};

struct SessionNeeds {
  bool text = true;  // tokenizer and chat format
  // Changes what the configuration leaves open, such as a batch of one for `run`.
  std::function<void(Settings&)> defaults;
  // The model, where it is not what settings.model.path names; the session has settings and plugins then.
  std::function<moe::Result<std::unique_ptr<ModelFiles>>(const Session&)> files;
};
moe::Result<Session> open_session(const CommonFlags& flags, const SessionNeeds& needs);
// The same with settings that do not come from flags; says what it does where `talks`.
moe::Result<Session> open_session(Settings settings, const SessionNeeds& needs, bool talks);

// Prints "patchbay: error: ..." and leaves the command with exit code 1.
[[noreturn]] void fail(const moe::Error& error);

// The value of a Result, or fail().
template <typename T>
T value_or_fail(moe::Result<T> result) {
  if (!result.ok()) fail(result.error());
  return std::move(result).value();
}
inline void ok_or_fail(const moe::Status& status) {
  if (!status.ok()) fail(status.error());
}

// Set by SIGINT and SIGTERM once watch_signals() has been called; a second signal ends the process at once.
void watch_signals();
bool interrupted();

// SIGHUP no longer ends the process: take_reload() says once that one came.
void watch_reload();
bool take_reload();

}  // namespace patchbay
