// What the makers of cases share: sizes, and how far sums and activations may be off.
#pragma once

#include <algorithm>

#include "moe/sdk/loops/common.hpp"
#include "moe/sdk/loops/rows.hpp"
#include "tools/conformance/ops/op_case.hpp"

namespace patchbay::conformance {

// Sizes around the widths that kernels like, and small ones.
inline int64_t some_rows(Random& random) { return random.pick<int64_t>({0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 33}); }
inline int64_t some_width(Random& random) {
  return random.pick<int64_t>(
      {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 100, 127, 128, 129, 160});
}

// sum_c |w[c] x[c]|, which a sum's error is a share of.
inline double abs_dot(const float* w, const float* x, int64_t n) {
  double sum = 0.0;
  for (int64_t c = 0; c < n; ++c) sum += std::fabs(static_cast<double>(w[c]) * x[c]);
  return sum;
}
// A row of x as the product wants it.
inline std::vector<float> rounded_row(const float* x, int64_t n, int32_t activation) {
  std::vector<float> out(static_cast<size_t>(n));
  moe::loops::round_row(activation, x, n, out.data());
  return out;
}

// The size of act(g) u's terms, and by how much its error grows per unit of error in g and in u.
struct ActivationError {
  double size;
  double by_gate;
  double by_up;
};
inline ActivationError activation_error(const moe_gating& gating, double g, double u) {
  const double up = gating.ungated != 0 ? 1.0 : std::fabs(u);
  switch (gating.kind) {
    case MOE_ACT_RELU2:
      return {g * g * up, 2.0 * std::fabs(g) * up, g * g};
    case MOE_ACT_SWIGLU_CLAMPED:
      return {std::fabs(g) * (up + 1.0), 1.2 * (up + 1.0), std::fabs(g)};
    default:
      return {std::fabs(g) * up, 1.2 * up, std::fabs(g)};
  }
}

template <typename Args>
void some_gating(CaseBuilder<Args>& b, int32_t kind) {
  b.args.gating.kind = kind;
  b.args.gating.ungated = b.random.chance(0.25) ? 1 : 0;
  b.args.gating.limit =
      b.random.chance(0.4) || kind == MOE_ACT_SWIGLU_CLAMPED ? static_cast<float>(b.random.uniform(0.5, 3)) : 0.0F;
  b.args.gating.alpha = 1.702F;
  b.note("act", kind);
  b.note("ungated", b.args.gating.ungated);
  b.note("limit", b.args.gating.limit);
}

}  // namespace patchbay::conformance
