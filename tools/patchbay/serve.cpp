// patchbay serve: the model behind its transports, until a signal.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/plugin/host.hpp"
#include "core/service/service.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/reload.hpp"
#include "tools/patchbay/session.hpp"
#include "tools/patchbay/transports.hpp"

namespace patchbay {
namespace {

using Clock = std::chrono::steady_clock;
using Transports = std::vector<std::unique_ptr<RunningTransport>>;

struct ServeFlags {
  CommonFlags common;
  std::vector<std::string> listen;
  double grace_s = 30;
  bool allow_control = false;
  std::string log_format;
  int64_t batch_size = 0;
  int64_t queue = -1;
  int64_t queue_ms = -1;
  int64_t max_tokens = 0;
};

constexpr std::chrono::milliseconds kTick{20};
constexpr std::chrono::milliseconds kFlush{2000};  // for the last events, once nothing runs any more

void apply(const ServeFlags& flags, Settings& settings) {
  if (flags.batch_size > 0) settings.engine.batch_size = flags.batch_size;
  if (flags.queue >= 0) settings.engine.queue = flags.queue;
  if (flags.queue_ms >= 0) settings.engine.queue_ms = flags.queue_ms;
  if (flags.max_tokens > 0) settings.engine.max_tokens = flags.max_tokens;
  if (!flags.log_format.empty()) settings.log.format = flags.log_format;
}

// Every connection is a file: as many as the system allows.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Where nothing is configured.
constexpr const char* kDefaultTransports[] = {"zeromq", "http"};

// --listen NAME=ADDRESS: exactly these serve, each with the options that the configuration has for it.
moe::Result<std::vector<PluginChoice>> listeners(const std::vector<std::string>& listen,
                                                 const std::vector<PluginChoice>& configured) {
  std::vector<PluginChoice> choices;
  for (const std::string& text : listen) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos)
      return moe::invalid(fmt::format("--listen: expected TRANSPORT=ADDRESS, got {}", text));
    PluginChoice choice{text.substr(0, equals), {}, "--listen"};
    for (const PluginChoice& c : configured) {
      if (c.plugin == choice.plugin) choice = c;
    }
    std::erase_if(choice.options, [](const GivenOption& o) { return o.key == "bind"; });
    choice.options.push_back({"bind", text.substr(equals + 1), "--listen"});
    choices.push_back(std::move(choice));
  }
  return choices;
}

moe::Result<std::vector<PluginChoice>> choices_of(const Settings& settings, const std::vector<std::string>& listen) {
  if (!listen.empty()) return listeners(listen, settings.transports);
  if (!settings.transports.empty()) return settings.transports;
  std::vector<PluginChoice> choices;
  for (const char* name : kDefaultTransports) choices.push_back({name, {}, ""});
  return choices;
}

void add_layers(const Model& model, v1::Info& info) {
  for (size_t i = 0; i < model.layers().size(); ++i) {
    const LayerInfo& layer = model.layers()[i];
    v1::Layer* out = info.add_layers();
    out->set_index(static_cast<int32_t>(i));
    out->set_backend(layer.expert_backend);
    if (layer.dense) continue;
    out->set_router(layer.router);
    out->set_expert(layer.expert);
    out->set_n_experts(layer.n_experts);
    out->set_top_k(layer.k);
  }
}

void add_plugin(const PluginRegistry& registry, const std::string& kind, const std::string& name, v1::Info& info) {
  for (const v1::Plugin& p : info.plugins()) {
    if (p.kind() == kind && p.name() == name) return;
  }
  v1::Plugin* out = info.add_plugins();
  out->set_kind(kind);
  out->set_name(name);
  for (const LibrarySummary& library : registry.libraries()) {
    for (const ComponentSummary& c : library.components) {
      if (c.kind == kind && c.name == name) return out->set_version(library.version);
    }
  }
}

v1::Info info_of(const Session& session, const std::vector<PluginChoice>& transports) {
  v1::Info info;
  info.set_server("patchbay 0.1.0");
  info.set_model(std::filesystem::absolute(session.settings.model.path).lexically_normal().filename().string());
  if (info.model().empty()) info.set_model("model");
  info.set_architecture(session.model->spec().architecture);
  add_layers(*session.model, info);
  for (const LayerInfo& layer : session.model->layers()) {
    add_plugin(*session.registry, "backend", layer.attention_backend, info);
    add_plugin(*session.registry, "backend", layer.expert_backend, info);
    if (layer.dense) continue;
    add_plugin(*session.registry, "router", layer.router, info);
    add_plugin(*session.registry, "expert", layer.expert, info);
  }
  const auto links = session.registry->names("sampler");
  for (const std::string& name : session.chain->names()) {
    info.add_sampling(name);  // a link's own name, or one of its options
    if (std::find(links.begin(), links.end(), name) != links.end())
      add_plugin(*session.registry, "sampler", name, info);
  }
  for (const PluginChoice& t : transports) add_plugin(*session.registry, "transport", t.plugin, info);
  return info;
}

moe::Result<Transports> start_transports(const std::vector<PluginChoice>& choices, Session& session,
                                         const Service& service) {
  Transports transports;
  for (const PluginChoice& choice : choices) {
    MOE_ASSIGN(auto transport, RunningTransport::start(choice, *session.registry, *session.host, service.abi()));
    transports.push_back(std::move(transport));
  }
  return transports;
}

