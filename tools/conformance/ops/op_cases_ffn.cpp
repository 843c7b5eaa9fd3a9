// Random cases of the whole feed-forward.
#include "tools/conformance/ops/op_cases.hpp"
#include "tools/conformance/ops/op_parts.hpp"

namespace patchbay::conformance {

// The hidden row of one pair, and by how much each element may be off: the error of the products, and, where the row is
// rounded for the second product, one step for each element that this error can carry over a rounding boundary.
struct HiddenRow {
  std::vector<float> value;
  std::vector<double> error;
};

static HiddenRow round_hidden(const std::vector<float>& h, const std::vector<double>& error, int32_t activation) {
  const auto n = static_cast<int64_t>(h.size());
  HiddenRow out{rounded_row(h.data(), n, activation), error};
  if (activation == MOE_F32) return out;
  if (activation != MOE_I8) {
    for (int64_t c = 0; c < n; ++c) {
      const auto e = static_cast<size_t>(c);
      const float near[2] = {static_cast<float>(h[e] - error[e]), static_cast<float>(h[e] + error[e])};
      const auto rounded = rounded_row(near, 2, activation);
      out.error[e] = std::max(std::fabs(rounded[0] - out.value[e]), std::fabs(rounded[1] - out.value[e]));
    }
    return out;
  }
  for (int64_t first = 0; first < n; first += moe::loops::kI8Block) {
    const int64_t end = std::min(n, first + moe::loops::kI8Block);
    double amax = 0.0;
    double amax_error = 0.0;
    for (int64_t c = first; c < end; ++c) {
      amax = std::max(amax, std::fabs(static_cast<double>(h[static_cast<size_t>(c)])));
      amax_error = std::max(amax_error, error[static_cast<size_t>(c)]);
    }
    const double scale = amax / 127.0;
    const double scale_error = amax_error / 127.0 + 4 * kUnit * scale;
    for (int64_t c = first; c < end; ++c) {
      const auto e = static_cast<size_t>(c);
      if (scale <= scale_error) {
        out.error[e] = amax + amax_error;
        continue;
      }
      const double size = std::fabs(static_cast<double>(h[e]));
      const double most = std::nearbyint((size + error[e]) / (scale - scale_error));
      const double least = std::nearbyint((size - error[e]) / (scale + scale_error));
      out.error[e] = scale * (most - least) + std::fabs(most) * scale_error;
    }
  }
  return out;
}

// One pair: token i to group e with weight w.
static HiddenRow hidden_row(const moe_ffn_args& a, const WeightRow& row, int64_t i, int64_t e, float w) {
  const int64_t d_model = a.x.shape[1];
  const auto* x_row = static_cast<const float*>(a.x.data) + i * a.x.strides[0];
  std::vector<float> x(x_row, x_row + d_model);
  if (a.weight_on == MOE_WEIGHT_ON_INPUT) {
    for (float& v : x) v *= w;
  }
  x = rounded_row(x.data(), d_model, a.activation);
  std::vector<float> h(static_cast<size_t>(a.width));
  std::vector<double> error(h.size());
  const auto product = [&](const moe_weight* weight, const moe_tensor& bias, int64_t r, double& sum, double& size) {
    const float* m = row(weight, e, r);
    sum = moe::present(bias) ? value(bias, e, 0, r) : 0.0;
    size = std::fabs(sum) + abs_dot(m, x.data(), d_model);
    for (int64_t c = 0; c < d_model; ++c) sum += static_cast<double>(m[c]) * x[static_cast<size_t>(c)];
  };
  for (int64_t r = 0; r < a.width; ++r) {
    double g = 0.0;
    double g_size = 0.0;
    double u = 0.0;
    double u_size = 0.0;
    product(a.gate, a.gate_bias, r, g, g_size);
    if (a.up != nullptr) product(a.up, a.up_bias, r, u, u_size);
    const ActivationError act = activation_error(a.gating, g, u);
    h[static_cast<size_t>(r)] = moe::loops::gated(a.gating, g, u);
    error[static_cast<size_t>(r)] = kSumUnits * (act.size + act.by_gate * g_size + act.by_up * u_size);
  }
  return round_hidden(h, error, a.activation);
}

static void ffn_tolerance(const moe_ffn_args& a, const WeightRow& row, std::vector<double>& tol) {
  const int64_t d_model = a.x.shape[1];
  const bool routed = a.ids.ndim > 0;
  for (int64_t i = 0; i < a.x.shape[0]; ++i) {
    std::vector<double> error(static_cast<size_t>(d_model), 0.0);
    const int64_t count = !routed ? 1 : (moe::present(a.count) ? element<int32_t>(a.count, i) : a.ids.shape[1]);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t e = routed ? static_cast<const int32_t*>(a.ids.data)[i * a.ids.strides[0] + j] - a.first_expert : 0;
      if (e < 0 || e >= a.n_experts) continue;
      const auto w = static_cast<float>(routed ? value(a.weights, i, 0, j) : 1.0);
      const HiddenRow h = hidden_row(a, row, i, e, w);
      const double share = a.weight_on == MOE_WEIGHT_ON_INPUT ? 1.0 : std::fabs(w);
      for (int64_t r = 0; r < d_model; ++r) {
        const float* m = row(a.down, e, r);
        double y = kSumUnits * (abs_dot(m, h.value.data(), a.width) +
                                (moe::present(a.down_bias) ? std::fabs(value(a.down_bias, e, 0, r)) : 0.0));
        for (int64_t c = 0; c < a.width; ++c) y += std::fabs(m[c]) * h.error[static_cast<size_t>(c)];
        error[static_cast<size_t>(r)] += share * y;
      }
    }
    double scale = 2.0 * std::fabs(a.scale);
    if (moe::present(a.row_gate)) scale *= moe::loops::sigmoid(element<float>(a.row_gate, i));
    for (int64_t r = 0; r < d_model; ++r) {
      const double there = a.accumulate != 0 ? std::fabs(value(a.out, i, 0, r)) : 0.0;
      tol[static_cast<size_t>(index_of(a.out, i, 0, r))] =
          scale * error[static_cast<size_t>(r)] + 2 * kUnit * there + 1e-12;
    }
  }
}

