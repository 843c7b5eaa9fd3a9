#include "tools/patchbay/reload.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/plugin/host.hpp"

namespace patchbay {
namespace {

// What differs and cannot change under a model that runs.
std::vector<std::string> fixed_differences(const Settings& now, const Settings& wanted) {
  std::vector<std::string> parts;
  const auto compare = [&](const char* name, const auto& a, const auto& b) {
    if (!(a == b)) parts.emplace_back(name);
  };
  compare("model", now.model, wanted.model);
  compare("backend", now.backends, wanted.backends);
  compare("router", now.router, wanted.router);
  compare("expert", now.expert, wanted.expert);
  compare("plan", now.plan, wanted.plan);
  compare("layer", now.layers, wanted.layers);
  EngineSettings a = now.engine;
  EngineSettings b = wanted.engine;
  a.queue = b.queue = 0;
  a.queue_ms = b.queue_ms = 0;
  a.max_tokens = b.max_tokens = 0;
  compare("engine", a, b);
  compare("plugins.paths", now.plugin_paths, wanted.plugin_paths);
  compare("architectures.paths", now.architecture_paths, wanted.architecture_paths);
  return parts;
}

moe::Status reload_samplers(Session& session, const Settings& wanted) {
  MOE_ASSIGN(auto chain, SamplerChain::build(wanted.samplers, *session.registry, session.model->spec().n_vocab));
  MOE_TRY(session.engine->set_chain(chain));
  session.chain = std::move(chain);
  return {};
}

moe::Status reload_transports(Reloadable& running, const std::vector<PluginChoice>& wanted,
                              std::vector<std::string>& applied, std::vector<std::string>& left) {
  if (wanted.size() != running.choices.size()) {
    left.emplace_back("transport");
    return {};
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i].plugin != running.choices[i].plugin) {
      left.emplace_back("transport");
      continue;
    }
    RunningTransport& transport = *running.transports[i];
    if (transport.can_reconfigure()) {
      MOE_ASSIGN(const auto fixed, transport.reconfigure(wanted[i]));
      for (const std::string& key : fixed) left.push_back(fmt::format("transport \"{}\": {}", wanted[i].plugin, key));
      applied.push_back(fmt::format("transport \"{}\"", wanted[i].plugin));
    } else if (!(wanted[i] == running.choices[i])) {
      left.push_back(fmt::format("transport \"{}\"", wanted[i].plugin));
    }
  }
  running.choices = wanted;
  return {};
}

}  // namespace

moe::Result<std::vector<std::string>> reload(Reloadable& running, const Settings& wanted,
                                             const std::vector<PluginChoice>& wanted_transports) {
  Settings& now = running.session.settings;
  std::vector<std::string> applied;
  std::vector<std::string> left = fixed_differences(now, wanted);
  if (!(wanted.log == now.log)) {
    set_log(wanted.log.level, wanted.log.format);
    applied.emplace_back("log");
    now.log = wanted.log;
  }
  if (!(wanted.samplers == now.samplers)) {
    MOE_TRY(reload_samplers(running.session, wanted));
    applied.emplace_back("sampler");
    now.samplers = wanted.samplers;
  }
  if (wanted.engine.queue != now.engine.queue || wanted.engine.queue_ms != now.engine.queue_ms) {
    running.session.engine->set_queue(wanted.engine.queue, static_cast<double>(wanted.engine.queue_ms) / 1e3);
    applied.emplace_back("engine.queue");
    now.engine.queue = wanted.engine.queue;
    now.engine.queue_ms = wanted.engine.queue_ms;
  }
  if (wanted.engine.max_tokens != now.engine.max_tokens) {
    running.service.set_max_tokens(wanted.engine.max_tokens);
    applied.emplace_back("engine.max_tokens");
    now.engine.max_tokens = wanted.engine.max_tokens;
  }
  MOE_TRY(reload_transports(running, wanted_transports, applied, left));
  if (!left.empty()) {
    log_line(MOE_LOG_WARNING, "serve", fmt::format("needs a restart to change: {}", fmt::join(left, ", ")));
  }
  return applied;
}

}  // namespace patchbay
