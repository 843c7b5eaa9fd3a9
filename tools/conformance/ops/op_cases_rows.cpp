// Random cases of the operations that treat rows or multiply weights.
#include "tools/conformance/ops/op_cases.hpp"
#include "tools/conformance/ops/op_parts.hpp"

namespace patchbay::conformance {

OpCase embed_case(uint64_t seed) {
  CaseBuilder<moe_embed_args> b(MOE_OP_EMBED, seed);
  const int64_t n = some_rows(b.random);
  const int64_t d_model = some_width(b.random);
  const int64_t n_vocab = 1 + b.random.below(50);
  b.note("n", n);
  b.note("d_model", d_model);
  b.weight(b.args.table, 1, n_vocab, d_model);
  b.i32(b.args.ids, {n}, true, [&](int64_t) { return static_cast<int32_t>(b.random.below(n_vocab)); });
  const size_t out = b.output(b.args.out, {n, d_model});
  b.args.scale = static_cast<float>(b.random.chance(0.5) ? 1.0 : b.random.uniform(-20, 20));
  return b.build(n, [out](const moe_embed_args& a, const WeightRow& row, Tolerances& tol) {
    for (int64_t i = 0; i < a.out.shape[0]; ++i) {
      const float* w = row(a.table, 0, element<int32_t>(a.ids, i));
      for (int64_t c = 0; c < a.out.shape[1]; ++c)
        tol[out][index_of(a.out, i, 0, c)] = 2 * kUnit * std::fabs(a.scale * w[c]);
    }
  });
}

// The variance comes from differences: its relative error grows with mean^2 / var.
static void norm_tolerance(const moe_norm_args& a, std::vector<double>& tol) {
  const int64_t dim = a.x.shape[a.x.ndim - 1];
  for (int64_t i = 0; i < a.x.shape[0]; ++i) {
    for (int64_t g = 0; g < (a.x.ndim == 3 ? a.x.shape[1] : 1); ++g) {
      std::vector<double> x(static_cast<size_t>(dim));
      double sum = 0.0;
      double squares = 0.0;
      for (int64_t c = 0; c < dim; ++c) {
        x[static_cast<size_t>(c)] = value(a.x, i, g, c) + (moe::present(a.residual) ? value(a.residual, i, g, c) : 0.0);
        sum += x[static_cast<size_t>(c)];
        squares += x[static_cast<size_t>(c)] * x[static_cast<size_t>(c)];
      }
      const double mean = a.kind == MOE_NORM_LAYER ? sum / static_cast<double>(dim) : 0.0;
      const double raw = squares / static_cast<double>(dim);
      const double var = std::max(raw - mean * mean, 0.0) + a.eps;
      const double inverse = 1.0 / std::sqrt(var);
      for (int64_t c = 0; c < dim; ++c) {
        const double weight = moe::present(a.weight) ? std::fabs(static_cast<const float*>(a.weight.data)[c]) : 1.0;
        const double bias = moe::present(a.bias) ? std::fabs(static_cast<const float*>(a.bias.data)[c]) : 0.0;
        const double y = (std::fabs(x[static_cast<size_t>(c)]) + std::fabs(mean)) * inverse * weight;
        tol[static_cast<size_t>(index_of(a.out, i, g, c))] = kSumUnits * (y * (1.0 + mean * mean / var) + bias);
      }
    }
  }
}

OpCase norm_case(uint64_t seed) {
  CaseBuilder<moe_norm_args> b(MOE_OP_NORM, seed);
  const int64_t n = some_rows(b.random);
  const int64_t dim = some_width(b.random);
  const int64_t heads = b.random.chance(0.3) ? 1 + b.random.below(5) : 0;
  const std::vector<int64_t> shape = heads == 0 ? std::vector<int64_t>{n, dim} : std::vector<int64_t>{n, heads, dim};
  const double size = b.random.pick({1e-3, 1.0, 50.0});
  b.args.kind = b.random.chance(0.5) ? MOE_NORM_RMS : MOE_NORM_LAYER;
  b.args.eps = static_cast<float>(b.random.pick({1e-6, 1e-5, 1e-2}));
  b.note("n", n);
  b.note("heads", heads);
  b.note("dim", dim);
  b.note("kind", b.args.kind);
  const size_t x = b.f32(b.args.x, shape, true, size);
  const bool has_residual = b.random.chance(0.5);
  if (has_residual) b.f32(b.args.residual, shape, true, size);
  if (b.random.chance(0.8)) b.vector(b.args.weight, dim, -2, 2);
  if (b.args.kind == MOE_NORM_LAYER && b.random.chance(0.7)) b.vector(b.args.bias, dim, -2, 2);
  size_t out = x;
  b.array(x).output = true;
  const bool in_place = b.random.chance(0.3);
  if (in_place) {
    b.args.out = b.args.x;
    b.view(b.args.out, x, 0, true);
  } else {
    out = b.output(b.args.out, shape);
  }
  b.note("in_place", in_place);
  b.note("residual", has_residual);
  return b.build(n, [out](const moe_norm_args& a, const WeightRow&, Tolerances& tol) { norm_tolerance(a, tol[out]); });
}

static void matmul_tolerance(const moe_matmul_args& a, const WeightRow& row, std::vector<double>& tol) {
  const int64_t n_in = a.x.shape[a.x.ndim - 1];
  const int64_t n_out = a.out.shape[a.out.ndim - 1];
  for (int64_t i = 0; i < a.x.shape[0]; ++i) {
    for (int64_t g = 0; g < (a.x.ndim == 3 ? a.x.shape[1] : 1); ++g) {
      const auto x = rounded_row(static_cast<const float*>(a.x.data) + index_of(a.x, i, g, 0), n_in, a.activation);
      for (int64_t r = 0; r < n_out; ++r) {
        double m = abs_dot(row(a.weight, g, r), x.data(), n_in);
        if (moe::present(a.bias)) m += std::fabs(static_cast<const float*>(a.bias.data)[g * n_out + r]);
        m *= std::fabs(a.scale);
        if (a.accumulate != 0) m += std::fabs(value(a.out, i, g, r));
        tol[static_cast<size_t>(index_of(a.out, i, g, r))] = kSumUnits * m;
      }
    }
  }
}

OpCase matmul_case(uint64_t seed, int32_t activation) {
  CaseBuilder<moe_matmul_args> b(MOE_OP_MATMUL, seed);
  const int64_t n = some_rows(b.random);
  const int64_t n_in = some_width(b.random);
  const int64_t n_out = some_width(b.random);
  const int64_t groups = b.random.pick<int64_t>({1, 1, 1, 2, 5});
  const bool flat = groups == 1 && b.random.chance(0.8);
  b.weight(b.args.weight, groups, n_out, n_in);
  b.f32(b.args.x, flat ? std::vector<int64_t>{n, n_in} : std::vector<int64_t>{n, groups, n_in}, true, 3.0);
  if (b.random.chance(0.5)) b.vector(b.args.bias, groups * n_out, -2, 2);
  const size_t out =
      b.output(b.args.out, flat ? std::vector<int64_t>{n, n_out} : std::vector<int64_t>{n, groups, n_out});
  b.args.scale = b.random.chance(0.6) ? 1.0F : static_cast<float>(b.random.uniform(-2, 2));
  b.args.soft_cap = b.random.chance(0.25) ? static_cast<float>(b.random.uniform(1, 30)) : 0.0F;
  b.args.accumulate = b.random.chance(0.4) ? 1 : 0;
  b.args.activation = activation;
  b.note("n", n);
  b.note("groups", groups);
  b.note("n_out", n_out);
  b.note("n_in", n_in);
  b.note("activation", activation);
  b.note("accumulate", b.args.accumulate);
  b.note("soft_cap", b.args.soft_cap);
  return b.build(n, [out](const moe_matmul_args& a, const WeightRow& row, Tolerances& tol) {
    matmul_tolerance(a, row, tol[out]);
  });
}

OpCase grouped_matmul_case(uint64_t seed, int32_t activation) {
  CaseBuilder<moe_grouped_matmul_args> b(MOE_OP_GROUPED_MATMUL, seed);
  const int64_t groups = 1 + b.random.below(7);
  const int64_t n_in = some_width(b.random);
  const int64_t n_out = some_width(b.random);
  std::vector<int32_t> offsets = {0};
  for (int64_t g = 0; g < groups; ++g)
    offsets.push_back(offsets.back() + b.random.pick<int32_t>({0, 0, 1, 1, 2, 3, 5, 8, 9}));
  const int64_t m = offsets.back() + (b.random.chance(0.3) ? 2 : 0);  // rows of no group stay as they are
  b.weight(b.args.weight, groups, n_out, n_in);
  b.f32(b.args.x, {m, n_in}, false);
  b.i32(b.args.offsets, {groups + 1}, false, [&](int64_t i) { return offsets[static_cast<size_t>(i)]; });
  if (b.random.chance(0.5)) b.f32(b.args.bias, {groups, n_out}, false);
  const size_t out = b.output(b.args.out, {m, n_out}, false);
  b.args.activation = activation;
  b.note("m", m);
  b.note("groups", groups);
  b.note("n_out", n_out);
  b.note("n_in", n_in);
  b.note("activation", activation);
  return b.build(0, [out, groups](const moe_grouped_matmul_args& a, const WeightRow& row, Tolerances& tol) {
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = element<int32_t>(a.offsets, g); i < element<int32_t>(a.offsets, g + 1); ++i) {
        const int64_t k = a.x.shape[1];
        const auto x = rounded_row(static_cast<const float*>(a.x.data) + index_of(a.x, i, 0, 0), k, a.activation);
        for (int64_t r = 0; r < a.out.shape[1]; ++r) {
          const double bias = moe::present(a.bias) ? std::fabs(value(a.bias, g, 0, r)) : 0.0;
          tol[out][index_of(a.out, i, 0, r)] = kSumUnits * (abs_dot(row(a.weight, g, r), x.data(), k) + bias);
        }
      }
    }
  });
}

