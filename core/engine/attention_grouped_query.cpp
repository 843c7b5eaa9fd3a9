#include "core/engine/attention_parts.hpp"

namespace patchbay {
namespace {

class GroupedQueryAttention final : public AttentionPart {
 public:
  explicit GroupedQueryAttention(const AttentionSpec& spec) : spec_(spec) {}

  moe::Status build(StepDevice& device, BuildContext& ctx) {
    const auto& map = ctx.spec.layer_tensors;
    const int64_t n = ctx.limits.max_tokens;
    const int64_t d = ctx.spec.d_model;
    q_dim_ = spec_.n_heads * spec_.k_dim;
    k_dim_ = spec_.n_kv_heads * spec_.k_dim;
    v_dim_ = spec_.n_kv_heads * spec_.v_dim;
    const int64_t width = q_dim_ + k_dim_ + v_dim_;
    MOE_TRY(build_branch(branch_, device, ctx));
    // One product for queries, keys and values: they read the same input.
    MOE_ASSIGN(MatrixSet qkv, ctx.weights.matrices(map, "q", ctx.layer, 1, q_dim_, d));
    MOE_ASSIGN(const MatrixSet k, ctx.weights.matrices(map, "k", ctx.layer, 1, k_dim_, d));
    MOE_ASSIGN(const MatrixSet v, ctx.weights.matrices(map, "v", ctx.layer, 1, v_dim_, d));
    MOE_TRY(WeightLoader::append(qkv, k));
    MOE_TRY(WeightLoader::append(qkv, v));
    MOE_ASSIGN(const auto bias,
               joined_bias(ctx, spec_.qkv_bias, {{"q_bias", q_dim_}, {"k_bias", k_dim_}, {"v_bias", v_dim_}}));
    MOE_TRY(qkv_.build(device, ctx, qkv, bias, shape_f32({n, d}), shape_f32({n, width}), ctx.precision.activation,
                       ctx.precision.encoding));
    qkv_slot_ = device.scratch().request("qkv", static_cast<uint64_t>(n * width) * 4);
    out_slot_ = device.scratch().request("attention_out", static_cast<uint64_t>(n * spec_.n_heads * spec_.v_dim) * 4);
    const moe_tensor all = shape_f32({n, width});
    const moe_tensor q_shape = as_heads(columns(all, 0, q_dim_), spec_.n_heads);
    const moe_tensor k_shape = as_heads(columns(all, q_dim_, k_dim_), spec_.n_kv_heads);
    MOE_TRY(build_qk_norm(device, ctx, q_shape, k_shape));
    MOE_TRY(build_clamp(device, all));
    MOE_TRY(q_rope_.build(device, spec_.rope, q_shape, moe::absent()));
    MOE_TRY(k_rope_.build(device, spec_.rope, k_shape, moe::absent()));
    MOE_TRY(k_cache_.build(device, ctx, k_dim_, columns(all, 0, k_dim_)));
    MOE_TRY(v_cache_.build(device, ctx, v_dim_, columns(all, 0, v_dim_)));
    MOE_TRY(attention_.build(device, ctx, spec_, q_shape, k_cache_.heads(spec_.n_kv_heads, spec_.k_dim),
                             v_cache_.heads(spec_.n_kv_heads, spec_.v_dim),
                             shape_f32({n, spec_.n_heads, spec_.v_dim})));
    return build_output(o_, device, ctx, spec_, branch_);
  }

  moe::Status forward(StepDevice& device) override {
    const int64_t n = device.n_tokens();
    const moe_tensor qkv = device.scratch_f32(qkv_slot_, {n, q_dim_ + k_dim_ + v_dim_});
    const moe_tensor q = as_heads(columns(qkv, 0, q_dim_), spec_.n_heads);
    const moe_tensor k_row = columns(qkv, q_dim_, k_dim_);
    const moe_tensor k = as_heads(k_row, spec_.n_kv_heads);
    const moe_tensor v_row = columns(qkv, q_dim_ + k_dim_, v_dim_);
    const moe_tensor out = device.scratch_f32(out_slot_, {n, spec_.n_heads, spec_.v_dim});
    MOE_ASSIGN(const moe_tensor input, branch_.enter(device));
    MOE_TRY(qkv_.run(device, input, qkv));
    if (!spec_.qk_norm_after_rope) MOE_TRY(norm_qk(device, qkv));
    MOE_TRY(clamp(device, qkv));
    MOE_TRY(q_rope_.run(device, q, moe::absent()));
    MOE_TRY(k_rope_.run(device, k, moe::absent()));
    if (spec_.qk_norm_after_rope) MOE_TRY(norm_qk(device, qkv));
    MOE_TRY(k_cache_.store(device, k_row));
    MOE_TRY(v_cache_.store(device, v_row));
    MOE_TRY(attention_.run(device, q, out));
    MOE_ASSIGN(const moe_tensor target, branch_.target(device));
    MOE_TRY(o_.run(device, device.scratch_f32(out_slot_, {n, spec_.n_heads * spec_.v_dim}), target));
    return branch_.leave(device);
  }

