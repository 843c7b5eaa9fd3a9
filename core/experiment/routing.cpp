#include "core/experiment/routing.hpp"

#include <algorithm>
#include <cmath>

namespace patchbay {
namespace {

double entropy_bits(std::span<const int32_t> ids, std::span<const float> weights) {
  double sum = 0, entropy = 0;
  for (size_t j = 0; j < ids.size(); ++j) sum += ids[j] >= 0 ? std::abs(static_cast<double>(weights[j])) : 0;
  if (!(sum > 0)) return 0;
  for (size_t j = 0; j < ids.size(); ++j) {
    const double p = ids[j] >= 0 ? std::abs(static_cast<double>(weights[j])) / sum : 0;
    if (p > 0) entropy -= p * std::log2(p);
  }
  return entropy;
}

}  // namespace

void RoutingStatistics::add(size_t layer, std::span<const int32_t> ids, std::span<const float> weights, int64_t k,
                            int64_t n_experts) {
  if (layers_.size() <= layer) layers_.resize(layer + 1);
  Layer& out = layers_[layer];
  out.n_experts = n_experts;
  out.load.resize(static_cast<size_t>(n_experts));
  const auto width = static_cast<size_t>(k);
  for (size_t at = 0, token = 0; at + width <= ids.size(); at += width, ++token) {
    const auto own = ids.subspan(at, width);
    uint64_t n = 0, shared = 0;
    for (const int32_t id : own) {
      if (id < 0) continue;
      ++n;
      if (static_cast<size_t>(id) < out.load.size()) ++out.load[static_cast<size_t>(id)];
      if (layer == 0) continue;
      const auto before =
          std::span(previous_).subspan(token * static_cast<size_t>(previous_k_), static_cast<size_t>(previous_k_));
      shared += std::find(before.begin(), before.end(), id) != before.end() ? 1 : 0;
    }
    ++out.n_tokens;
    out.n_assigned += n;
    out.entropy += entropy_bits(own, weights.subspan(at, width));
    out.overlap += n > 0 ? static_cast<double>(shared) / static_cast<double>(n) : 0;
  }
  previous_.assign(ids.begin(), ids.end());
  previous_k_ = k;
}

nlohmann::json RoutingStatistics::json() const {
  double entropy = 0, overlap = 0, chance = 0, assigned = 0;
  nlohmann::json layers = nlohmann::json::array();
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& a = layers_[l];
    const auto n = static_cast<double>(std::max<uint64_t>(a.n_tokens, 1));
    const double mean = static_cast<double>(a.n_assigned) / n;
    nlohmann::json layer = {{"entropy_bits", a.entropy / n}, {"experts_a_token", mean}, {"load", a.load}};
    if (l > 0) {
      const double before = static_cast<double>(layers_[l - 1].n_assigned) /
                            static_cast<double>(std::max<uint64_t>(layers_[l - 1].n_tokens, 1));
      layer["overlap"] = a.overlap / n;
      overlap += a.overlap / n;
      chance += before / static_cast<double>(std::max<int64_t>(layers_[l - 1].n_experts, 1));
    }
    entropy += a.entropy / n;
    assigned += mean;
    layers.push_back(std::move(layer));
  }
  const auto n_layers = static_cast<double>(layers_.size());
  nlohmann::json out = {{"layers", layers}};
  if (layers_.empty()) return out;
  out["entropy_bits"] = entropy / n_layers;
  out["experts_a_token"] = assigned / n_layers;
  if (layers_.size() > 1)
    out.update({{"overlap", overlap / (n_layers - 1)}, {"overlap_by_chance", chance / (n_layers - 1)}});
  return out;
}

}  // namespace patchbay
