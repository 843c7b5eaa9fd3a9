// What a model's routing decisions look like, token by token.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

namespace patchbay {

class RoutingStatistics {
 public:
  // The decisions of one MoE layer for a run of tokens: ids and weights [n, k], -1: none. Every layer must be given the
  // same tokens, the layers in order.
  void add(size_t layer, std::span<const int32_t> ids, std::span<const float> weights, int64_t k, int64_t n_experts);

  struct Layer {
    int64_t n_experts = 0;
    uint64_t n_tokens = 0;
    uint64_t n_assigned = 0;
    double entropy = 0;  // sum over tokens: of the weights of its experts, in bits
    // Sum over tokens: of its experts, the share with the same number as one of its experts in the layer before.
    double overlap = 0;
    std::vector<uint64_t> load;  // [n_experts]
  };
  [[nodiscard]] const std::vector<Layer>& layers() const { return layers_; }
  // Of all layers: {"entropy_bits", "overlap", "overlap_by_chance", "experts_a_token", "layers": [...]}.
  [[nodiscard]] nlohmann::json json() const;

 private:
  std::vector<Layer> layers_;
  std::vector<int32_t> previous_;  // the layer before's ids [n, k]
  int64_t previous_k_ = 0;
};

}  // namespace patchbay
