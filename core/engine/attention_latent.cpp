#include <array>

#include "core/engine/attention_parts.hpp"

namespace patchbay {
namespace {

// Latent attention (DeepSeek-V2, arXiv 2405.04434) in absorbed form: the cache holds the normalised latent and the
// rotated shared key, kv_rank + rope_dim numbers a token. With W_b = [K_h; V_h] per head, q . (K_h c) = (K_h^T q) . c,
// so queries move into the latent space and the mix of latents comes back through V_h.
class LatentAttention final : public AttentionPart {
 public:
  explicit LatentAttention(const AttentionSpec& spec) : spec_(spec) {}

  moe::Status build(StepDevice& device, BuildContext& ctx) {
    const auto& map = ctx.spec.layer_tensors;
    const int64_t n = ctx.limits.max_tokens;
    const int64_t heads = spec_.n_heads;
    q_dim_ = heads * spec_.k_dim;
    down_dim_ = spec_.q_rank > 0 ? spec_.q_rank : q_dim_;
    latent_dim_ = spec_.kv_rank + spec_.rope_dim;
    MOE_TRY(build_branch(branch_, device, ctx));
    MOE_TRY(build_down(device, ctx));
    const moe_tensor all = shape_f32({n, down_dim_ + latent_dim_});
    if (spec_.q_rank > 0) {
      MOE_TRY(
          q_norm_.build(device, ctx, map, "q_a_norm", spec_.q_rank, columns(all, 0, spec_.q_rank), {spec_.norm_eps}));
      MOE_ASSIGN(const MatrixSet q_b, ctx.weights.matrices(map, "q_b", ctx.layer, 1, q_dim_, spec_.q_rank));
      MOE_TRY(q_up_.build(device, ctx, q_b, {}, columns(all, 0, spec_.q_rank), shape_f32({n, q_dim_}),
                          ctx.precision.activation, ctx.precision.encoding));
      q_slot_ = device.scratch().request("q", static_cast<uint64_t>(n * q_dim_) * 4);
    }
    MOE_TRY(kv_norm_.build(device, ctx, map, "kv_a_norm", spec_.kv_rank, columns(all, down_dim_, spec_.kv_rank),
                           {spec_.norm_eps}));
    MOE_TRY(build_absorbed(device, ctx));
    const moe_tensor absorbed = shape_f32({n, heads, latent_dim_});
    const moe_tensor rope_part = as_heads(shape_f32({n, heads * spec_.rope_dim}), heads);
    RopeSpec rope = spec_.rope;
    MOE_TRY(q_rope_.build(device, rope, rope_part, rope_part));
    MOE_TRY(k_rope_.build(device, rope, as_heads(columns(all, 0, spec_.rope_dim), 1), moe::absent()));
    MOE_TRY(cache_.build(device, ctx, latent_dim_, 1, columns(all, down_dim_, latent_dim_)));
    MOE_TRY(attention_.build(device, ctx, spec_, absorbed, cache_.heads(latent_dim_), cache_.heads(spec_.kv_rank),
                             shape_f32({n, heads, spec_.kv_rank})));
    MOE_TRY(find_fused(device));
    return build_output(o_, device, ctx, spec_, branch_);
  }

  moe::Status forward(StepDevice& device) override {
    const int64_t n = device.n_tokens();
    const int64_t heads = spec_.n_heads;
    const moe_tensor down = device.scratch_f32(down_slot_, {n, down_dim_ + latent_dim_});
    MOE_TRY(branch_.enter_product(device, down_.op(), down_.args(moe::absent(), down)));
    moe_tensor q = as_heads(columns(down, 0, q_dim_), heads);
    if (spec_.q_rank > 0) {
      const moe_tensor low = columns(down, 0, spec_.q_rank);
      const moe_tensor up = device.scratch_f32(q_slot_, {n, q_dim_});
      MOE_TRY(normed_q_up_.run(device, q_norm_, q_up_.op(), q_up_.args(low, up), low, low));
      q = as_heads(up, heads);
    }
    const moe_tensor latent = columns(down, down_dim_, spec_.kv_rank);
    const moe_tensor k_rope = as_heads(columns(down, down_dim_ + spec_.kv_rank, spec_.rope_dim), 1);
    const moe_tensor absorbed = device.scratch_f32(absorbed_slot_, {n, heads, latent_dim_});
    const moe_tensor q_turns = part(q, spec_.nope_dim, spec_.rope_dim);
    Calls calls{kv_norm_.args(latent, latent), k_rope_.args(device, k_rope, moe::absent()),
                q_rope_.args(device, q_turns, part(absorbed, spec_.kv_rank, spec_.rope_dim)),
                cache_.args(device, columns(down, down_dim_, latent_dim_))};
    MOE_TRY(fused_.run(device, parts(calls)));
    MOE_TRY(k_up_.run(device, part(q, 0, spec_.nope_dim), part(absorbed, 0, spec_.kv_rank)));
    const moe_tensor mixed = device.scratch_f32(mixed_slot_, {n, heads, spec_.kv_rank});
    moe_attention_args attention = attention_.args(device, absorbed, mixed);
    MOE_TRY(device.launch(attention_.op(), attention));
    MOE_TRY(v_up_.run(device, mixed, device.scratch_f32(out_slot_, {n, heads, spec_.v_dim})));
    MOE_ASSIGN(const moe_tensor target, branch_.target(device));
    MOE_TRY(o_.run(device, device.scratch_f32(out_slot_, {n, heads * spec_.v_dim}), target));
    return branch_.leave(device);
  }

