// Loops that treat each row by itself: embed, norm, gather, combine, identity, add, clamp, argmax, activation. See
// moe/sdk/loops.hpp.
#pragma once

#include "moe/sdk/loops/common.hpp"

namespace moe::loops {

// MOE_OP_EMBED. MOE_OUT_OF_RANGE: an id outside the table; nothing has been written.
inline uint64_t embed_workspace(const moe_embed_args& args, const LoopContext& ctx) {
  Arena arena;
  arena.take<float>(args.out.shape[1] * n_threads(ctx));
  return arena.used();
}
inline Status embed(const moe_embed_args& args, const LoopContext& ctx) {
  MOE_ASSIGN(const WeightShape table, weight_shape(ctx, args.table, "table"));
  const int64_t n = args.out.shape[0];
  MOE_TRY(expect_shape("out", args.out, n, 1, table.n_in));
  for (int64_t i = 0; i < n; ++i) {
    const int32_t id = item<int32_t>(args.ids, i);
    if (id < 0 || id >= table.n_out) {
      return Error{MOE_OUT_OF_RANGE, "ids[" + std::to_string(i) + "]: expected 0 to " +
                                         std::to_string(table.n_out - 1) + ", got " + std::to_string(id)};
    }
  }
  Arena arena(args.header);
  float* scratch = arena.take<float>(table.n_in * n_threads(ctx));
  MOE_TRY(arena.check());
  spread(ctx, n, table.n_in, [&](int64_t i, int32_t thread) {
    const float* w = ctx.rows->row(args.table, 0, item<int32_t>(args.ids, i), scratch + thread * table.n_in);
    float* out = at(args.out, i);
    for (int64_t c = 0; c < table.n_in; ++c) out[c] = args.scale * w[c];
  });
  return {};
}

// The sums are over the updated x; the mean is subtracted before squares are summed.
inline void norm_row(const moe_norm_args& args, const float* x, const float* weight, const float* bias, int64_t dim,
                     float* out) {
  double mean = 0.0;
  if (args.kind == MOE_NORM_LAYER) {
    for (int64_t c = 0; c < dim; ++c) mean += x[c];
    mean /= static_cast<double>(dim);
  }
  double squares = 0.0;
  for (int64_t c = 0; c < dim; ++c) squares += (x[c] - mean) * (x[c] - mean);
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(dim) + args.eps);
  for (int64_t c = 0; c < dim; ++c) {
    double y = (x[c] - mean) * inverse;
    if (weight != nullptr) y *= weight[c];
    if (bias != nullptr) y += bias[c];
    out[c] = static_cast<float>(y);
  }
}

// MOE_OP_NORM.
inline Status norm(const moe_norm_args& args, const LoopContext& ctx) {
  if (args.kind != MOE_NORM_RMS && args.kind != MOE_NORM_LAYER)
    return bad("kind", "MOE_NORM_RMS or MOE_NORM_LAYER", args.kind);
  if (args.kind == MOE_NORM_RMS && present(args.bias)) return invalid("bias: expected none with MOE_NORM_RMS, got one");
  const int64_t n = args.x.shape[0];
  const int64_t heads = args.x.ndim == 3 ? args.x.shape[1] : 1;
  const int64_t dim = args.x.shape[args.x.ndim - 1];
  MOE_TRY(expect_shape("out", args.out, n, heads, dim));
  if (present(args.residual)) MOE_TRY(expect_shape("residual", args.residual, n, heads, dim));
  const auto* weight = static_cast<const float*>(args.weight.data);
  const auto* bias = static_cast<const float*>(args.bias.data);
  spread(ctx, n * heads, 4 * dim, [&](int64_t i, int32_t) {
    float* x = at(args.x, i / heads, i % heads);
    if (present(args.residual)) {
      const float* residual = at(args.residual, i / heads, i % heads);
      for (int64_t c = 0; c < dim; ++c) x[c] += residual[c];
    }
    norm_row(args, x, weight, bias, dim, at(args.out, i / heads, i % heads));
  });
  return {};
}