  [[nodiscard]] uint64_t weight_bytes() const override { return qkv_.weight_bytes() + o_.weight_bytes(); }
  [[nodiscard]] uint64_t cache_bytes_per_token() const override {
    return k_cache_.bytes_per_token() + v_cache_.bytes_per_token();
  }

 private:
  moe::Status build_qk_norm(StepDevice& device, BuildContext& ctx, const moe_tensor& q_shape,
                            const moe_tensor& k_shape) {
    const auto& map = ctx.spec.layer_tensors;
    const NormKind kind{spec_.norm_eps, spec_.qk_norm_weight};
    if (spec_.qk_norm == QkNorm::kPerHead) {
      MOE_TRY(q_norm_.build(device, ctx, map, "q_norm", spec_.k_dim, q_shape, kind));
      return k_norm_.build(device, ctx, map, "k_norm", spec_.k_dim, k_shape, kind);
    }
    if (spec_.qk_norm == QkNorm::kWhole) {
      const int64_t n = ctx.limits.max_tokens;
      MOE_TRY(q_norm_.build(device, ctx, map, "q_norm", q_dim_, shape_f32({n, q_dim_}), kind));
      return k_norm_.build(device, ctx, map, "k_norm", k_dim_, shape_f32({n, k_dim_}), kind);
    }
    return {};
  }
  moe::Status norm_qk(StepDevice& device, const moe_tensor& qkv) const {
    if (spec_.qk_norm == QkNorm::kNone) return {};
    moe_tensor q = columns(qkv, 0, q_dim_);
    moe_tensor k = columns(qkv, q_dim_, k_dim_);
    if (spec_.qk_norm == QkNorm::kPerHead) {
      q = as_heads(q, spec_.n_heads);
      k = as_heads(k, spec_.n_kv_heads);
    }
    MOE_TRY(q_norm_.run(device, q, q));
    return k_norm_.run(device, k, k);
  }

  moe::Status build_clamp(StepDevice& device, const moe_tensor& qkv_shape) {
    if (!(spec_.clip_qkv > 0)) return {};
    clamp_args_ = moe::op_args<moe_clamp_args>();
    clamp_args_.limit = spec_.clip_qkv;
    clamp_args_.x = clamp_args_.out = qkv_shape;
    MOE_ASSIGN(clamp_op_, find_op(device, MOE_OP_CLAMP, clamp_args_));
    return {};
  }
  moe::Status clamp(StepDevice& device, const moe_tensor& qkv) const {
    if (!clamp_op_) return {};
    moe_clamp_args args = clamp_args_;
    args.x = args.out = qkv;
    return device.launch(clamp_op_, args);
  }

  AttentionSpec spec_;
  int64_t q_dim_ = 0, k_dim_ = 0, v_dim_ = 0;
  Branch branch_;
  Norm q_norm_, k_norm_;
  Linear qkv_, o_;
  Rope q_rope_, k_rope_;
  CacheSlot k_cache_, v_cache_;
  PagedAttention attention_;
  moe_clamp_args clamp_args_{};
  moe::Op clamp_op_;
  size_t qkv_slot_ = 0, out_slot_ = 0;
};

}  // namespace

moe::Result<std::unique_ptr<AttentionPart>> build_grouped_query(StepDevice& device, BuildContext& ctx,
                                                                const AttentionSpec& spec) {
  auto part = std::make_unique<GroupedQueryAttention>(spec);
  MOE_TRY(part->build(device, ctx));
  return std::unique_ptr<AttentionPart>(std::move(part));
}

}  // namespace patchbay