OpCase ffn_case(uint64_t seed, int32_t kind, int32_t activation) {
  CaseBuilder<moe_ffn_args> b(MOE_OP_FFN, seed);
  const int64_t n = some_rows(b.random);
  const int64_t d_model = some_width(b.random);
  const int64_t width = some_width(b.random);
  const bool routed = b.random.chance(0.75);
  const int64_t n_experts = routed ? b.random.pick<int64_t>({1, 2, 5, 8}) : 1;
  const int64_t all_experts =
      n_experts + (b.random.chance(0.3) ? 4 : 0);  // others' experts, or zero-compute ones: skipped
  b.args.first_expert = all_experts > n_experts ? b.random.below(5) : 0;
  b.args.n_experts = n_experts;
  b.args.width = width;
  b.args.activation = activation;
  b.args.scale = b.random.chance(0.6) ? 1.0F : static_cast<float>(b.random.uniform(-2, 2));
  b.args.accumulate = b.random.chance(0.5) ? 1 : 0;
  b.args.weight_on = routed && b.random.chance(0.3) ? MOE_WEIGHT_ON_INPUT : MOE_WEIGHT_ON_OUTPUT;
  b.note("n", n);
  b.note("d_model", d_model);
  b.note("width", width);
  b.note("experts", n_experts);
  b.note("first", b.args.first_expert);
  b.note("activation", activation);
  b.note("weight_on", b.args.weight_on);
  b.note("accumulate", b.args.accumulate);
  some_gating(b, kind);
  const double in_size = 2.0 / std::sqrt(static_cast<double>(d_model));
  b.weight(b.args.gate, n_experts, width, d_model, in_size);
  if (b.args.gating.ungated == 0) b.weight(b.args.up, n_experts, width, d_model, in_size);
  b.weight(b.args.down, n_experts, d_model, width, 2.0 / std::sqrt(static_cast<double>(width)));
  if (b.random.chance(0.3)) {
    b.f32(b.args.gate_bias, {n_experts, width}, false);
    if (b.args.gating.ungated == 0) b.f32(b.args.up_bias, {n_experts, width}, false);
    b.f32(b.args.down_bias, {n_experts, d_model}, false);
  }
  b.f32(b.args.x, {n, d_model}, true, 2.0);
  if (routed) {
    const int64_t k = 1 + b.random.below(std::min<int64_t>(all_experts, 4));
    b.note("k", k);
    const size_t ids = b.i32(b.args.ids, {n, k}, true, [](int64_t) { return 0; });
    for (int64_t i = 0; i < n; ++i) {  // k distinct ids
      const int64_t first = b.random.below(all_experts);
      for (int64_t j = 0; j < k; ++j) {
        b.array(ids).as<int32_t>()[i * b.args.ids.strides[0] + j] = static_cast<int32_t>((first + j) % all_experts);
      }
    }
    b.f32(b.args.weights, {n, k}, true);
    if (b.random.chance(0.4))
      b.i32(b.args.count, {n}, true, [&](int64_t) { return static_cast<int32_t>(1 + b.random.below(k)); });
  }
  if (b.random.chance(0.3)) {
    b.f32(b.args.row_gate, b.random.chance(0.5) ? std::vector<int64_t>{n} : std::vector<int64_t>{n, 1}, true, 3.0);
  }
  const size_t out = b.output(b.args.out, {n, d_model});
  return b.build(
      n, [out](const moe_ffn_args& a, const WeightRow& row, Tolerances& tol) { ffn_tolerance(a, row, tol[out]); });
}

}  // namespace patchbay::conformance
