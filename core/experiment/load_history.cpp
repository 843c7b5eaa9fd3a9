#include "core/experiment/load_history.hpp"

#include <algorithm>

#include "core/service/load_balance.hpp"

namespace patchbay {

void LoadHistory::add(uint64_t step, Load load) {
  looks_.push_back({step, std::move(load)});
  if (looks_.size() < kMost) return;
  every_ *= 2;
  std::erase_if(looks_, [&](const Look& look) { return look.step % every_ != 0; });
}

nlohmann::json LoadHistory::json() const {
  nlohmann::json steps = nlohmann::json::array(), layers = nlohmann::json::array();
  const size_t n_layers = looks_.empty() ? 0 : looks_.front().load.size();
  for (size_t l = 0; l < n_layers; ++l) layers.push_back(nlohmann::json::array());
  for (size_t i = 0; i < looks_.size(); ++i) {
    steps.push_back(looks_[i].step);
    for (size_t l = 0; l < n_layers; ++l) {
      std::vector<uint64_t> load = looks_[i].load[l];
      if (i > 0) std::transform(load.begin(), load.end(), looks_[i - 1].load[l].begin(), load.begin(), std::minus<>());
      layers[l].push_back(load_balance(load).max_over_mean);
    }
  }
  return {{"steps", steps}, {"max_over_mean", layers}};
}

}  // namespace patchbay
