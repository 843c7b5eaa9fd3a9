// Golden vectors of routers: a JSON array of objects
//   {"name": "...", "plugin": the component, "n_experts": 8, "n_zero_experts": 0, "options": {"k": 2},
//    "bias": [...] or null, "logits": [[...] a token], "ids": [[...] a token], "weights": [[...] a token]}
// and optionally "d_model", "layer", "hidden" and "before_attention" ([[...] a token]), "token_ids" and "positions"
// ([...]), "values" ({role: [...]}, weights by role; "bias" is short for one), "absent" ([role, ...], optional weights
// that are left out). Ids must be the same, weights within "tolerance" of the vector's, relative; by default 4e-6, a
// few roundings of the exponentials and of the sum.
#include <fmt/format.h>

#include <cmath>

#include "core/model/json/json.hpp"
#include "tools/conformance/checks.hpp"
#include "tools/conformance/router_run.hpp"

namespace patchbay::conformance {
namespace {

using nlohmann::json;

std::vector<GivenOption> options_of(const json& object) {
  std::vector<GivenOption> given;
  for (const auto& [key, value] : object.items()) {
    if (value.is_boolean()) {
      given.push_back({key, value.get<bool>(), ""});
    } else if (value.is_number_integer()) {
      given.push_back({key, value.get<int64_t>(), ""});
    } else if (value.is_number()) {
      given.push_back({key, value.get<double>(), ""});
    } else {
      given.push_back({key, value.get<std::string>(), ""});
    }
  }
  return given;
}

template <typename T>
std::vector<T> flat(const json& c, const char* key) {
  std::vector<T> all;
  if (!c.contains(key) || c[key].is_null()) return all;
  for (const auto& row : c[key]) {
    if (!row.is_array()) all.push_back(row.get<T>());
    if (!row.is_array()) continue;
    for (const auto& x : row) all.push_back(x.get<T>());
  }
  return all;
}

RouterSetup setup_of(const json& c) {
  RouterSetup setup;
  setup.config.layer = c.value("layer", 0);
  setup.config.n_layers = setup.config.layer + 1;
  setup.config.d_model = c.value("d_model", 16);
  setup.config.n_experts = c.at("n_experts");
  setup.config.n_zero_experts = c.value("n_zero_experts", 0);
  setup.config.n_vocab = c.value("n_vocab", 1000);
  setup.given = options_of(c.at("options"));
  if (c.contains("bias") && !c["bias"].is_null()) setup.values["bias"] = flat<float>(c, "bias");
  if (c.contains("values")) {
    for (const auto& [role, values] : c["values"].items()) setup.values[role] = values.get<std::vector<float>>();
  }
  for (const auto& role : c.value("absent", json::array())) setup.values[role.get<std::string>()] = {};
  return setup;
}

std::string wrong_token(const json& c, const RouterPlan& plan, size_t i) {
  const auto ids = c.at("ids")[i].get<std::vector<int32_t>>();
  const auto weights = c.at("weights")[i].get<std::vector<double>>();
  if (plan.count[i] != static_cast<int32_t>(ids.size()))
    return fmt::format("count: expected {}, got {}", ids.size(), plan.count[i]);
  for (size_t j = 0; j < ids.size(); ++j) {
    const size_t at = i * static_cast<size_t>(plan.k) + j;
    if (plan.ids[at] != ids[j]) return fmt::format("ids[{}]: expected {}, got {}", j, ids[j], plan.ids[at]);
    if (!(std::fabs(plan.weights[at] - weights[j]) <= c.value("tolerance", 4e-6) * std::fabs(weights[j])))
      return fmt::format("weights[{}]: expected {}, got {}", j, weights[j], plan.weights[at]);
  }
  return "";
}

void check_case(Kit& kit, const json& c, Findings& findings) {
  const auto name = c.at("name").get<std::string>();
  auto run = RouterRun::create(kit, kit.component<moe_router>(), setup_of(c));
  if (!run.ok()) return findings.fail(run.error().in(name));
  const auto n = static_cast<int64_t>(c.at("ids").size());
  RouterCall call = (*run)->random_call(n, 1);
  const auto take = [&](auto& to, const char* key) {
    auto values = flat<typename std::decay_t<decltype(to)>::value_type>(c, key);
    if (!values.empty()) to = std::move(values);
  };
  take(call.logits, "logits");
  take(call.hidden, "hidden");
  take(call.before_attention, "before_attention");
  take(call.token_ids, "token_ids");
  take(call.positions, "positions");
  if (static_cast<int64_t>(call.logits.size()) != n * (*run)->spec().n_logits)
    return findings.fail(fmt::format("{}: logits: expected {} a token, got {} for {} tokens", name,
                                     (*run)->spec().n_logits, call.logits.size(), n));
  auto plan = (*run)->route(call);
  if (!plan.ok()) return findings.fail(plan.error().in(name));
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    if (const std::string wrong = wrong_token(c, *plan, i); !wrong.empty())
      return findings.fail(fmt::format("{}: token {}: {}", name, i, wrong));
  }
}

}  // namespace

void router_matches_golden(const CheckContext& context, Findings& findings) {
  if (context.options.golden.empty()) return findings.skip("no vectors given (--golden FILE)");
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  auto cases = parse_json_file(context.options.golden);
  if (!cases.ok()) return findings.fail(cases.error());
  int tried = 0;
  try {  // json's own checks of types
    for (const auto& c : *cases) {
      if (c.at("plugin").get<std::string>() != context.component) continue;
      ++tried;
      check_case(*kit, c, findings);
    }
  } catch (const json::exception& e) {
    return findings.fail(fmt::format("{}: {}", context.options.golden.string(), e.what()));
  }
  if (tried == 0) return findings.skip(fmt::format("no vector is for plugin \"{}\"", context.component));
  findings.note(fmt::format("{} vectors", tried));
}

}  // namespace patchbay::conformance
