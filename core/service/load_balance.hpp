// How evenly tokens are spread over a layer's experts.
#pragma once

#include <cstdint>
#include <span>

namespace patchbay {

// Of one layer; all zero where no token came.
struct LoadBalance {
  double max_over_mean = 0;  // the hottest expert's load; 1: even, n_experts: all on one
  double variation = 0;      // coefficient of variation: standard deviation over mean; 0: even
  double entropy = 0;        // of the distribution of the load, over log(n_experts); 1: even, 0: all on one
};

// `tokens` [n_experts]: assignments of tokens to each.
LoadBalance load_balance(std::span<const uint64_t> tokens);

}  // namespace patchbay
