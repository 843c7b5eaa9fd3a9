// The configured transports, from creation to stop.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "core/config/settings.hpp"
#include "core/plugin/registry.hpp"

namespace patchbay {

// One transport plugin at work; stopped by its destructor.
class RunningTransport {
 public:
  // Checks its options and starts it. `service` must outlive it.
  static moe::Result<std::unique_ptr<RunningTransport>> start(const PluginChoice& choice, PluginRegistry& registry,
                                                              Host& host, const moe_service* service);
  ~RunningTransport();
  RunningTransport(const RunningTransport&) = delete;
  RunningTransport& operator=(const RunningTransport&) = delete;

  [[nodiscard]] std::string name() const { return component_->component.name; }
  [[nodiscard]] std::string address() const { return component_->address(instance_); }
  void drain() { component_->drain(instance_); }
  void stop(std::chrono::milliseconds grace);
  // Whether options of it may change while it runs.
  [[nodiscard]] bool can_reconfigure() const { return reconfigure_ != nullptr; }
  // Applies the RUNTIME options of `choice`. The keys that differ and need a restart.
  moe::Result<std::vector<std::string>> reconfigure(const PluginChoice& choice);

 private:
  RunningTransport(Component<moe_transport> component, moe_transport_instance* instance,
                   std::vector<GivenOption> given);

  Component<moe_transport> component_;
  moe_transport_instance* instance_;
  const moe_reconfigure* reconfigure_ = nullptr;
  std::vector<GivenOption> given_;  // in force
  bool running_ = false;
};

}  // namespace patchbay
