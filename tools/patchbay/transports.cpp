#include "tools/patchbay/transports.hpp"

#include <fmt/format.h>

#include "core/plugin/options.hpp"
#include "moe/sdk/compute.hpp"

namespace patchbay {

moe::Result<std::unique_ptr<RunningTransport>> RunningTransport::start(const PluginChoice& choice,
                                                                       PluginRegistry& registry, Host& host,
                                                                       const moe_service* service) {
  auto component = registry.transport(choice.plugin);
  if (!component.ok()) return choice.where.empty() ? component.error() : component.error().in(choice.where);
  const std::string subject = fmt::format("transport \"{}\"", choice.plugin);
  MOE_ASSIGN(const OptionValues values, check_options(component->header(), choice.options, subject));
  moe::MessageBuffer message;
  moe_transport_instance* instance = nullptr;
  const moe_transport* table = component->table;
  if (const moe_status s = table->create(host.abi(), values.data(), values.size(), &instance, message.get());
      s != MOE_OK) {
    return message.error(s).in(subject);
  }
  std::unique_ptr<RunningTransport> transport(new RunningTransport(std::move(component).value(), instance));
  if (const moe_status s = table->start(instance, service, message.get()); s != MOE_OK)
    return message.error(s).in(subject);
  transport->running_ = true;
  return transport;
}

RunningTransport::~RunningTransport() {
  stop(std::chrono::milliseconds(0));
  component_->destroy(instance_);
}

void RunningTransport::stop(std::chrono::milliseconds grace) {
  if (std::exchange(running_, false)) component_->stop(instance_, grace.count());
}

}  // namespace patchbay
