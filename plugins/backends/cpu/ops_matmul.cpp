// Products with one weight or one weight a group.
#include "ops.hpp"

namespace moe::cpu {
namespace {

bool reads_in_place(RowType type, moe_activation_type activation) {
  return type == RowType::kF32 && activation == MOE_F32;
}

// The rows of a product as its kernels read them: a set for each group, or in place.
class Input {
 public:
  Input(Arena& arena, const Kernels& kernels, const moe_weight& w, moe_activation_type activation, const moe_tensor& x,
        bool tiles)
      : kernels_(kernels),
        type_(row_type(kernels, w.format, activation)),
        activation_(activation),
        x_(x),
        groups_(x.ndim == 3 ? x.shape[1] : 1),
        k_(w.n_in),
        tiles_(tiles && RowSet::uses_tiles(kernels, type_)),
        set_bytes_(RowSet::places(tiles_, x.shape[0]) * row_bytes(type_, k_)) {
    if (!reads_in_place(type_, activation)) memory_ = arena.take<char>(groups_ * set_bytes_);
  }
  [[nodiscard]] RowType type() const { return type_; }
  // Rounds all rows, unless they are read in place.
  void round() const {
    if (reads_in_place(type_, activation_)) return;
    spread_rows(x_.shape[0] * groups_, 4 * k_, [&](int64_t r, int32_t) {
      const int64_t i = r / groups_;
      const int64_t g = r % groups_;
      set(g).round(kernels_, activation_, at(x_, i, g), 1.0F, 0, k_, i);
    });
  }
  // Rows [i, i + m) of group g, and where they lie in tiles.
  const I8Tile* rows(int64_t i, int64_t m, int64_t g, const void** out) const {
    if (reads_in_place(type_, activation_)) {
      for (int64_t r = 0; r < m; ++r) out[r] = at(x_, i + r, g);
      return nullptr;
    }
    const RowSet rows = set(g);
    for (int64_t r = 0; r < m; ++r) out[r] = rows.row(i + r);
    return rows.tiles(i);
  }

 private:
  [[nodiscard]] RowSet set(int64_t g) const { return {tiles_, type_, x_.shape[0], k_, memory_ + g * set_bytes_}; }

  const Kernels& kernels_;
  RowType type_;
  moe_activation_type activation_;
  const moe_tensor& x_;
  int64_t groups_;
  int64_t k_;
  bool tiles_;
  int64_t set_bytes_;
  char* memory_ = nullptr;
};

uint64_t matmul_workspace(const Kernels& kernels, const moe_matmul_args& args) {
  Arena arena;
  Input(arena, kernels, *args.weight, args.activation, args.x, true);
  return arena.used();
}

Status matmul(const Kernels& kernels, const moe_matmul_args& args) {
  MOE_TRY(loops::check_activation(args.activation));
  const moe_weight& w = *args.weight;
  const int64_t n = args.x.shape[0];
  MOE_TRY(loops::expect_shape("x", args.x, n, w.n_groups, w.n_in));
  MOE_TRY(loops::expect_shape("out", args.out, n, w.n_groups, w.n_out));
  if (n == 0) return {};
  Arena arena(args.header);
  const Input x(arena, kernels, w, args.activation, args.x, true);
  MOE_TRY(arena.check());
  x.round();
  const auto* bias = static_cast<const float*>(args.bias.data);
  const int64_t take =
      n > kMaxRows ? task_panels_of_many(w.n_panels, w.n_groups, w.panel_bytes) : task_panels(w.n_panels, w.n_groups);
  const int64_t tasks = (w.n_panels + take - 1) / take;
  const int64_t cost = w.n_groups * w.n_panels * w.panel_bytes * std::max<int64_t>(1, n / 4);
  spread(w.n_groups * tasks, cost, [&](int64_t task, int32_t) {
    alignas(64) float c[kMaxRows * kBlock];
    const void* rows[kMaxRows];
    const int64_t g = task / tasks;
    const int64_t begin = task % tasks * take;
    const int64_t end = std::min(begin + take, w.n_panels);
    for (int64_t i = 0; i < n; i += kMaxRows) {
      const int64_t m = std::min(kMaxRows, n - i);
      const I8Tile* tiles = x.rows(i, m, g, rows);
      for (int64_t panel = begin; panel < end; panel += kBlockPanels) {
        const int64_t n_panels = std::min(kBlockPanels, end - panel);
        const int64_t first = panel * kPanel;
        const int64_t width = std::min(n_panels * kPanel, w.n_out - first);
        const FinishArgs finish{bias == nullptr ? nullptr : bias + g * w.n_out + first, args.scale, args.soft_cap,
                                args.accumulate != 0};
        multiply(kernels, w, g, panel, n_panels, x.type(), rows, tiles, m, c);
        for (int64_t r = 0; r < m; ++r) kernels.finish(finish, c + r * kBlock, at(args.out, i + r, g) + first, width);
      }
    }
  });
  return {};
}

uint64_t grouped_matmul_workspace(const Kernels& kernels, const moe_grouped_matmul_args& args) {
  Arena arena;
  Input(arena, kernels, *args.weight, args.activation, args.x, false);
  return arena.used();
}

Status grouped_matmul(const Kernels& kernels, const moe_grouped_matmul_args& args) {
  MOE_TRY(loops::check_activation(args.activation));
  const moe_weight& w = *args.weight;
  const int64_t n = args.x.shape[0];
  MOE_TRY(loops::expect_shape("x", args.x, n, 1, w.n_in));
  MOE_TRY(loops::expect_shape("out", args.out, n, 1, w.n_out));
  if (n == 0) return {};
  Arena arena(args.header);
  const Input x(arena, kernels, w, args.activation, args.x, false);  // its sets begin anywhere in the rows
  MOE_TRY(arena.check());
  x.round();
  const int64_t tasks = (w.n_panels + kBlockPanels - 1) / kBlockPanels;
  spread(w.n_groups * tasks, n * w.n_panels * w.panel_bytes, [&](int64_t task, int32_t) {
    const int64_t g = task / tasks;
    const int64_t begin = item<int32_t>(args.offsets, g);
    const int64_t end = item<int32_t>(args.offsets, g + 1);
    if (begin >= end) return;
    alignas(64) float c[kMaxRows * kBlock];
    const void* rows[kMaxRows];
    const int64_t panel = task % tasks * kBlockPanels;
    const int64_t first = panel * kPanel;
    const int64_t n_panels = std::min(kBlockPanels, w.n_panels - panel);
    const int64_t width = std::min(n_panels * kPanel, w.n_out - first);
    const FinishArgs finish{present(args.bias) ? at(args.bias, g) + first : nullptr, 1.0F, 0.0F, false};
    for (int64_t i = begin; i < end; i += kMaxRows) {
      const int64_t m = std::min(kMaxRows, end - i);
      const I8Tile* tiles = x.rows(i, m, 0, rows);
      multiply(kernels, w, g, panel, n_panels, x.type(), rows, tiles, m, c);
      for (int64_t r = 0; r < m; ++r) kernels.finish(finish, c + r * kBlock, at(args.out, i + r) + first, width);
    }
  });
  return {};
}

constexpr OpRow kOps[] = {
    op_row<moe_matmul_args, matmul, matmul_workspace>(MOE_OP_MATMUL),
    op_row<moe_grouped_matmul_args, grouped_matmul, grouped_matmul_workspace>(MOE_OP_GROUPED_MATMUL),
};

}  // namespace

std::span<const OpRow> matmul_ops() { return kOps; }

}  // namespace moe::cpu
