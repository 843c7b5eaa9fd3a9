#include "core/engine/parts.hpp"

#include <algorithm>

#include "moe/sdk/growth.hpp"

namespace patchbay {
namespace {

bool has_option(const moe_component& component, const std::string& key) {
  for (uint32_t i = 0; i < component.n_options; ++i) {
    if (key == moe::nth(component.options, i).key) return true;
  }
  return false;
}

}  // namespace

PartSpec merged_part(const PartSpec& base, const std::vector<const PluginChoice*>& overrides, const moe_component* component) {
  PartSpec part;
  part.plugin = component->name;
  const bool same = base.plugin == component->name;
  for (const auto& option : base.options) {
    if (same || has_option(*component, option.key)) part.options.push_back(option);
  }
  for (const auto* o : overrides) part.options.insert(part.options.end(), o->options.begin(), o->options.end());
  return part;
}

}  // namespace patchbay
