// Operations that treat each row by itself.
#include "moe/sdk/loops/rows.hpp"

#include "ops.hpp"

namespace moe::cuda {

using loops::expect_shape;
using loops::given;

Result<WeightView> expect_weight(const moe_weight* weight, std::string_view name, int64_t n_groups, int64_t n_out,
                                 int64_t n_in) {
  if (weight == nullptr) return invalid(std::string(name) + ": expected a weight, got none");
  const WeightView& v = weight->view;
  const auto differs = [](int64_t want, int64_t got) { return want != 0 && want != got; };
  if (!differs(n_groups, v.n_groups) && !differs(n_out, v.n_out) && !differs(n_in, v.n_in)) return v;
  const auto text = [](int64_t a, int64_t b, int64_t c) {
    std::string out = "[";
    for (const int64_t size : {a, b, c}) out += (out.size() > 1 ? ", " : "") + std::to_string(size);
    return out + "]";
  };
  return invalid(std::string(name) + ": expected " + text(n_groups, n_out, n_in) + ", got " +
                 text(v.n_groups, v.n_out, v.n_in));
}

NormParams norm_params(const moe_norm_args& a) {
  NormParams p{};
  p.x = rows_of<float>(a.x);
  p.residual = rows_of<const float>(a.residual);
  p.weight = data_of<float>(a.weight);
  p.bias = data_of<float>(a.bias);
  p.out = rows_of<float>(a.out);
  p.n = a.x.shape[0];
  p.heads = heads_of(a.x);
  p.dim = width_of(a.x);
  p.eps = a.eps;
  p.layer = a.kind == MOE_NORM_LAYER;
  return p;
}

namespace {

// --- embed
Result<Found> find_embed(const Context&, const moe_embed_args& a) {
  MOE_ASSIGN(const WeightView table, expect_weight(a.table, "table", 1, 0, a.out.shape[1]));
  MOE_TRY(expect_shape("out", a.out, a.ids.shape[0], 1, table.n_in));
  return Found{};
}
Status run_embed(const Context&, const moe_embed_args& a, cudaStream_t stream) {
  MOE_CUDA_TRY(launch_embed(
      {a.table->view, data_of<int32_t>(a.ids), a.ids.strides[0], rows_of<float>(a.out), a.out.shape[0], a.scale},
      stream));
  return {};
}

// --- norm
Result<Found> find_norm(const Context&, const moe_norm_args& a) {
  if (a.kind != MOE_NORM_RMS && a.kind != MOE_NORM_LAYER)
    return loops::bad("kind", "MOE_NORM_RMS or MOE_NORM_LAYER", a.kind);
  if (a.kind == MOE_NORM_RMS && given(a.bias)) return invalid("bias: expected none with MOE_NORM_RMS, got one");
  MOE_TRY(expect_shape("out", a.out, a.x.shape[0], heads_of(a.x), width_of(a.x)));
  if (given(a.residual)) MOE_TRY(expect_shape("residual", a.residual, a.x.shape[0], heads_of(a.x), width_of(a.x)));
  return Found{};
}
Status run_norm(const Context& context, const moe_norm_args& a, cudaStream_t stream) {
  NormParams p = norm_params(a);
  p.pdl = context.pdl;
  MOE_CUDA_TRY(launch_norm(p, stream));
  return {};
}

// --- activation
Result<Found> find_activation(const Context&, const moe_activation_args& a) {
  MOE_TRY(loops::check_gating(a.gating));
  MOE_TRY(expect_shape("out", a.out, a.gate.shape[0], 1, a.gate.shape[1]));
  if (a.gating.ungated == 0) MOE_TRY(expect_shape("up", a.up, a.gate.shape[0], 1, a.gate.shape[1]));
  return Found{};
}
Status run_activation(const Context&, const moe_activation_args& a, cudaStream_t stream) {
  ActivationParams p{};
  p.gate = rows_of<const float>(a.gate);
  if (a.gating.ungated == 0) p.up = rows_of<const float>(a.up);
  p.out = rows_of<float>(a.out);
  p.n = a.gate.shape[0];
  p.width = a.gate.shape[1];
  p.gating = a.gating;
  MOE_CUDA_TRY(launch_activation(p, stream));
  return {};
}

// --- gather
Result<Found> find_gather(const Context&, const moe_gather_args& a) {
  MOE_TRY(expect_shape("out", a.out, a.rows.shape[0], 1, a.x.shape[1]));
  return Found{};
}
Status run_gather(const Context&, const moe_gather_args& a, cudaStream_t stream) {
  MOE_CUDA_TRY(launch_gather({rows_of<const float>(a.x), data_of<int32_t>(a.rows), a.rows.strides[0],
                              rows_of<float>(a.out), a.out.shape[0], a.x.shape[1]},
                             stream));
  return {};
}

// --- combine
Result<Found> find_combine(const Context&, const moe_combine_args& a) {
  MOE_TRY(expect_shape("out", a.out, a.slots.shape[0], 1, a.x.shape[1]));
  MOE_TRY(expect_shape("weights", a.weights, a.slots.shape[0], 1, a.slots.shape[1]));
  return Found{};
}
Status run_combine(const Context&, const moe_combine_args& a, cudaStream_t stream) {
  CombineParams p{};
  p.x = rows_of<const float>(a.x);
  p.slots = rows_of<const int32_t>(a.slots);
  p.weights = rows_of<const float>(a.weights);
  p.out = rows_of<float>(a.out);
  p.n = a.slots.shape[0];
  p.k = a.slots.shape[1];
  p.dim = a.out.shape[1];
  p.accumulate = a.accumulate != 0;
  MOE_CUDA_TRY(launch_combine(p, stream));
  return {};
}

// --- identity
Result<Found> find_identity(const Context&, const moe_identity_args& a) {
  MOE_TRY(expect_shape("out", a.out, a.x.shape[0], 1, a.x.shape[1]));
  MOE_TRY(expect_shape("ids", a.ids, a.x.shape[0], 1, a.weights.shape[1]));
  return Found{};
}
Status run_identity(const Context&, const moe_identity_args& a, cudaStream_t stream) {
  IdentityParams p{};
  p.x = rows_of<const float>(a.x);
  p.ids = rows_of<const int32_t>(a.ids);
  p.weights = rows_of<const float>(a.weights);
  p.count = data_of<int32_t>(a.count);
  p.count_stride = a.count.strides[0];
  p.out = rows_of<float>(a.out);
  p.n = a.x.shape[0];
  p.k = a.ids.shape[1];
  p.dim = a.x.shape[1];
  p.first = a.first;
  p.scale = a.scale;
  MOE_CUDA_TRY(launch_identity(p, stream));
  return {};
}

// --- add
Result<Found> find_add(const Context&, const moe_add_args& a) {
  MOE_TRY(expect_shape("out", a.out, a.x.shape[0], 1, a.x.shape[1]));
  if (given(a.y)) MOE_TRY(expect_shape("y", a.y, a.x.shape[0], 1, a.x.shape[1]));
  return Found{};
}
Status run_add(const Context&, const moe_add_args& a, cudaStream_t stream) {
  MOE_CUDA_TRY(launch_add({rows_of<const float>(a.x), rows_of<const float>(a.y), rows_of<float>(a.out), a.x.shape[0],
                           a.x.shape[1], a.alpha, a.beta},
                          stream));
  return {};
}

// --- clamp
Result<Found> find_clamp(const Context&, const moe_clamp_args& a) {
  if (!(a.limit > 0.0F)) return invalid("limit: expected above 0, got " + std::to_string(a.limit));
  MOE_TRY(expect_shape("out", a.out, a.x.shape[0], 1, a.x.shape[1]));
  return Found{};
}
Status run_clamp(const Context&, const moe_clamp_args& a, cudaStream_t stream) {
  MOE_CUDA_TRY(
      launch_clamp({rows_of<const float>(a.x), rows_of<float>(a.out), a.x.shape[0], a.x.shape[1], a.limit}, stream));
  return {};
}

// --- argmax
Result<Found> find_argmax(const Context&, const moe_argmax_args&) { return Found{}; }
Status run_argmax(const Context&, const moe_argmax_args& a, cudaStream_t stream) {
  MOE_CUDA_TRY(launch_argmax(
      {rows_of<const float>(a.x), data_of<int32_t>(a.ids), a.ids.strides[0], a.x.shape[0], a.x.shape[1]}, stream));
  return {};
}

constexpr OpRow kOps[] = {
    op_row<moe_embed_args, find_embed, run_embed>(MOE_OP_EMBED),
    op_row<moe_norm_args, find_norm, run_norm>(MOE_OP_NORM),
    op_row<moe_activation_args, find_activation, run_activation>(MOE_OP_ACTIVATION),
    op_row<moe_gather_args, find_gather, run_gather>(MOE_OP_GATHER),
    op_row<moe_combine_args, find_combine, run_combine>(MOE_OP_COMBINE),
    op_row<moe_identity_args, find_identity, run_identity>(MOE_OP_IDENTITY),
    op_row<moe_add_args, find_add, run_add>(MOE_OP_ADD),
    op_row<moe_clamp_args, find_clamp, run_clamp>(MOE_OP_CLAMP),
    op_row<moe_argmax_args, find_argmax, run_argmax>(MOE_OP_ARGMAX),
};

}  // namespace

std::span<const OpRow> rows_ops() { return kOps; }

Status check_header(const OpRow& row, const moe_op_args& args) {
  if (args.struct_size < row.struct_size) {
    return invalid("struct_size: expected at least " + std::to_string(row.struct_size) + ", got " +
                   std::to_string(args.struct_size));
  }
  if ((args.must_understand & ~row.understood) == 0) return {};
  return unimplemented("must_understand: expected bits of " + std::to_string(row.understood) + ", got " +
                       std::to_string(args.must_understand));
}

const OpRow* find_op_row(std::string_view id) {
  for (const auto& rows : {rows_ops(), matmul_ops(), attention_ops(), route_ops(), ffn_ops()}) {
    for (const OpRow& row : rows) {
      if (id == row.id) return &row;
    }
  }
  return nullptr;
}

}  // namespace moe::cuda
