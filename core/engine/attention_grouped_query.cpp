#include <array>

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
    MOE_TRY(k_cache_.build(device, ctx, k_dim_, spec_.n_kv_heads, columns(all, 0, k_dim_)));
    MOE_TRY(v_cache_.build(device, ctx, v_dim_, spec_.n_kv_heads, columns(all, 0, v_dim_)));
    MOE_TRY(attention_.build(device, ctx, spec_, q_shape, k_cache_.heads(spec_.k_dim), v_cache_.heads(spec_.v_dim),
                             shape_f32({n, spec_.n_heads, spec_.v_dim})));
    MOE_TRY(branch_.find_product(device, qkv_.op(), qkv_.largest(), false));
    MOE_TRY(find_fused(device));
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
    MOE_TRY(branch_.enter_product(device, qkv_.op(), qkv_.args(moe::absent(), qkv)));
    const bool per_head = spec_.qk_norm == QkNorm::kPerHead;
    const moe_tensor q_normed = per_head ? q : columns(qkv, 0, q_dim_);
    const moe_tensor k_normed = per_head ? k : k_row;
    Calls calls{
        q_norm_.args(q_normed, q_normed),       k_norm_.args(k_normed, k_normed),       clamp_args_,
        q_rope_.args(device, q, moe::absent()), k_rope_.args(device, k, moe::absent()), k_cache_.args(device, k_row),
        v_cache_.args(device, v_row),           attention_.args(device, q, out)};
    calls.clamp.x = calls.clamp.out = qkv;
    MOE_TRY(fused_.run(device, parts(calls)));
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

  // What happens between the projection and the output's.
  struct Calls {
    moe_norm_args q_norm, k_norm;
    moe_clamp_args clamp;
    moe_rope_args q_rope, k_rope;
    moe_cache_store_args k_store, v_store;
    moe_attention_args attention;
  };
  // In order; those that the model does not have have no operation.
  [[nodiscard]] std::array<Fused::Part, 8> parts(Calls& c) const {
    const Fused::Part q_norm{MOE_OP_NORM, &q_norm_.op(), &c.q_norm.header};
    const Fused::Part k_norm{MOE_OP_NORM, &k_norm_.op(), &c.k_norm.header};
    const Fused::Part clamp{MOE_OP_CLAMP, &clamp_op_, &c.clamp.header};
    const Fused::Part q_rope{MOE_OP_ROPE, &q_rope_.op(), &c.q_rope.header};
    const Fused::Part k_rope{MOE_OP_ROPE, &k_rope_.op(), &c.k_rope.header};
    const Fused::Part k_store{MOE_OP_CACHE_STORE, &k_cache_.op(), &c.k_store.header};
    const Fused::Part v_store{MOE_OP_CACHE_STORE, &v_cache_.op(), &c.v_store.header};
    const Fused::Part attention{MOE_OP_ATTENTION, &attention_.op(), &c.attention.header};
    if (spec_.qk_norm_after_rope) return {{clamp, q_rope, k_rope, q_norm, k_norm, k_store, v_store, attention}};
    return {{q_norm, k_norm, clamp, q_rope, k_rope, k_store, v_store, attention}};
  }
  moe::Status find_fused(StepDevice& device) {
    Calls c{q_norm_.largest(), k_norm_.largest(),  clamp_args_,        q_rope_.largest(),
            k_rope_.largest(), k_cache_.largest(), v_cache_.largest(), attention_.largest()};
    constexpr uint32_t kBeforeTheStores = 0x1F;  // nobody reads the projections after the attention
    return fused_.find(device, parts(c), kBeforeTheStores);
  }

  moe::Status build_clamp(StepDevice& device, const moe_tensor& qkv_shape) {
    if (!(spec_.clip_qkv > 0)) return {};
    clamp_args_ = moe::op_args<moe_clamp_args>();
    clamp_args_.limit = spec_.clip_qkv;
    clamp_args_.x = clamp_args_.out = qkv_shape;
    MOE_ASSIGN(clamp_op_, find_op(device, MOE_OP_CLAMP, clamp_args_));
    return {};
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
  Fused fused_;
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
