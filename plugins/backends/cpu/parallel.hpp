// Spreading work over the host's threads.
#pragma once

#include <cstdint>
#include <type_traits>

#include "moe/sdk/plugin.hpp"

namespace moe::cpu {

inline int32_t n_threads() {
  return host() == nullptr ? 1 : host()->n_threads(host()->self) < 1 ? 1 : host()->n_threads(host()->self);
}

// Handing work to other threads costs 1 to 2 us; less work than this, in bytes of weights or the like, stays with the
// caller.
inline constexpr int64_t kSpreadCost = 96 * 1024;

// Calls f(task, thread) for every task in [0, n): on all threads if the whole costs enough, where `cost` is the whole's
// weight in bytes read from memory (or an equal time of arithmetic: about 3 ns a 100).
template <typename F>
void spread(int64_t n, int64_t cost, F&& f) {
  using Function = std::remove_reference_t<F>;
  if (host() == nullptr || n <= 1 || cost < kSpreadCost) {
    for (int64_t i = 0; i < n; ++i) f(i, 0);
    return;
  }
  host()->parallel_for(
      host()->self, n,
      [](void* context, int64_t task, int32_t thread) { (*static_cast<Function*>(context))(task, thread); },
      const_cast<std::remove_const_t<Function>*>(&f));
}

}  // namespace moe::cpu