// MOE_OP_GATHER.
inline Status gather(const moe_gather_args& args, const LoopContext& ctx) {
  const int64_t dim = args.x.shape[1];
  const int64_t m = args.out.shape[0];
  MOE_TRY(expect_shape("out", args.out, m, 1, dim));
  spread(ctx, m, dim,
         [&](int64_t r, int32_t) { std::copy_n(at(args.x, item<int32_t>(args.rows, r)), dim, at(args.out, r)); });
  return {};
}

// MOE_OP_COMBINE. Columns are summed one by one, so a column is the sum over j in ascending order, what is there last.
inline Status combine(const moe_combine_args& args, const LoopContext& ctx) {
  const int64_t n = args.slots.shape[0];
  const int64_t k = args.slots.shape[1];
  const int64_t dim = args.out.shape[1];
  MOE_TRY(expect_shape("out", args.out, n, 1, dim));
  MOE_TRY(expect_shape("weights", args.weights, n, 1, k));
  spread(ctx, n, k * dim, [&](int64_t i, int32_t) {
    const int32_t* slots = row<int32_t>(args.slots, i);
    const float* weights = at(args.weights, i);
    float* out = at(args.out, i);
    for (int64_t c = 0; c < dim; ++c) {
      double sum = 0.0;
      for (int64_t j = 0; j < k; ++j) {
        if (slots[j] >= 0) sum += static_cast<double>(weights[j]) * at(args.x, slots[j])[c];
      }
      out[c] = static_cast<float>(args.accumulate != 0 ? out[c] + sum : sum);
    }
  });
  return {};
}

// MOE_OP_IDENTITY.
inline Status identity(const moe_identity_args& args, const LoopContext& ctx) {
  const int64_t n = args.x.shape[0];
  const int64_t dim = args.x.shape[1];
  MOE_TRY(expect_shape("out", args.out, n, 1, dim));
  MOE_TRY(expect_shape("ids", args.ids, n, 1, args.weights.shape[1]));
  spread(ctx, n, dim, [&](int64_t i, int32_t) {
    const int64_t k = present(args.count) ? item<int32_t>(args.count, i) : args.ids.shape[1];
    const int32_t* ids = row<int32_t>(args.ids, i);
    const float* weights = at(args.weights, i);
    double sum = 0.0;
    for (int64_t j = 0; j < k; ++j) sum += ids[j] >= args.first ? weights[j] : 0.0F;
    if (sum == 0.0) return;
    const float* x = at(args.x, i);
    float* out = at(args.out, i);
    for (int64_t c = 0; c < dim; ++c) out[c] = static_cast<float>(out[c] + args.scale * sum * x[c]);
  });
  return {};
}

// MOE_OP_ADD.
inline Status add(const moe_add_args& args, const LoopContext& ctx) {
  const int64_t n = args.x.shape[0];
  const int64_t dim = args.x.shape[1];
  MOE_TRY(expect_shape("out", args.out, n, 1, dim));
  if (present(args.y)) MOE_TRY(expect_shape("y", args.y, n, 1, dim));
  const double alpha = args.alpha;
  const double beta = args.beta;
  spread(ctx, n, dim, [&](int64_t i, int32_t) {
    const float* x = at(args.x, i);
    const float* y = present(args.y) ? at(args.y, i) : nullptr;
    float* out = at(args.out, i);
    for (int64_t c = 0; c < dim; ++c)
      out[c] = static_cast<float>(y == nullptr ? alpha * x[c] : alpha * x[c] + beta * y[c]);
  });
  return {};
}

// MOE_OP_CLAMP.
inline Status clamp(const moe_clamp_args& args, const LoopContext& ctx) {
  const int64_t n = args.x.shape[0];
  const int64_t dim = args.x.shape[1];
  MOE_TRY(expect_shape("out", args.out, n, 1, dim));
  if (!(args.limit > 0.0F)) return invalid("limit: expected above 0, got " + std::to_string(args.limit));
  const float limit = args.limit;
  spread(ctx, n, dim, [&](int64_t i, int32_t) {
    const float* x = at(args.x, i);
    float* out = at(args.out, i);
    for (int64_t c = 0; c < dim; ++c) out[c] = x[c] > limit ? limit : (x[c] < -limit ? -limit : x[c]);
  });
  return {};
}

