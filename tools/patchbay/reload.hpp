// SIGHUP: the configuration is read again and what may change while the server runs is changed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/service/service.hpp"
#include "tools/patchbay/session.hpp"
#include "tools/patchbay/transports.hpp"

namespace patchbay {

// What a reload touches. `session.settings` are those in force; they become the new ones.
struct Reloadable {
  Session& session;
  Service& service;
  const std::vector<std::unique_ptr<RunningTransport>>& transports;
  std::vector<PluginChoice> choices;  // of the transports, in their order
};

// Compares `wanted` with what is in force and applies: values of the sampler chain's links, engine.queue, queue_ms and
// max_tokens, log, RUNTIME options of transports (files that they name are read again). The names of what was applied;
// what needs a restart is only logged. An error: nothing of the part that it names has changed.
moe::Result<std::vector<std::string>> reload(Reloadable& running, const Settings& wanted,
                                             const std::vector<PluginChoice>& wanted_transports);

}  // namespace patchbay
