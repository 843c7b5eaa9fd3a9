// The loop of MOE_OP_FFN: the whole feed-forward of a set of experts. See moe/sdk/loops.hpp.
#pragma once

#include "moe/sdk/loops/common.hpp"
#include "moe/sdk/loops/rows.hpp"

namespace moe::loops {

// A pair is one (token, j): number token * k + j. Pairs are sorted by expert, so that an expert's rows are read once.
struct FfnSpace {
  int64_t* begin;  // [n_experts + 1]: where each expert's pairs begin
  int32_t* pairs;  // [n_pairs]
  float* x;        // the products' input, where it is not args.x itself: [n_pairs, d_model] or [n, d_model]
  float* hidden;   // [n_pairs, width]: act(gate, up)
  double* tiles;   // [n_threads, tile_doubles(max(d_model, width))]
  double* sums;    // [n_threads, n_pairs, kTile]: of one tile's products

  FfnSpace(Arena& arena, const moe_ffn_args& args, const LoopContext& ctx) {
    const int64_t n = args.x.shape[0];
    const int64_t d_model = args.x.shape[1];
    const int64_t n_pairs = n * (given(args.ids) ? args.ids.shape[1] : 1);
    const bool own_x = args.weight_on == MOE_WEIGHT_ON_INPUT;
    begin = arena.take<int64_t>(args.n_experts + 1);
    pairs = arena.take<int32_t>(n_pairs);
    x = own_x || args.activation != MOE_F32 ? arena.take<float>((own_x ? n_pairs : n) * d_model) : nullptr;
    hidden = arena.take<float>(n_pairs * args.width);
    tiles = arena.take<double>(n_threads(ctx) * tile_doubles(std::max(d_model, args.width)));
    sums = arena.take<double>(n_threads(ctx) * n_pairs * kTile);
  }
};

class FfnLoop {
 public:
  FfnLoop(const moe_ffn_args& args, const LoopContext& ctx, const FfnSpace& space)
      : a_(args),
        ctx_(ctx),
        s_(space),
        n_(args.x.shape[0]),
        d_model_(args.x.shape[1]),
        k_(given(args.ids) ? args.ids.shape[1] : 1) {}

  void run() const {
    sort_pairs();
    prepare_input();
    spread(
        ctx_, a_.n_experts * tiles(a_.width), 2 * kTile * d_model_ * mean_pairs(),
        [&](int64_t task, int32_t thread) { up_tile(task / tiles(a_.width), task % tiles(a_.width) * kTile, thread); });
    spread(ctx_, n_ * k_, 4 * a_.width, [&](int64_t pair, int32_t) {  // a row is rounded as a whole: MOE_I8 has blocks
      if (a_.activation != MOE_F32 && expert_of(pair) >= 0)
        round_row(a_.activation, hidden(pair), a_.width, hidden(pair));
    });
    spread(ctx_, tiles(d_model_), kTile * a_.width * n_ * k_,
           [&](int64_t tile, int32_t thread) { down_tile(tile * kTile, thread); });
  }

 private:
  [[nodiscard]] static int64_t tiles(int64_t n) { return (n + kTile - 1) / kTile; }
  [[nodiscard]] int64_t mean_pairs() const {
    return std::max<int64_t>(1, n_ * k_ / std::max<int64_t>(1, a_.n_experts));
  }
  [[nodiscard]] float* hidden(int64_t pair) const { return s_.hidden + pair * a_.width; }
  // A tile of rows for n pairs, in the thread's memory: it lasts until the thread's next.
  [[nodiscard]] Tile load(const moe_weight* weight, int64_t e, int64_t first, int64_t n_rows, int64_t n_in, int64_t n,
                          int32_t thread) const {
    double* memory = s_.tiles + thread * tile_doubles(std::max(d_model_, a_.width));
    return load_tile(ctx_, weight, e, first, n_rows, n_in, n, memory);
  }

  // The group that a pair goes to; -1 if it is not among this call's experts, or beyond the token's count.
  [[nodiscard]] int64_t expert_of(int64_t pair) const {
    if (!given(a_.ids)) return 0;
    const int64_t i = pair / k_;
    const int64_t j = pair % k_;
    if (present(a_.count) && j >= item<int32_t>(a_.count, i)) return -1;
    const int64_t e = row<int32_t>(a_.ids, i)[j] - a_.first_expert;
    return e >= 0 && e < a_.n_experts ? e : -1;
  }
  [[nodiscard]] float weight_of(int64_t pair) const {
    return given(a_.ids) ? at(a_.weights, pair / k_)[pair % k_] : 1.0F;
  }

