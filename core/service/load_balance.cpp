#include "core/service/load_balance.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace patchbay {

LoadBalance load_balance(std::span<const uint64_t> tokens) {
  const double total = std::accumulate(tokens.begin(), tokens.end(), 0.0);
  if (total == 0) return {};
  const auto n = static_cast<double>(tokens.size());
  const double mean = total / n;
  LoadBalance balance;
  double squares = 0;
  for (const uint64_t t : tokens) {
    const auto load = static_cast<double>(t);
    balance.max_over_mean = std::max(balance.max_over_mean, load / mean);
    squares += (load / mean - 1) * (load / mean - 1);
    if (t > 0) balance.entropy -= load / total * std::log(load / total);
  }
  balance.variation = std::sqrt(squares / n);
  balance.entropy = n > 1 ? balance.entropy / std::log(n) : 1;
  return balance;
}

}  // namespace patchbay
