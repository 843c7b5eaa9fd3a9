#include "tools/conformance/kit.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "moe/sdk/growth.hpp"

namespace patchbay::conformance {
namespace {

// Values of an option that a plugin should cope with, or refuse by name.
std::vector<OptionScalar> interesting_values(const moe_option& o) {
  std::vector<OptionScalar> out;
  const bool bounded = o.min <= o.max;
  switch (o.type) {
    case MOE_OPTION_BOOL:
      return {true, false};
    case MOE_OPTION_INT:
      for (const double v : {o.min, o.min + 1, o.min + 2, o.max}) {
        if (bounded && v >= o.min && v <= o.max && std::fabs(v) < 9e15) out.emplace_back(static_cast<int64_t>(v));
      }
      if (!bounded) out = {int64_t{0}, int64_t{1}, int64_t{7}};
      return out;
    case MOE_OPTION_FLOAT:
      for (const double v : {o.min, o.max, o.min + (o.max - o.min) / 3}) {
        if (bounded && std::isfinite(v)) out.emplace_back(v);
      }
      if (!bounded) out = {0.0, 0.5, 2.0};
      return out;
    case MOE_OPTION_STRING:
      for (const char* const* c = o.choices; c != nullptr && *c != nullptr; ++c) out.emplace_back(std::string(*c));
      return out;
    default:
      return out;
  }
}

}  // namespace

std::vector<std::vector<GivenOption>> option_variants(const moe_component& component,
                                                      const std::vector<GivenOption>& base) {
  std::vector<std::vector<GivenOption>> all = {base};
  for (uint32_t i = 0; i < component.n_options; ++i) {
    const moe_option& o = moe::nth(component.options, i);
    for (auto& value : interesting_values(o)) {
      auto given = base;
      given.push_back({o.key, std::move(value), ""});
      all.push_back(std::move(given));
    }
  }
  return all;
}

std::string to_text(const std::vector<GivenOption>& given) {
  if (given.empty()) return "defaults";
  std::string out;
  for (const auto& g : given)
    out.append(out.empty() ? "" : ", ").append(g.key).append(" = ").append(patchbay::to_text(g.value));
  return out;
}

moe::Result<std::unique_ptr<Kit>> Kit::open(const CheckContext& context) {
  std::unique_ptr<Kit> kit(new Kit());
  kit->host_ = std::make_unique<CheckHost>(kThreads);
  kit->options_ = &context.options;
  kit->kind_ = context.kind;
  MOE_ASSIGN(kit->library_, Library::load(context.options.library, kit->host_->get()));
  if (context.component.empty()) return kit;
  for (const auto& kind : kKinds) {
    if (context.kind != kind.word) continue;
    for (const moe_component* c : kit->library_->components(kind.id)) {
      if (context.component == c->name) kit->component_ = c;
    }
  }
  if (kit->component_ == nullptr) {
    return moe::not_found(fmt::format("{} \"{}\": expected it in {}, got none", context.kind, context.component,
                                      context.options.library.string()));
  }
  for (const auto& [key, text] : context.options.sets) {
    for (uint32_t i = 0; i < kit->component_->n_options; ++i) {
      const moe_option& o = moe::nth(kit->component_->options, i);
      if (key != o.key) continue;
      auto value = parse_option(o, text);
      if (!value.ok()) return value.error().in("--set " + key);
      kit->given_.push_back({key, std::move(value).value(), ""});
    }
  }
  return kit;
}

moe::Result<Compute*> Kit::compute() {
  if (compute_ != nullptr) return compute_.get();
  const auto file = options_->plugins / (options_->backend + ".so");
  MOE_ASSIGN(auto library, Library::load(file, host_->get()));
  for (const moe_component* c : library->components(MOE_BACKEND_ID)) {
    if (options_->backend != c->name) continue;
    MOE_ASSIGN(compute_, Compute::open({reinterpret_cast<const moe_backend*>(c), library}, *host_));
    return compute_.get();
  }
  return moe::not_found(fmt::format("{}: expected a backend \"{}\", got none", file.string(), options_->backend));
}

}  // namespace patchbay::conformance