  [[nodiscard]] uint64_t weight_bytes() const override {
    return down_.weight_bytes() + q_up_.weight_bytes() + k_up_.weight_bytes() + v_up_.weight_bytes() +
           o_.weight_bytes();
  }
  [[nodiscard]] uint64_t cache_bytes_per_token() const override { return cache_.bytes_per_token(); }

 private:
  // What makes queries and the cache's row of what the projections gave, in order.
  struct Calls {
    moe_norm_args kv_norm;
    moe_rope_args k_rope, q_rope;
    moe_cache_store_args store;
  };
  [[nodiscard]] std::array<Fused::Part, 4> parts(Calls& c) const {
    return {{{MOE_OP_NORM, &kv_norm_.op(), &c.kv_norm.header},
             {MOE_OP_ROPE, &k_rope_.op(), &c.k_rope.header},
             {MOE_OP_ROPE, &q_rope_.op(), &c.q_rope.header},
             {MOE_OP_CACHE_STORE, &cache_.op(), &c.store.header}}};
  }
  moe::Status find_fused(StepDevice& device) {
    Calls c{kv_norm_.largest(), k_rope_.largest(), q_rope_.largest(), cache_.largest()};
    constexpr uint32_t kNormAndKeyRope = 0x03;  // read by the store alone
    MOE_TRY(fused_.find(device, parts(c), kNormAndKeyRope));
    MOE_TRY(branch_.find_product(device, down_.op(), down_.largest(), false));
    return spec_.q_rank > 0 ? normed_q_up_.find(device, q_norm_, q_up_.op(), q_up_.largest(), false) : moe::Status();
  }

  // Elements [begin, begin + n) of every head.
  static moe_tensor part(moe_tensor t, int64_t begin, int64_t n) {
    t.data = static_cast<float*>(t.data) + begin;
    t.shape[2] = n;
    return t;
  }

  // One product for the (low-rank) query and the latent with its shared rotary key.
  moe::Status build_down(StepDevice& device, BuildContext& ctx) {
    const auto& map = ctx.spec.layer_tensors;
    const int64_t n = ctx.limits.max_tokens;
    const int64_t d = ctx.spec.d_model;
    const char* q_role = spec_.q_rank > 0 ? "q_a" : "q";
    MOE_ASSIGN(MatrixSet down, ctx.weights.matrices(map, q_role, ctx.layer, 1, down_dim_, d));
    MOE_ASSIGN(const MatrixSet kv, ctx.weights.matrices(map, "kv_a", ctx.layer, 1, latent_dim_, d));
    MOE_TRY(WeightLoader::append(down, kv));
    MOE_ASSIGN(const auto bias,
               joined_bias(ctx, spec_.qkv_bias,
                           {{spec_.q_rank > 0 ? "q_a_bias" : "q_bias", down_dim_}, {"kv_a_bias", latent_dim_}}));
    down_slot_ = device.scratch().request("latent_down", static_cast<uint64_t>(n * (down_dim_ + latent_dim_)) * 4);
    return down_.build(device, ctx, down, bias, shape_f32({n, d}), shape_f32({n, down_dim_ + latent_dim_}),
                       ctx.precision.activation, ctx.precision.encoding);
  }