// MOE_OP_ARGMAX.
inline Status argmax(const moe_argmax_args& args, const LoopContext& ctx) {
  const int64_t n = args.x.shape[0];
  const int64_t dim = args.x.shape[1];
  spread(ctx, n, dim, [&](int64_t i, int32_t) {
    const float* x = at(args.x, i);
    int32_t best = -1;
    float largest = -std::numeric_limits<float>::infinity();
    bool broken = false;
    for (int64_t c = 0; c < dim; ++c) {
      broken = broken || !(x[c] < std::numeric_limits<float>::infinity());
      if (!(x[c] > largest)) continue;
      largest = x[c];
      best = static_cast<int32_t>(c);
    }
    static_cast<int32_t*>(args.ids.data)[i * args.ids.strides[0]] = broken ? -1 : best;
  });
  return {};
}

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// act(g) of a gated activation. Comparisons are written so that NaN stays NaN.
inline double activate(int32_t kind, double g) {
  constexpr double kSqrtHalf = 0.70710678118654752440;
  constexpr double kSqrtTwoOverPi = 0.79788456080286535588;
  switch (kind) {
    case MOE_ACT_SILU:
      return g / (1.0 + std::exp(-g));
    case MOE_ACT_GELU:
      return 0.5 * g * std::erfc(-g * kSqrtHalf);
    case MOE_ACT_GELU_TANH:
      return 0.5 * g * (1.0 + std::tanh(kSqrtTwoOverPi * (g + 0.044715 * g * g * g)));
    case MOE_ACT_RELU:
      return g < 0.0 ? 0.0 : g;
    default: {  // MOE_ACT_RELU2
      const double r = g < 0.0 ? 0.0 : g;
      return r * r;
    }
  }
}

inline Status check_gating(const moe_gating& gating) {
  if (gating.kind >= MOE_ACT_SILU && gating.kind <= MOE_ACT_SWIGLU_CLAMPED) return {};
  return bad("gating.kind", "MOE_ACT_*", gating.kind);
}

// One element of act(g, u); u does not matter where ungated.
inline float gated(const moe_gating& gating, double g, double u) {
  const double limit = gating.limit;
  if (gating.kind == MOE_ACT_SWIGLU_CLAMPED) {
    g = g > limit ? limit : g;
    u = u > limit ? limit : (u < -limit ? -limit : u);
    const double act = g * sigmoid(gating.alpha * g);
    return static_cast<float>(gating.ungated != 0 ? act : (u + 1.0) * act);
  }
  double act = activate(gating.kind, g);
  if (limit > 0.0) {
    act = act > limit ? limit : act;
    u = u > limit ? limit : (u < -limit ? -limit : u);
  }
  return static_cast<float>(gating.ungated != 0 ? act : act * u);
}

// MOE_OP_ACTIVATION.
inline Status activation(const moe_activation_args& args, const LoopContext& ctx) {
  MOE_TRY(check_gating(args.gating));
  const int64_t n = args.gate.shape[0];
  const int64_t width = args.gate.shape[1];
  MOE_TRY(expect_shape("out", args.out, n, 1, width));
  const bool ungated = args.gating.ungated != 0;
  if (!ungated) MOE_TRY(expect_shape("up", args.up, n, 1, width));
  spread(ctx, n, 20 * width, [&](int64_t i, int32_t) {
    const float* g = at(args.gate, i);
    const float* u = ungated ? g : at(args.up, i);
    float* out = at(args.out, i);
    for (int64_t c = 0; c < width; ++c) out[c] = gated(args.gating, g[c], u[c]);
  });
  return {};
}

}  // namespace moe::loops
