// How the load of the experts went over a run, in a bounded number of looks.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

namespace patchbay {

class LoadHistory {
 public:
  using Load = std::vector<std::vector<uint64_t>>;  // [n_moe_layers][n_experts], as counted since the start
  static constexpr size_t kMost = 64;

  // Whether the step that has just ended is to be looked at. Every step at first; half as often whenever there are
  // kMost looks.
  [[nodiscard]] bool wants(uint64_t step) const { return step % every_ == 0; }
  void add(uint64_t step, Load load);

  // {"steps": [...], "max_over_mean": [layer][look]}: of the tokens between one look and the next.
  [[nodiscard]] nlohmann::json json() const;

 private:
  struct Look {
    uint64_t step;
    Load load;
  };
  uint64_t every_ = 1;
  std::vector<Look> looks_;
};

}  // namespace patchbay
