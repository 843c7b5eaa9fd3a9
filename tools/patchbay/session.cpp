#include "tools/patchbay/session.hpp"

#include "core/config/lock_file.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>

#include "tools/patchbay/progress.hpp"

namespace patchbay {
namespace {

std::atomic<int> g_signals{0};
std::atomic<bool> g_reload{false};

void on_signal(int signal) {
  if (g_signals.fetch_add(1) > 0) _exit(128 + signal);
}

}  // namespace

void add_common_flags(CLI::App& command, CommonFlags& flags) {
  command.add_option("--config", flags.config, "TOML file; everything has a default")->type_name("FILE");
  command.add_option("--model", flags.model, "model directory (Hugging Face layout) or .gguf file; model.path")->type_name("PATH");
  command.add_option("--backend", flags.backend, "backend plugin; backend.plugin")->type_name("NAME");
  command.add_option("--precision", flags.precision, "auto | fp32 | fp16 | bf16 | int8 | int4 | fp8; model.precision")
      ->type_name("NAME");
  command.add_option("--threads", flags.threads, "compute threads; engine.threads")->type_name("N");
  command.add_option("--set", flags.sets, "override one setting, as TOML: --set 'router.k=2'")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command.add_flag("--json", flags.json, "machine-readable output");
  command.add_flag("--quiet", flags.quiet, "no progress, no notes");
}

namespace {

// The first of the configuration that may be this one comes to the front, with its options.
void choose_backend(std::vector<PluginChoice>& backends, const std::string& name) {
  const auto found = std::ranges::find_if(backends, [&](const PluginChoice& b) { return b.plugin == name || b.plugin == "auto"; });
  if (found == backends.end()) {
    backends.insert(backends.begin(), {name, {}, "--backend"});
    return;
  }
  found->plugin = name;
  std::rotate(backends.begin(), found, found + 1);
}

}  // namespace

moe::Result<Settings> settings_of(const CommonFlags& flags) {
  MOE_ASSIGN(Settings settings, load_settings(flags.config, flags.sets));
  if (!flags.model.empty()) settings.model.path = flags.model;
  if (!flags.precision.empty()) {
    MOE_ASSIGN(const Settings precision, load_settings("", {fmt::format("model.precision=\"{}\"", flags.precision)}));
    settings.model.precision = precision.model.precision;
  }
  if (!flags.backend.empty()) choose_backend(settings.backends, flags.backend);
  if (flags.threads > 0) settings.engine.threads = flags.threads;
  return settings;
}

std::vector<std::filesystem::path> plugin_folders(const Settings& settings) {
  std::vector<std::filesystem::path> folders = settings.plugin_paths;
  folders.push_back(default_plugin_dir());
  return folders;
}

moe::Result<PluginSession> open_plugins(const Settings& settings) {
  PluginSession session;
  session.host = std::make_unique<Host>(static_cast<int32_t>(settings.engine.threads));
  RegistryOptions options;
  options.search_paths = plugin_folders(settings);
  if (!settings.plugin_lock.empty()) {
    MOE_ASSIGN(options.lock, read_lock_file(settings.plugin_lock));
  }
  options.probe_program = program_path();
  options.cache_file = default_probe_cache();
  session.registry = PluginRegistry::scan(std::move(options), *session.host);
  return session;
}

moe::Result<Session> open_session(const CommonFlags& flags, const SessionNeeds& needs) {
  MOE_ASSIGN(Settings settings, settings_of(flags));
  return open_session(std::move(settings), needs, !flags.quiet && !flags.json);
}

moe::Result<Session> open_session(Settings settings, const SessionNeeds& needs, bool talks) {
  const auto start = std::chrono::steady_clock::now();
  Session session;
  session.settings = std::move(settings);
  if (needs.defaults) needs.defaults(session.settings);
  MOE_ASSIGN(PluginSession plugins, open_plugins(session.settings));
  session.host = std::move(plugins.host);
  session.registry = std::move(plugins.registry);
  {
    ProgressBar bar("loading", talks);
    const auto progress = [&](uint64_t done, uint64_t total) { bar.show(done, total); };
    if (needs.files) {
      MOE_ASSIGN(const auto files, needs.files(session));
      MOE_ASSIGN(session.model, Model::load(session.settings, *files, session.registry, *session.host, progress));
    } else {
      MOE_ASSIGN(session.model, Model::load(session.settings, session.registry, *session.host, progress));
    }
  }
  if (needs.text) {
    MOE_ASSIGN(session.text, TextModel::load(session.settings.model.path));
  }
  MOE_ASSIGN(session.chain,
             SamplerChain::build(session.settings.samplers, *session.registry, session.model->spec().n_vocab));
  EngineOptions options;
  const EngineSettings& e = session.settings.engine;
  options.batch_size = e.batch_size;
  options.batch_tokens = e.batch_tokens;
  options.queue = e.queue;
  options.queue_s = static_cast<double>(e.queue_ms) / 1e3;
  options.page_tokens = e.page_tokens;
  options.prefix_cache = e.prefix_cache;
  options.pool = &session.host->pool();
  MOE_ASSIGN(session.engine, Engine::create(session.model, session.chain, options));
  if (talks) {
    for (const auto& note : session.model->notes()) fmt::print(stderr, "note: {}\n", note);
  }
  session.load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return session;
}

void fail(const moe::Error& error) {
  fmt::print(stderr, "patchbay: error: {}\n", error.message);
  throw CLI::RuntimeError(1);
}

void watch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}
bool interrupted() { return g_signals.load() > 0; }

void watch_reload() {
  struct sigaction action {};
  action.sa_handler = [](int) { g_reload = true; };
  sigaction(SIGHUP, &action, nullptr);
}
bool take_reload() { return g_reload.exchange(false); }

}  // namespace patchbay