  // Counting sort; pairs of one expert stay in ascending order.
  void sort_pairs() const {
    const int64_t n_pairs = n_ * k_;
    std::fill_n(s_.begin, a_.n_experts + 1, int64_t{0});
    for (int64_t p = 0; p < n_pairs; ++p) {
      if (const int64_t e = expert_of(p); e >= 0) ++s_.begin[e + 1];
    }
    for (int64_t e = 0; e < a_.n_experts; ++e) s_.begin[e + 1] += s_.begin[e];
    for (int64_t p = 0; p < n_pairs; ++p) {
      if (const int64_t e = expert_of(p); e >= 0) s_.pairs[s_.begin[e]++] = static_cast<int32_t>(p);
    }
    for (int64_t e = a_.n_experts; e > 0; --e) s_.begin[e] = s_.begin[e - 1];
    s_.begin[0] = 0;
  }

  // x, or w x where the weight is on the input, rounded to the activation type.
  void prepare_input() const {
    if (s_.x == nullptr) return;
    const bool on_input = a_.weight_on == MOE_WEIGHT_ON_INPUT;
    spread(ctx_, on_input ? n_ * k_ : n_, 4 * d_model_, [&](int64_t r, int32_t) {
      if (on_input && expert_of(r) < 0) return;
      const float* x = at(a_.x, on_input ? r / k_ : r);
      const float w = on_input ? weight_of(r) : 1.0F;
      float* out = s_.x + r * d_model_;
      for (int64_t c = 0; c < d_model_; ++c) out[c] = w * x[c];
      round_row(a_.activation, out, d_model_, out);
    });
  }
  [[nodiscard]] const float* input(int64_t pair) const {
    if (s_.x == nullptr) return at(a_.x, pair / k_);
    return s_.x + (a_.weight_on == MOE_WEIGHT_ON_INPUT ? pair : pair / k_) * d_model_;
  }

  // Columns [first, first + kTile) of act(gate x, up x) for every pair of expert e.
  void up_tile(int64_t e, int64_t first, int32_t thread) const {
    const int64_t n = s_.begin[e + 1] - s_.begin[e];
    if (n == 0) return;
    const int32_t* pairs = s_.pairs + s_.begin[e];
    const int64_t n_rows = std::min(kTile, a_.width - first);
    const auto x_of = [&](int64_t i) { return input(pairs[i]); };
    double* gates = s_.sums + thread * n_ * k_ * kTile;
    const float* gate_bias = present(a_.gate_bias) ? at(a_.gate_bias, e) + first : nullptr;
    const Tile gate = load(a_.gate, e, first, n_rows, d_model_, n, thread);
    multiply_rows(gate, d_model_, n, x_of, [&](int64_t i, const double* g) {
      for (int64_t r = 0; r < n_rows; ++r) gates[i * kTile + r] = gate_bias == nullptr ? g[r] : g[r] + gate_bias[r];
    });
    if (a_.up == nullptr) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t r = 0; r < n_rows; ++r) hidden(pairs[i])[first + r] = gated(a_.gating, gates[i * kTile + r], 0.0);
      }
      return;
    }
    const float* up_bias = present(a_.up_bias) ? at(a_.up_bias, e) + first : nullptr;
    const Tile up = load(a_.up, e, first, n_rows, d_model_, n, thread);
    multiply_rows(up, d_model_, n, x_of, [&](int64_t i, const double* u) {
      float* out = hidden(pairs[i]) + first;
      for (int64_t r = 0; r < n_rows; ++r) {
        out[r] = gated(a_.gating, gates[i * kTile + r], up_bias == nullptr ? u[r] : u[r] + up_bias[r]);
      }
    });
  }

  // Columns [first, first + kTile) of the output for every token.
  void down_tile(int64_t first, int32_t thread) const {
    const int64_t n_rows = std::min(kTile, d_model_ - first);
    double* sums = s_.sums + thread * n_ * k_ * kTile;
    for (int64_t e = 0; e < a_.n_experts; ++e) {
      const int64_t n = s_.begin[e + 1] - s_.begin[e];
      if (n == 0) continue;
      const int32_t* pairs = s_.pairs + s_.begin[e];
      const Tile down = load(a_.down, e, first, n_rows, a_.width, n, thread);
      const float* bias = present(a_.down_bias) ? at(a_.down_bias, e) + first : nullptr;
      multiply_rows(
          down, a_.width, n, [&](int64_t i) { return hidden(pairs[i]); },
          [&](int64_t i, const double* y) {
            for (int64_t r = 0; r < n_rows; ++r) sums[pairs[i] * kTile + r] = bias == nullptr ? y[r] : y[r] + bias[r];
          });
    }
    for (int64_t i = 0; i < n_; ++i) combine_token(i, first, n_rows, sums);
  }

  void combine_token(int64_t i, int64_t first, int64_t n_rows, const double* sums) const {
    double y[kTile] = {};
    for (int64_t pair = i * k_; pair < (i + 1) * k_; ++pair) {
      if (expert_of(pair) < 0) continue;
      const double w = a_.weight_on == MOE_WEIGHT_ON_INPUT ? 1.0 : weight_of(pair);
      for (int64_t r = 0; r < n_rows; ++r) y[r] += w * sums[pair * kTile + r];
    }
    double scale = a_.scale;
    if (present(a_.row_gate)) scale *= sigmoid(item<float>(a_.row_gate, i));
    float* out = at(a_.out, i) + first;
    for (int64_t r = 0; r < n_rows; ++r)
      out[r] = static_cast<float>(a_.accumulate != 0 ? out[r] + scale * y[r] : scale * y[r]);
  }

  const moe_ffn_args& a_;
  const LoopContext& ctx_;
  const FfnSpace& s_;
  int64_t n_;
  int64_t d_model_;
  int64_t k_;
};