OpCase gather_case(uint64_t seed) {
  CaseBuilder<moe_gather_args> b(MOE_OP_GATHER, seed);
  const int64_t n = 1 + b.random.below(20);
  const int64_t m = some_rows(b.random);
  const int64_t dim = some_width(b.random);
  b.note("n", n);
  b.note("m", m);
  b.note("dim", dim);
  b.f32(b.args.x, {n, dim}, false);
  b.i32(b.args.rows, {m}, true, [&](int64_t) { return static_cast<int32_t>(b.random.below(n)); });
  b.output(b.args.out, {m, dim});
  return b.build(m, [](const moe_gather_args&, const WeightRow&, Tolerances&) {});  // a copy
}

OpCase combine_case(uint64_t seed) {
  CaseBuilder<moe_combine_args> b(MOE_OP_COMBINE, seed);
  const int64_t m = 1 + b.random.below(40);
  const int64_t n = some_rows(b.random);
  const int64_t k = 1 + b.random.below(9);
  const int64_t dim = some_width(b.random);
  b.args.accumulate = b.random.chance(0.5) ? 1 : 0;
  b.note("m", m);
  b.note("n", n);
  b.note("k", k);
  b.note("dim", dim);
  b.note("accumulate", b.args.accumulate);
  b.f32(b.args.x, {m, dim}, false);
  b.i32(b.args.slots, {n, k}, true, [&](int64_t) { return static_cast<int32_t>(b.random.below(m + 3)) - 3; });
  b.f32(b.args.weights, {n, k}, true);
  const size_t out = b.output(b.args.out, {n, dim});
  return b.build(n, [out](const moe_combine_args& a, const WeightRow&, Tolerances& tol) {
    for (int64_t i = 0; i < a.out.shape[0]; ++i) {
      for (int64_t c = 0; c < a.out.shape[1]; ++c) {
        double sum = a.accumulate != 0 ? std::fabs(value(a.out, i, 0, c)) : 0.0;
        for (int64_t j = 0; j < a.slots.shape[1]; ++j) {
          const int32_t slot = static_cast<const int32_t*>(a.slots.data)[i * a.slots.strides[0] + j];
          if (slot >= 0) sum += std::fabs(value(a.weights, i, 0, j) * value(a.x, slot, 0, c));
        }
        tol[out][index_of(a.out, i, 0, c)] = kSumUnits * sum;
      }
    }
  });
}