  // K_h transposed [kv_rank, nope_dim] and V_h [v_dim, kv_rank] of every head: from one matrix, or stored like that
  // (k_b, v_b).
  moe::Result<std::pair<MatrixSet, MatrixSet>> up_projections(BuildContext& ctx) const {
    const auto& map = ctx.spec.layer_tensors;
    const int64_t heads = spec_.n_heads;
    if (ctx.weights.has(map, "k_b", ctx.layer)) {
      MOE_ASSIGN(MatrixSet k_up, ctx.weights.matrices(map, "k_b", ctx.layer, heads, spec_.kv_rank, spec_.nope_dim));
      MOE_ASSIGN(MatrixSet v_up, ctx.weights.matrices(map, "v_b", ctx.layer, heads, spec_.v_dim, spec_.kv_rank));
      return std::pair(std::move(k_up), std::move(v_up));
    }
    const int64_t rows = spec_.nope_dim + spec_.v_dim;
    MOE_ASSIGN(const MatrixSet kv_b, ctx.weights.matrices(map, "kv_b", ctx.layer, 1, heads * rows, spec_.kv_rank));
    const TensorSource& whole = kv_b.groups[0][0];
    MatrixSet k_up{kv_b.name, "k_up", spec_.kv_rank, spec_.nope_dim, {}};
    MatrixSet v_up{kv_b.name, "v_up", spec_.v_dim, spec_.kv_rank, {}};
    for (int64_t h = 0; h < heads; ++h) {
      MOE_ASSIGN(const TensorSource k, whole.slice(0, h * rows, spec_.nope_dim));
      MOE_ASSIGN(const TensorSource k_transposed, k.transposed());
      MOE_ASSIGN(const TensorSource v, whole.slice(0, h * rows + spec_.nope_dim, spec_.v_dim));
      k_up.groups.push_back({k_transposed});
      v_up.groups.push_back({v});
    }
    return std::pair(std::move(k_up), std::move(v_up));
  }

  moe::Status build_absorbed(StepDevice& device, BuildContext& ctx) {
    const int64_t n = ctx.limits.max_tokens;
    const int64_t heads = spec_.n_heads;
    MOE_ASSIGN(const auto ups, up_projections(ctx));
    const auto& [k_up, v_up] = ups;
    absorbed_slot_ = device.scratch().request("absorbed", static_cast<uint64_t>(n * heads * latent_dim_) * 4);
    mixed_slot_ = device.scratch().request("mixed", static_cast<uint64_t>(n * heads * spec_.kv_rank) * 4);
    out_slot_ = device.scratch().request("attention_out", static_cast<uint64_t>(n * heads * spec_.v_dim) * 4);
    const moe_tensor q_nope = part_shape(n, heads, spec_.k_dim, spec_.nope_dim);
    MOE_TRY(k_up_.build(device, ctx, k_up, {}, q_nope, part_shape(n, heads, latent_dim_, spec_.kv_rank),
                        ctx.precision.activation, ctx.precision.encoding));
    return v_up_.build(device, ctx, v_up, {}, shape_f32({n, heads, spec_.kv_rank}), shape_f32({n, heads, spec_.v_dim}),
                       ctx.precision.activation, ctx.precision.encoding);
  }

  // [n, heads, dim] inside rows of heads * stride.
  static moe_tensor part_shape(int64_t n, int64_t heads, int64_t stride, int64_t dim) {
    moe_tensor t = shape_f32({n, heads, stride});
    t.shape[2] = dim;
    return t;
  }

  AttentionSpec spec_;
  int64_t q_dim_ = 0, down_dim_ = 0, latent_dim_ = 0;
  Branch branch_;
  Norm q_norm_, kv_norm_;
  NormedProduct normed_q_up_;
  Fused fused_;
  Linear down_, q_up_, k_up_, v_up_, o_;
  Rope q_rope_, k_rope_;
  CacheSlot cache_;
  PagedAttention attention_;
  size_t down_slot_ = 0, q_slot_ = 0, absorbed_slot_ = 0, mixed_slot_ = 0, out_slot_ = 0;
};

}  // namespace

moe::Result<std::unique_ptr<AttentionPart>> build_latent(StepDevice& device, BuildContext& ctx,
                                                         const AttentionSpec& spec) {
  auto part = std::make_unique<LatentAttention>(spec);
  MOE_TRY(part->build(device, ctx));
  return std::unique_ptr<AttentionPart>(std::move(part));
}

}  // namespace patchbay