inline Status expect_weight(const LoopContext& ctx, const moe_weight* weight, std::string_view name, int64_t groups,
                            int64_t n_out, int64_t n_in) {
  MOE_ASSIGN(const WeightShape w, weight_shape(ctx, weight, name));
  if (w.n_groups == groups && w.n_out == n_out && w.n_in == n_in) return {};
  const auto text = [](int64_t a, int64_t b, int64_t c) {
    return "[" + std::to_string(a) + ", " + std::to_string(b) + ", " + std::to_string(c) + "]";
  };
  return invalid(std::string(name) + ": expected " + text(groups, n_out, n_in) + ", got " +
                 text(w.n_groups, w.n_out, w.n_in));
}

// MOE_OP_FFN. An activation is stored as f32 between the products, and rounded to `activation` once more for the
// second.
inline uint64_t ffn_workspace(const moe_ffn_args& args, const LoopContext& ctx) {
  Arena arena;
  FfnSpace(arena, args, ctx);
  return arena.used();
}
inline Status ffn(const moe_ffn_args& args, const LoopContext& ctx) {
  MOE_TRY(check_activation(args.activation));
  MOE_TRY(check_gating(args.gating));
  const int64_t n = args.x.shape[0];
  const int64_t d_model = args.x.shape[1];
  MOE_TRY(expect_weight(ctx, args.gate, "gate", args.n_experts, args.width, d_model));
  if (args.up != nullptr) MOE_TRY(expect_weight(ctx, args.up, "up", args.n_experts, args.width, d_model));
  if (args.up == nullptr && args.gating.ungated == 0)
    return invalid("up: expected a weight with a gated activation, got none");
  MOE_TRY(expect_weight(ctx, args.down, "down", args.n_experts, d_model, args.width));
  MOE_TRY(expect_shape("out", args.out, n, 1, d_model));
  if (args.weight_on != MOE_WEIGHT_ON_OUTPUT && args.weight_on != MOE_WEIGHT_ON_INPUT) {
    return bad("weight_on", "MOE_WEIGHT_ON_*", args.weight_on);
  }
  if (given(args.ids)) {
    MOE_TRY(expect_shape("ids", args.ids, n, 1, args.ids.shape[1]));
    MOE_TRY(expect_shape("weights", args.weights, n, 1, args.ids.shape[1]));
    if (n * args.ids.shape[1] > std::numeric_limits<int32_t>::max())
      return bad("ids", "at most 2^31 - 1 pairs", n * args.ids.shape[1]);
  }
  if (n == 0) return {};
  Arena arena(args.header);
  const FfnSpace space(arena, args, ctx);
  MOE_TRY(arena.check());
  FfnLoop(args, ctx, space).run();
  return {};
}

}  // namespace moe::loops