OpCase identity_case(uint64_t seed) {
  CaseBuilder<moe_identity_args> b(MOE_OP_IDENTITY, seed);
  const int64_t n = some_rows(b.random);
  const int64_t k = 1 + b.random.below(9);
  const int64_t dim = some_width(b.random);
  b.args.first = b.random.below(12);
  b.args.scale = b.random.chance(0.5) ? 1.0F : static_cast<float>(b.random.uniform(-3, 3));
  b.note("n", n);
  b.note("k", k);
  b.note("dim", dim);
  b.note("first", b.args.first);
  b.f32(b.args.x, {n, dim}, true);
  b.i32(b.args.ids, {n, k}, true, [&](int64_t) { return static_cast<int32_t>(b.random.below(16)); });
  b.f32(b.args.weights, {n, k}, true);
  if (b.random.chance(0.5))
    b.i32(b.args.count, {n}, true, [&](int64_t) { return static_cast<int32_t>(b.random.below(k + 1)); });
  const size_t out = b.output(b.args.out, {n, dim});
  return b.build(n, [out](const moe_identity_args& a, const WeightRow&, Tolerances& tol) {
    for (int64_t i = 0; i < a.out.shape[0]; ++i) {
      double weight = 0.0;
      for (int64_t j = 0; j < a.ids.shape[1]; ++j) weight += std::fabs(value(a.weights, i, 0, j));
      for (int64_t c = 0; c < a.out.shape[1]; ++c) {
        tol[out][index_of(a.out, i, 0, c)] = kSumUnits * (std::fabs(a.scale) * weight * std::fabs(value(a.x, i, 0, c)) +
                                                          std::fabs(value(a.out, i, 0, c)));
      }
    }
  });
}

