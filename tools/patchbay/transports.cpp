#include "tools/patchbay/transports.hpp"

#include <fmt/format.h>

#include <algorithm>

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
  std::unique_ptr<RunningTransport> transport(
      new RunningTransport(std::move(component).value(), instance, choice.options));
  if (const moe_status s = table->start(instance, service, message.get()); s != MOE_OK)
    return message.error(s).in(subject);
  transport->running_ = true;
  return transport;
}

RunningTransport::RunningTransport(Component<moe_transport> component, moe_transport_instance* instance,
                                   std::vector<GivenOption> given)
    : component_(std::move(component)), instance_(instance), given_(std::move(given)) {
  if (component_->component.get_extension == nullptr) return;
  const void* found = component_->component.get_extension(MOE_RECONFIGURE_ID);
  const auto* table = static_cast<const moe_reconfigure*>(found);
  if (table != nullptr && table->struct_size >= sizeof(moe_reconfigure) && table->must_understand == 0) {
    reconfigure_ = table;
  }
}

namespace {

const GivenOption* find(const std::vector<GivenOption>& given, std::string_view key) {
  const auto found = std::find_if(given.begin(), given.end(), [&](const GivenOption& o) { return o.key == key; });
  return found == given.end() ? nullptr : &*found;
}

}  // namespace

moe::Result<std::vector<std::string>> RunningTransport::reconfigure(const PluginChoice& choice) {
  const std::string subject = fmt::format("transport \"{}\"", choice.plugin);
  MOE_TRY(check_options(component_->component, choice.options, subject));  // also what needs a restart
  std::vector<GivenOption> merged = choice.options;
  std::vector<std::string> fixed;
  for (uint32_t i = 0; i < component_->component.n_options; ++i) {
    const moe_option& option = component_->component.options[i];
    const GivenOption* now = find(given_, option.key);
    const GivenOption* wanted = find(merged, option.key);
    const bool same = now != nullptr && wanted != nullptr ? *now == *wanted : now == wanted;
    if (same || (option.flags & MOE_OPTION_RUNTIME) != 0) continue;
    fixed.emplace_back(option.key);
    std::erase_if(merged, [&](const GivenOption& o) { return o.key == option.key; });
    if (now != nullptr) merged.push_back(*now);
  }
  MOE_ASSIGN(const OptionValues values, check_options(component_->component, merged, subject));
  moe::MessageBuffer message;
  const moe_status s = reconfigure_->set(instance_, values.data(), values.size(), message.get());
  if (s != MOE_OK) return message.error(s).in(subject);
  given_ = std::move(merged);
  return fixed;
}

RunningTransport::~RunningTransport() {
  stop(std::chrono::milliseconds(0));
  component_->destroy(instance_);
}

void RunningTransport::stop(std::chrono::milliseconds grace) {
  if (std::exchange(running_, false)) component_->stop(instance_, grace.count());
}

}  // namespace patchbay
