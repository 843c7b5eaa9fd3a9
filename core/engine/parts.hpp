// Choosing the plugin of a part: what the checkpoint asks for, what the configuration puts in its place, and which options carry over.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>

#include "core/config/settings.hpp"
#include "core/model/architecture/model_spec.hpp"
#include "core/plugin/registry.hpp"

namespace patchbay {

// A plugin to be made with these options.
template <typename T>
struct ChosenPart {
  Component<T> component;
  OptionValues values;
  std::string subject;  // "layer 3: router \"topk\"", for messages
  bool replaced = false;  // another plugin, or other options, than the checkpoint asks for
};

// Overrides are laid over the checkpoint's part in order. Another plugin keeps those of the checkpoint's options that it has too, so that
// swapping `topk` for `grouped` keeps k, score and scale; options of the configuration win.
PartSpec merged_part(const PartSpec& base, const std::vector<const PluginChoice*>& overrides, const moe_component* component);

template <typename T, typename Find>
moe::Result<ChosenPart<T>> choose_part(const PartSpec& base, const std::vector<const PluginChoice*>& overrides, const std::string& subject, Find&& find) {
  std::string name = base.plugin;
  for (const auto* o : overrides) {
    if (!o->plugin.empty()) name = o->plugin;
  }
  ChosenPart<T> chosen;
  auto found = find(name);
  if (!found.ok()) {
    for (const auto* o : overrides) {
      if (o->plugin == name && !o->where.empty()) return found.error().in(o->where);
    }
    return found.error().in(subject);
  }
  chosen.component = std::move(*found);
  chosen.subject = fmt::format("{} \"{}\"", subject, name);
  chosen.replaced = !overrides.empty();
  const PartSpec part = merged_part(base, overrides, &chosen.component.header());
  MOE_ASSIGN(chosen.values, check_options(chosen.component.header(), part.options, chosen.subject));
  return chosen;
}

}  // namespace patchbay