OpCase add_case(uint64_t seed) {
  CaseBuilder<moe_add_args> b(MOE_OP_ADD, seed);
  const int64_t n = some_rows(b.random);
  const int64_t dim = some_width(b.random);
  const size_t x = b.f32(b.args.x, {n, dim}, true);
  size_t y = x;
  const bool has_y = b.random.chance(0.7);
  if (has_y) y = b.f32(b.args.y, {n, dim}, true);
  b.args.alpha = b.random.chance(0.4) ? 1.0F : static_cast<float>(b.random.uniform(-3, 3));
  b.args.beta = b.random.chance(0.4) ? 1.0F : static_cast<float>(b.random.uniform(-3, 3));
  size_t out = b.random.pick({x, y, size_t{99}});
  if (out == 99) {
    out = b.output(b.args.out, {n, dim});
  } else {
    b.args.out = out == x ? b.args.x : b.args.y;
    b.view(b.args.out, out, 0, true);
    b.array(out).output = true;
  }
  b.note("n", n);
  b.note("dim", dim);
  b.note("has_y", has_y);
  b.note("out", static_cast<int64_t>(out));
  return b.build(n, [out](const moe_add_args& a, const WeightRow&, Tolerances& tol) {
    for (int64_t i = 0; i < a.out.shape[0]; ++i) {
      for (int64_t c = 0; c < a.out.shape[1]; ++c) {
        const double by = moe::present(a.y) ? std::fabs(a.beta * value(a.y, i, 0, c)) : 0.0;
        tol[out][index_of(a.out, i, 0, c)] = 4 * kUnit * (std::fabs(a.alpha * value(a.x, i, 0, c)) + by);
      }
    }
  });
}

