// What `run`, `eval` and `bench` print about a run.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/engine/engine.hpp"
#include "core/engine/model.hpp"

namespace patchbay {

// The load of one MoE layer's experts.
struct HeatRow {
  int64_t layer = 0;
  std::string router;
  int64_t k = 0;
  std::vector<uint64_t> tokens;  // by expert
};
std::vector<HeatRow> heat_rows(const Model& model, const std::vector<std::vector<uint64_t>>& expert_tokens);

// Expert load, layers by experts, as shades of a block; with 256 colours where `colour`. Empty where there are no rows.
std::string heat_map(const std::vector<HeatRow>& rows, bool colour);

// Speed of decoding against the machine's bandwidth.
struct DecodeSpeed {
  double tokens_per_s = 0;
  double bytes_per_s = 0;  // weights read, at batch 1
  double share = 0;        // of the measured bandwidth
};
DecodeSpeed decode_speed(const Model& model, int64_t n_tokens, double seconds, double bandwidth);

}  // namespace patchbay
