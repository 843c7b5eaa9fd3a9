// Products with one weight or one weight a group.
#include "ops.hpp"

namespace moe::cpu {
namespace {

bool reads_in_place(RowType type, moe_activation_type activation) {
  return type == RowType::kF32 && activation == MOE_F32;
}

// Where the rounded activations of a product lie in its workspace, if they are needed.
char* take_rows(Arena& arena, RowType type, moe_activation_type activation, int64_t n, int64_t k) {
  return reads_in_place(type, activation) ? nullptr : arena.take<char>(n * row_bytes(type, k));
}

// Rounds rows (i, g) of x into `memory`, unless they are read in place.
Rows round_rows(const Kernels& kernels, RowType type, moe_activation_type activation, const moe_tensor& x,
                char* memory) {
  const int64_t groups = x.ndim == 3 ? x.shape[1] : 1;
  const int64_t k = x.shape[x.ndim - 1];
  if (memory == nullptr) {
    return {type, static_cast<const char*>(x.data), x.strides[0] * 4, x.ndim == 3 ? x.strides[1] * 4 : 0};
  }
  const int64_t bytes = row_bytes(type, k);
  spread_rows(x.shape[0] * groups, 4 * k, [&](int64_t r, int32_t) {
    kernels.round(activation, type, at(x, r / groups, r % groups), 1.0F, 0, k, k, memory + r * bytes);
  });
  return {type, memory, bytes * groups, bytes};
}

uint64_t matmul_workspace(const Kernels& kernels, const moe_matmul_args& args) {
  Arena arena;
  const int64_t groups = args.x.ndim == 3 ? args.x.shape[1] : 1;
  take_rows(arena, row_type(kernels, args.weight->format, args.activation), args.activation, args.x.shape[0] * groups,
            args.weight->n_in);
  return arena.used();
}

Status matmul(const Kernels& kernels, const moe_matmul_args& args) {
  MOE_TRY(loops::check_activation(args.activation));
  const moe_weight& w = *args.weight;
  const int64_t n = args.x.shape[0];
  MOE_TRY(loops::expect_shape("x", args.x, n, w.n_groups, w.n_in));
  MOE_TRY(loops::expect_shape("out", args.out, n, w.n_groups, w.n_out));
  if (n == 0) return {};
  const RowType type = row_type(kernels, w.format, args.activation);
  Arena arena(args.header);
  char* memory = take_rows(arena, type, args.activation, n * w.n_groups, w.n_in);
  MOE_TRY(arena.check());
  const Rows x = round_rows(kernels, type, args.activation, args.x, memory);
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
      for (int64_t r = 0; r < m; ++r) rows[r] = x.at(i + r, g);
      for (int64_t panel = begin; panel < end; panel += kBlockPanels) {
        const int64_t n_panels = std::min(kBlockPanels, end - panel);
        const int64_t first = panel * kPanel;
        const int64_t width = std::min(n_panels * kPanel, w.n_out - first);
        const FinishArgs finish{bias == nullptr ? nullptr : bias + g * w.n_out + first, args.scale, args.soft_cap,
                                args.accumulate != 0};
        multiply(kernels, w, g, panel, n_panels, type, rows, m, c);
        for (int64_t r = 0; r < m; ++r) kernels.finish(finish, c + r * kBlock, at(args.out, i + r, g) + first, width);
      }
    }
  });
  return {};
}

uint64_t grouped_matmul_workspace(const Kernels& kernels, const moe_grouped_matmul_args& args) {
  Arena arena;
  take_rows(arena, row_type(kernels, args.weight->format, args.activation), args.activation, args.x.shape[0],
            args.weight->n_in);
  return arena.used();
}

Status grouped_matmul(const Kernels& kernels, const moe_grouped_matmul_args& args) {
  MOE_TRY(loops::check_activation(args.activation));
  const moe_weight& w = *args.weight;
  const int64_t n = args.x.shape[0];
  MOE_TRY(loops::expect_shape("x", args.x, n, 1, w.n_in));
  MOE_TRY(loops::expect_shape("out", args.out, n, 1, w.n_out));
  if (n == 0) return {};
  const RowType type = row_type(kernels, w.format, args.activation);
  Arena arena(args.header);
  char* memory = take_rows(arena, type, args.activation, n, w.n_in);
  MOE_TRY(arena.check());
  const Rows x = round_rows(kernels, type, args.activation, args.x, memory);
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
      for (int64_t r = 0; r < m; ++r) rows[r] = x.at(i + r);
      multiply(kernels, w, g, panel, n_panels, type, rows, m, c);
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
