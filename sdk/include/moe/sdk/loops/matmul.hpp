// Loops of products with prepared weights: matmul, grouped_matmul. See moe/sdk/loops.hpp.
#pragma once

#include "moe/sdk/loops/common.hpp"

namespace moe::loops {

// Where a matmul's parts of the workspace lie.
struct MatmulSpace {
  double* tiles;   // [n_threads, tile_doubles(n_in)]
  float* rounded;  // [n * n_groups, n_in]: the activations as the product wants them; null: as they are

  MatmulSpace(Arena& arena, const LoopContext& ctx, int64_t n_rows, int64_t n_in, moe_activation_type activation)
      : tiles(arena.take<double>(n_threads(ctx) * tile_doubles(n_in))),
        rounded(activation == MOE_F32 ? nullptr : arena.take<float>(n_rows * n_in)) {}
};

// MOE_OP_MATMUL.
inline uint64_t matmul_workspace(const moe_matmul_args& args, const LoopContext& ctx) {
  Arena arena;
  const int64_t groups = args.x.ndim == 3 ? args.x.shape[1] : 1;
  MatmulSpace(arena, ctx, args.x.shape[0] * groups, args.x.shape[args.x.ndim - 1], args.activation);
  return arena.used();
}
inline Status matmul(const moe_matmul_args& args, const LoopContext& ctx) {
  MOE_TRY(check_activation(args.activation));
  MOE_ASSIGN(const WeightShape w, weight_shape(ctx, args.weight, "weight"));
  const int64_t n = args.x.shape[0];
  MOE_TRY(expect_shape("x", args.x, n, w.n_groups, w.n_in));
  MOE_TRY(expect_shape("out", args.out, n, w.n_groups, w.n_out));
  if (n == 0) return {};
  Arena arena(args.header);
  const MatmulSpace space(arena, ctx, n * w.n_groups, w.n_in, args.activation);
  MOE_TRY(arena.check());
  if (space.rounded != nullptr) {
    spread(ctx, n * w.n_groups, 4 * w.n_in, [&](int64_t i, int32_t) {
      round_row(args.activation, at(args.x, i / w.n_groups, i % w.n_groups), w.n_in, space.rounded + i * w.n_in);
    });
  }
  const int64_t n_tiles = (w.n_out + kTile - 1) / kTile;
  const auto* bias = static_cast<const float*>(args.bias.data);
  const double cap = args.soft_cap;
  spread(ctx, w.n_groups * n_tiles, n * kTile * w.n_in, [&](int64_t task, int32_t thread) {
    const int64_t g = task / n_tiles;
    const int64_t first = task % n_tiles * kTile;
    const int64_t n_rows = std::min(kTile, w.n_out - first);
    double* memory = space.tiles + thread * tile_doubles(w.n_in);
    const Tile tile = load_tile(ctx, args.weight, g, first, n_rows, w.n_in, n, memory);
    const auto x_of = [&](int64_t i) -> const float* {
      return space.rounded == nullptr ? at(args.x, i, g) : space.rounded + (i * w.n_groups + g) * w.n_in;
    };
    multiply_rows(tile, w.n_in, n, x_of, [&](int64_t i, const double* sums) {
      float* out = at(args.out, i, g) + first;
      for (int64_t r = 0; r < n_rows; ++r) {
        double y = sums[r];
        if (bias != nullptr) y += bias[g * w.n_out + first + r];
        y *= args.scale;
        if (args.accumulate != 0) y += out[r];
        if (cap > 0.0) y = cap * std::tanh(y / cap);
        out[r] = static_cast<float>(y);
      }
    });
  });
  return {};
}

// MOE_OP_GROUPED_MATMUL. Rows that no group holds are left as they are.
inline uint64_t grouped_matmul_workspace(const moe_grouped_matmul_args& args, const LoopContext& ctx) {
  Arena arena;
  MatmulSpace(arena, ctx, args.x.shape[0], args.x.shape[1], args.activation);
  return arena.used();
}
inline Status grouped_matmul(const moe_grouped_matmul_args& args, const LoopContext& ctx) {
  MOE_TRY(check_activation(args.activation));
  MOE_ASSIGN(const WeightShape w, weight_shape(ctx, args.weight, "weight"));
  const int64_t m = args.x.shape[0];
  MOE_TRY(expect_shape("x", args.x, m, 1, w.n_in));
  MOE_TRY(expect_shape("out", args.out, m, 1, w.n_out));
  if (m == 0) return {};
  Arena arena(args.header);
  const MatmulSpace space(arena, ctx, m, w.n_in, args.activation);
  MOE_TRY(arena.check());
  if (space.rounded != nullptr) {
    spread(ctx, m, 4 * w.n_in,
           [&](int64_t i, int32_t) { round_row(args.activation, at(args.x, i), w.n_in, space.rounded + i * w.n_in); });
  }
  const int64_t n_tiles = (w.n_out + kTile - 1) / kTile;
  const int64_t cost = kTile * w.n_in * std::max<int64_t>(1, m / std::max<int64_t>(w.n_groups, 1));
  spread(ctx, w.n_groups * n_tiles, cost, [&](int64_t task, int32_t thread) {
    const int64_t g = task / n_tiles;
    const int64_t begin = item<int32_t>(args.offsets, g);
    const int64_t end = item<int32_t>(args.offsets, g + 1);
    if (begin >= end) return;
    const int64_t first = task % n_tiles * kTile;
    const int64_t n_rows = std::min(kTile, w.n_out - first);
    double* memory = space.tiles + thread * tile_doubles(w.n_in);
    const Tile tile = load_tile(ctx, args.weight, g, first, n_rows, w.n_in, end - begin, memory);
    const float* bias = present(args.bias) ? at(args.bias, g) + first : nullptr;
    const auto x_of = [&](int64_t i) -> const float* {
      return space.rounded == nullptr ? at(args.x, begin + i) : space.rounded + (begin + i) * w.n_in;
    };
    multiply_rows(tile, w.n_in, end - begin, x_of, [&](int64_t i, const double* sums) {
      float* out = at(args.out, begin + i) + first;
      for (int64_t r = 0; r < n_rows; ++r) out[r] = static_cast<float>(bias == nullptr ? sums[r] : sums[r] + bias[r]);
    });
  });
  return {};
}

}  // namespace moe::loops
