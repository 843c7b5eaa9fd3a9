#include "core/experiment/summary.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace patchbay {
namespace {

using nlohmann::json;

// What a swapped router is judged by, and groups are compared by.
constexpr std::pair<const char*, const char*> kFigures[] = {{"accuracy", "/accuracy/accuracy"},
                                                            {"perplexity", "/text/perplexity"},
                                                            {"max_over_mean", "/accuracy/balance/max_over_mean"},
                                                            {"tokens_per_second", "/speed/decode_tokens_per_second"}};

json cost_of(const json& result, const json& reference) {
  json cost = {{"reference", reference["cell"]}};
  for (const auto& [name, path] : kFigures) {
    const json from = figure(reference, path), to = figure(result, path);
    if (from.is_number() && to.is_number()) cost[name] = {{"from", from}, {"to", to}};
  }
  return cost;
}

// Cells that differ in the seed of the model only, side by side.
json groups_of(const Experiment& experiment, const std::vector<json>& results) {
  std::map<std::string, std::vector<const json*>> members;
  std::vector<std::string> order;
  for (size_t i = 0; i < experiment.cells.size(); ++i) {
    const Cell& cell = experiment.cells[i];
    const auto model = std::find_if(experiment.models.begin(), experiment.models.end(),
                                    [&](const auto& m) { return m.name == cell.model; });
    if (model->group.empty() || results[i].is_null() || results[i].contains("error")) continue;
    const std::string name = model->group + cell.id.substr(cell.model.size());
    if (members[name].empty()) order.push_back(name);
    members[name].push_back(&results[i]);
  }
  json groups = json::array();
  for (const auto& name : order) {
    if (members[name].size() < 2) continue;
    json group = {{"group", name}, {"models", json::array()}};
    for (const json* r : members[name]) group["models"].push_back((*r)["model"]);
    for (const auto& [key, path] : kFigures) {
      std::vector<double> values;
      for (const json* r : members[name]) {
        if (const json value = figure(*r, path); value.is_number()) values.push_back(value);
      }
      if (values.size() != members[name].size()) continue;
      double sum = 0;
      for (const double v : values) sum += v;
      const auto [least, most] = std::minmax_element(values.begin(), values.end());
      group[key] = {
          {"mean", sum / static_cast<double>(values.size())}, {"min", *least}, {"max", *most}, {"each", values}};
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace

json figure(const json& result, const char* path) {
  const json::json_pointer pointer(path);
  return result.contains(pointer) ? result[pointer] : json();
}

json summary_of(const Experiment& experiment, const std::vector<json>& results) {
  json out = {{"name", experiment.name},
              {"left_out", json::array()},
              {"cells", json::array()},
              {"failed", json::array()},
              {"missing", json::array()}};
  std::set<std::string> programs;
  for (const auto& model : experiment.left_out) out["left_out"].push_back(model.name);
  for (size_t i = 0; i < results.size(); ++i) {
    const Cell& cell = experiment.cells[i];
    if (results[i].is_null()) {
      out["missing"].push_back(cell.id);
      continue;
    }
    if (results[i].contains("error")) {
      out["failed"].push_back({{"cell", cell.id}, {"error", results[i]["error"]}});
      continue;
    }
    json result = results[i];
    programs.insert(result["program"].get<std::string>());
    if (!cell.own_router && cell.reference && results[*cell.reference].is_object() &&
        !results[*cell.reference].contains("error")) {
      result["cost"] = cost_of(result, results[*cell.reference]);
    }
    out["cells"].push_back(std::move(result));
  }
  out["programs"] = programs;
  out["groups"] = groups_of(experiment, results);
  return out;
}

}  // namespace patchbay