void announce(const Session& session, const Transports& transports, bool json) {
  nlohmann::json addresses = nlohmann::json::array();
  for (const auto& t : transports) {
    addresses.push_back({{"transport", t->name()}, {"address", t->address()}});
    if (!json) fmt::print("listening on {} ({})\n", t->address(), t->name());
  }
  if (json) fmt::print("{}\n", nlohmann::json{{"listening", addresses}, {"load_seconds", session.load_seconds}}.dump());
  std::fflush(stdout);
}

// The settings of the flags: those of this command win over the file.
moe::Result<Settings> settings_of(const ServeFlags& flags) {
  MOE_ASSIGN(Settings settings, settings_of(flags.common));
  apply(flags, settings);
  return settings;
}

void reload_now(const ServeFlags& flags, Reloadable& running) {
  const auto applied = [&]() -> moe::Result<std::vector<std::string>> {
    MOE_ASSIGN(const Settings wanted, settings_of(flags));
    MOE_ASSIGN(const auto transports, choices_of(wanted, flags.listen));
    return reload(running, wanted, transports);
  }();
  if (!applied.ok()) {
    log_line(MOE_LOG_ERROR, "serve", "not reloaded: " + applied.error().message);
  } else {
    const std::string what = applied->empty() ? "nothing to apply" : fmt::format("{}", fmt::join(*applied, ", "));
    log_line(MOE_LOG_INFO, "serve", "reloaded: " + what);
  }
}

// Until a signal; says once when the engine stops making progress, and once when it goes on.
void wait_for_signal(const ServeFlags& flags, const Service& service, Reloadable& running) {
  bool stalled = false;
  auto next_look = Clock::now();
  while (!interrupted()) {
    std::this_thread::sleep_for(kTick);
    if (take_reload()) reload_now(flags, running);
    if (Clock::now() < next_look) continue;
    next_look = Clock::now() + std::chrono::seconds(1);
    const bool now = service.health().state() == v1::Health::STATE_STALLED;
    if (now != stalled)
      log_line(now ? MOE_LOG_ERROR : MOE_LOG_INFO, "serve",
               now ? "the engine makes no progress" : "the engine goes on");
    stalled = now;
  }
}

// Accepted requests are finished, for at most the grace time; then what is left ends as cancelled, and its readers are
// told.
void shut_down(Engine& engine, Service& service, Transports& transports, double grace_s) {
  service.drain();
  for (const auto& t : transports) t->drain();
  const auto deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(grace_s));
  while (service.n_running() > 0 && Clock::now() < deadline) std::this_thread::sleep_for(kTick);
  engine.stop();
  for (const auto& t : transports) t->stop(kFlush);
}

void serve(const ServeFlags& flags) {
  watch_signals();
  watch_reload();
  raise_file_limit();
  SessionNeeds needs;
  needs.defaults = [&](Settings& settings) {
    apply(flags, settings);
    set_log(settings.log.level, settings.log.format);
  };
  Session session = value_or_fail(open_session(flags.common, needs));
  if (interrupted()) return;
  const std::vector<PluginChoice> choices = value_or_fail(choices_of(session.settings, flags.listen));
  Metrics metrics;
  ServiceOptions options;
  options.allow_control = flags.allow_control;
  options.max_tokens = session.settings.engine.max_tokens;
  options.more_metrics = [&] { return session.host->metrics(); };
  Service service(*session.engine, *session.text, metrics, info_of(session, choices), options);
  session.engine->start();
  auto transports = start_transports(choices, session, service);
  if (!transports.ok()) {
    session.engine->stop();
    fail(transports.error());
  }
  announce(session, *transports, flags.common.json);
  Reloadable running{session, service, *transports, choices};
  wait_for_signal(flags, service, running);
  if (!flags.common.quiet)
    log_line(MOE_LOG_INFO, "serve", fmt::format("draining: {} requests run", service.n_running()));
  shut_down(*session.engine, service, *transports, flags.grace_s);
}

}  // namespace

void add_serve(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve a model over its transports until SIGTERM or SIGINT");
  add_common_flags(*command, flags->common);
  command->add_option("--listen", flags->listen, "serve with this transport there: http=127.0.0.1:8080; [[transport]]")
      ->type_name("TRANSPORT=ADDRESS")
      ->allow_extra_args(false);
  command->add_option("--grace", flags->grace_s, "seconds that running requests get after the signal")
      ->type_name("S")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  command->add_option("--batch-size", flags->batch_size, "requests in a step at most; engine.batch_size")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  command->add_option("--queue", flags->queue, "requests that may wait; engine.queue")
      ->type_name("N")
      ->check(CLI::Range(0, 1 << 20));
  command->add_option("--queue-ms", flags->queue_ms, "how long one may be expected to wait; engine.queue_ms")
      ->type_name("MS")
      ->check(CLI::Range(0, 86'400'000));
  command->add_option("--max-tokens", flags->max_tokens, "default and limit of a request's output; engine.max_tokens")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  command->add_option("--log-format", flags->log_format, "text | json; log.format")
      ->type_name("NAME")
      ->check(CLI::IsMember({"text", "json"}));
  command->add_flag("--allow-control", flags->allow_control, "clients may drain the server");
  command->callback([flags] { serve(*flags); });
}

}  // namespace patchbay
