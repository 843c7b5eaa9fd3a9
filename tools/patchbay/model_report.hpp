// What `patchbay model inspect` says of a model.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/engine/model.hpp"

namespace patchbay {

struct ModelReport {
  std::string path;
  std::string format;
  uint64_t file_bytes = 0;
  size_t n_tensors = 0;
  std::map<std::string, uint64_t> bytes_by_encoding;
  std::vector<std::string> names;       // as the model calls its architecture
  std::optional<ModelOutline> outline;  // none: no architecture file reads it
  std::string tokenizer;                // "151,936 tokens", "none"
  std::string chat;                     // "yes", "none"
  std::vector<int32_t> stop_ids;
  std::vector<std::string> problems;  // why it would not run; empty: it would
  std::vector<std::string> notes;
};

// Looks at a model; whatever is wrong with it is in the problems. Errors: nothing is there, or it is no model.
moe::Result<ModelReport> inspect_model(const Settings& settings, std::shared_ptr<PluginRegistry> registry, Host& host);

// Weights in all, and those that one token uses where it goes to `experts_a_token` of each MoE layer's experts (0: to the router's k).
struct ParameterCount {
  double total = 0;
  double active = 0;
};
ParameterCount count_parameters(const ModelOutline& outline, double experts_a_token = 0);

// "13.8 GB".
std::string bytes_text(double n_bytes);

std::string to_text(const ModelReport& report);
nlohmann::json to_json(const ModelReport& report);

}  // namespace patchbay