OpCase clamp_case(uint64_t seed) {
  CaseBuilder<moe_clamp_args> b(MOE_OP_CLAMP, seed);
  const int64_t n = some_rows(b.random);
  const int64_t dim = some_width(b.random);
  b.args.limit = b.random.pick({0.3F, 1.0F, 8.0F});
  b.note("n", n);
  b.note("dim", dim);
  const size_t x = b.f32(b.args.x, {n, dim}, true);
  if (b.random.chance(0.5)) {
    b.output(b.args.out, {n, dim});
  } else {
    b.args.out = b.args.x;
    b.view(b.args.out, x, 0, true);
    b.array(x).output = true;
  }
  return b.build(n, [](const moe_clamp_args&, const WeightRow&, Tolerances&) {});  // nothing is rounded
}

OpCase argmax_case(uint64_t seed) {
  CaseBuilder<moe_argmax_args> b(MOE_OP_ARGMAX, seed);
  const int64_t n = some_rows(b.random);
  const int64_t dim = b.random.chance(0.2) ? 1000 : some_width(b.random);
  b.note("n", n);
  b.note("dim", dim);
  const size_t x = b.f32(b.args.x, {n, dim}, true);
  auto* values = b.array(x).as<float>();
  const auto at = [&](int64_t i) -> float& { return values[index_of(b.args.x, i, 0, b.random.below(dim))]; };
  for (int64_t i = 0; i < n; ++i) {  // several largest, infinities, a NaN in one row of five
    for (int j = 0; j < 3; ++j) at(i) = 2.0F;
    if (b.random.chance(0.2)) at(i) = INFINITY;
    if (b.random.chance(0.2)) at(i) = -INFINITY;
    if (b.random.chance(0.2)) at(i) = NAN;
    if (b.random.chance(0.1)) std::fill_n(values + index_of(b.args.x, i, 0, 0), dim, -INFINITY);
  }
  const size_t ids = b.i32(b.args.ids, {n}, true, [](int64_t) { return 77; });
  b.array(ids).output = true;
  return b.build(n, [](const moe_argmax_args&, const WeightRow&, Tolerances&) {});
}

OpCase activation_case(uint64_t seed, int32_t kind) {
  CaseBuilder<moe_activation_args> b(MOE_OP_ACTIVATION, seed);
  const int64_t n = some_rows(b.random);
  const int64_t width = some_width(b.random);
  b.note("n", n);
  b.note("width", width);
  some_gating(b, kind);
  const double size = b.random.pick({0.1, 4.0, 30.0});
  const size_t gate = b.f32(b.args.gate, {n, width}, true, size);
  if (b.args.gating.ungated == 0) b.f32(b.args.up, {n, width}, true, 5.0);
  size_t out = gate;
  if (b.random.chance(0.4)) {
    b.args.out = b.args.gate;
    b.view(b.args.out, gate, 0, true);
    b.array(gate).output = true;
  } else {
    out = b.output(b.args.out, {n, width});
  }
  return b.build(n, [out](const moe_activation_args& a, const WeightRow&, Tolerances& tol) {
    for (int64_t i = 0; i < a.gate.shape[0]; ++i) {
      for (int64_t c = 0; c < a.gate.shape[1]; ++c) {
        const double u = a.gating.ungated != 0 ? 0.0 : value(a.up, i, 0, c);
        tol[out][index_of(a.out, i, 0, c)] = kSumUnits * activation_error(a.gating, value(a.gate, i, 0, c), u).size;
      }
    }
  });
}

}  // namespace patchbay::conformance
