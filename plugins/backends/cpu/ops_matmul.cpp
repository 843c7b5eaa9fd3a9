// Products with one weight or one weight a group.
#include <algorithm>

#include "ops.hpp"

namespace moe::cpu {
namespace {

// The rows of a product as its kernels read them: a set for each group, or where they lie in x already.
class Input {
 public:
  // `offsets`: where each group's rows begin in x; null: x has n rows for every group.
  Input(Arena& arena, const Kernels& kernels, const moe_weight& w, moe_activation_type activation, const moe_tensor& x,
        const moe_tensor* offsets)
      : kernels_(kernels),
        type_(row_type(kernels, w.format, activation)),
        activation_(activation),
        x_(x),
        offsets_(offsets),
        n_groups_(w.n_groups),
        k_(w.n_in),
        sets_(kernels, type_, k_) {
    if (in_place()) return;
    memory_ = arena.take<char>(sets_.bytes(x.shape[0] * (offsets == nullptr ? n_groups_ : 1), n_groups_));
  }
  [[nodiscard]] RowType type() const { return type_; }
  [[nodiscard]] int64_t n_rows(int64_t g) const { return begin(g + 1) - begin(g); }

  // Rounds all rows, unless they are read in place.
  void round() const {
    if (in_place()) return;
    spread_rows(begin(n_groups_), 4 * k_, [&](int64_t r, int32_t) {
      const int64_t g = group_of(r);
      set(g).round(kernels_, activation_, source(g, r - begin(g)), 1.0F, 0, k_, r - begin(g));
    });
  }
  // Rows [i, i + m) of group g. Gives their tiles; see ProductArgs.
  const I8Tile* rows(int64_t g, int64_t i, int64_t m, const void** out) const {
    if (in_place()) {
      for (int64_t r = 0; r < m; ++r) out[r] = source(g, i + r);
      return nullptr;
    }
    const RowSet rows = set(g);
    for (int64_t r = 0; r < m; ++r) out[r] = rows.row(i + r);
    return rows.tiles(i);
  }

 private:
  [[nodiscard]] bool in_place() const { return type_ == RowType::kF32 && activation_ == MOE_F32; }
  // Rows before group g's.
  [[nodiscard]] int64_t begin(int64_t g) const {
    return offsets_ == nullptr ? g * x_.shape[0] : item<int32_t>(*offsets_, g);
  }
  [[nodiscard]] int64_t group_of(int64_t r) const {
    if (offsets_ == nullptr) return r / x_.shape[0];
    int64_t first = 0;
    int64_t last = n_groups_ - 1;
    while (first < last) {
      const int64_t middle = (first + last) / 2;
      if (begin(middle + 1) > r) last = middle;
      else first = middle + 1;
    }
    return first;
  }
  // Row i of group g as it lies in x.
  [[nodiscard]] const float* source(int64_t g, int64_t i) const {
    return offsets_ == nullptr ? at(x_, i, g) : at(x_, begin(g) + i);
  }
  [[nodiscard]] RowSet set(int64_t g) const { return sets_.set(memory_, begin(g), g, n_rows(g)); }

  const Kernels& kernels_;
  RowType type_;
  moe_activation_type activation_;
  const moe_tensor& x_;
  const moe_tensor* offsets_;
  int64_t n_groups_;
  int64_t k_;
  RowSets sets_;
  char* memory_ = nullptr;
};

uint64_t matmul_workspace(const Kernels& kernels, const moe_matmul_args& args) {
  Arena arena;
  Input(arena, kernels, *args.weight, args.activation, args.x, nullptr);
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
  const Input x(arena, kernels, w, args.activation, args.x, nullptr);
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
      const I8Tile* tiles = x.rows(g, i, m, rows);
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
  Input(arena, kernels, *args.weight, args.activation, args.x, &args.offsets);
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
  const Input x(arena, kernels, w, args.activation, args.x, &args.offsets);
  MOE_TRY(arena.check());
  x.round();
  const int64_t tasks = (w.n_panels + kBlockPanels - 1) / kBlockPanels;
  spread(w.n_groups * tasks, n * w.n_panels * w.panel_bytes, [&](int64_t task, int32_t) {
    const int64_t g = task / tasks;
    const int64_t begin = item<int32_t>(args.offsets, g);
    const int64_t n_rows = x.n_rows(g);
    alignas(64) float c[kMaxRows * kBlock];
    const void* rows[kMaxRows];
    const int64_t panel = task % tasks * kBlockPanels;
    const int64_t first = panel * kPanel;
    const int64_t n_panels = std::min(kBlockPanels, w.n_panels - panel);
    const int64_t width = std::min(n_panels * kPanel, w.n_out - first);
    const FinishArgs finish{present(args.bias) ? at(args.bias, g) + first : nullptr, 1.0F, 0.0F, false};
    for (int64_t i = 0; i < n_rows; i += kMaxRows) {
      const int64_t m = std::min(kMaxRows, n_rows - i);
      const I8Tile* tiles = x.rows(g, i, m, rows);
      multiply(kernels, w, g, panel, n_panels, x.type(), rows, tiles, m, c);
      for (int64_t r = 0; r < m; ++r)
        kernels.finish(finish, c + r * kBlock, at(args.out, begin + i + r) + first, width);
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
