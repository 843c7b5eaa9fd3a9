#include "core/engine/attention.hpp"

#include <fmt/format.h>

namespace patchbay {

int64_t cache_element_bytes(int32_t dtype) { return dtype == MOE_F32 ? 4 : 2; }

moe::Status Norm::build(StepDevice& device, BuildContext& ctx, const TensorMap& map, const std::string& role, int64_t dim, const moe_tensor& x_shape) {
  MOE_ASSIGN(const auto weight, ctx.weights.vectors(map, role, ctx.layer, 1, dim));
  MOE_ASSIGN(weight_, WeightLoader::upload(device.device(), weight));
  args_ = moe::op_args<moe_norm_args>();
  args_.weight = moe::tensor(weight_.data(), MOE_F32, {dim}, device.device().where());
  if (ctx.spec.norm_bias) {
    MOE_ASSIGN(const auto bias, ctx.weights.vectors(map, role + "_bias", ctx.layer, 1, dim));
    MOE_ASSIGN(bias_, WeightLoader::upload(device.device(), bias));
    args_.bias = moe::tensor(bias_.data(), MOE_F32, {dim}, device.device().where());
  }
  args_.eps = ctx.spec.norm_eps;
  args_.kind = ctx.spec.rms_norm ? MOE_NORM_RMS : MOE_NORM_LAYER;
  args_.x = x_shape;
  args_.out = x_shape;
  MOE_ASSIGN(op_, find_op(device, MOE_OP_NORM, args_));
  return {};
}

moe::Status Norm::run(StepDevice& device, const moe_tensor& x, const moe_tensor& out) const {
  moe_norm_args args = args_;
  args.x = x;
  args.out = out;
  return device.launch(op_, args);
}

moe::Status Linear::build(StepDevice& device, BuildContext& ctx, const MatrixSet& set, const std::vector<float>& bias, const moe_tensor& x_shape,
                          const moe_tensor& out_shape, moe_activation_type activation, const char* encoding, bool accumulate, float scale) {
  MOE_ASSIGN(weight_, ctx.weights.prepare(device.device(), set, encoding));
  args_ = moe::op_args<moe_matmul_args>();
  args_.weight = weight_.get();
  if (!bias.empty()) {
    MOE_ASSIGN(bias_, WeightLoader::upload(device.device(), bias));
    args_.bias = moe::tensor(bias_.data(), MOE_F32, {static_cast<int64_t>(bias.size())}, device.device().where());
  }
  args_.scale = scale;
  args_.activation = activation;
  args_.accumulate = accumulate ? 1 : 0;
  args_.x = x_shape;
  args_.out = out_shape;
  MOE_ASSIGN(op_, find_op(device, MOE_OP_MATMUL, args_));
  return {};
}

moe::Status Linear::run(StepDevice& device, const moe_tensor& x, const moe_tensor& out) const {
  moe_matmul_args args = args_;
  args.x = x;
  args.out = out;
  return device.launch(op_, args);
}

namespace {

using moe::tensor;

// The rotary embedding of a layer, and the table that it needs.
class Rope {
 public:
  moe::Status build(StepDevice& device, const RopeSpec& spec, const moe_tensor& x_shape, const moe_tensor& out_shape) {
    if (spec.n_rot == 0) return {};
    MOE_ASSIGN(table_, WeightLoader::upload(device.device(), spec.inv_freq));
    args_ = moe::op_args<moe_rope_args>();
    args_.inv_freq = tensor(table_.data(), MOE_F32, {spec.n_rot / 2}, device.device().where());
    args_.scale = spec.scale;
    args_.interleaved = spec.interleaved ? 1 : 0;
    args_.x = x_shape;
    args_.out = out_shape;
    args_.positions = shape_i32({x_shape.shape[0]});
    MOE_ASSIGN(op_, find_op(device, MOE_OP_ROPE, args_));
    return {};
  }
  moe::Status run(StepDevice& device, const moe_tensor& x, const moe_tensor& out) const {
    if (!op_) return {};
    moe_rope_args args = args_;
    args.x = x;
    args.out = out;
    args.positions = device.positions();
    return device.launch(op_, args);
  }
  [[nodiscard]] bool present() const { return static_cast<bool>(op_); }

 private:
  Buffer table_;
  moe_rope_args args_{};
  moe::Op op_;
};

// A slot of the paged cache: one row of `dim` elements a token.
class CacheSlot {
 public:
  moe::Status build(StepDevice& device, BuildContext& ctx, int64_t dim, const moe_tensor& x_shape) {
    dim_ = dim;
    dtype_ = ctx.cache_dtype;
    n_rows_ = ctx.limits.n_pages * ctx.limits.page_tokens;
    where_ = device.device().where();
    MOE_ASSIGN(memory_, device.device().alloc(static_cast<uint64_t>(n_rows_ * dim * cache_element_bytes(dtype_))));
    args_ = moe::op_args<moe_cache_store_args>();
    args_.x = x_shape;
    args_.rows = tensor(nullptr, MOE_I64, {x_shape.shape[0]});
    args_.cache = rows();
    MOE_ASSIGN(op_, find_op(device, MOE_OP_CACHE_STORE, args_));
    return {};
  }
  moe::Status store(StepDevice& device, const moe_tensor& x) const {
    moe_cache_store_args args = args_;
    args.x = x;
    args.rows = device.cache_rows();
    return device.launch(op_, args);
  }
  [[nodiscard]] moe_tensor rows() const { return tensor(memory_.data(), dtype_, {n_rows_, dim_}, where_); }
  // The rows as [n_rows, heads, dim], the first `dim` elements of each of `heads` parts.
  [[nodiscard]] moe_tensor heads(int64_t heads, int64_t dim) const {
    moe_tensor t = tensor(memory_.data(), dtype_, {n_rows_, heads, dim}, where_);
    t.strides[0] = dim_;
    t.strides[1] = dim_ / heads;
    return t;
  }
  [[nodiscard]] uint64_t bytes_per_token() const { return static_cast<uint64_t>(dim_ * cache_element_bytes(dtype_)); }

 private:
  Buffer memory_;
  moe_cache_store_args args_{};
  moe::Op op_;
  int64_t dim_ = 0;
  int64_t n_rows_ = 0;
  int32_t dtype_ = MOE_F32;
  moe_device where_{};
};

// The attention operation itself with what is the same in every step.
class PagedAttention {
 public:
  moe::Status build(StepDevice& device, BuildContext& ctx, const AttentionSpec& spec, const moe_tensor& q_shape, const moe_tensor& k,
                    const moe_tensor& v, const moe_tensor& out_shape) {
    args_ = moe::op_args<moe_attention_args>();
    args_.k = k;
    args_.v = v;
    args_.window = spec.window;
    args_.scale = spec.scale;
    args_.soft_cap = spec.soft_cap;
    if (spec.sinks) {
      MOE_ASSIGN(const auto sinks, ctx.weights.vectors(ctx.spec.layer_tensors, "sinks", ctx.layer, 1, spec.n_heads));
      MOE_ASSIGN(sinks_, WeightLoader::upload(device.device(), sinks));
      args_.sinks = tensor(sinks_.data(), MOE_F32, {spec.n_heads}, device.device().where());
    }
    moe_attention_args largest = args_;
    largest.q = q_shape;
    largest.out = out_shape;
    largest.sequences = shape_i32({ctx.limits.max_tokens});
    largest.positions = shape_i32({ctx.limits.max_tokens});
    largest.pages.page_table = shape_i32({ctx.limits.max_sequences, ctx.limits.max_pages});
    largest.pages.page_size = ctx.limits.page_tokens;
    MOE_ASSIGN(op_, find_op(device, MOE_OP_ATTENTION, largest));
    return {};
  }
  moe::Status run(StepDevice& device, const moe_tensor& q, const moe_tensor& out) const {
    moe_attention_args args = args_;
    args.q = q;
    args.out = out;
    args.sequences = device.sequences();
    args.positions = device.positions();
    args.pages = device.pages();
    return device.launch(op_, args);
  }

 private:
  Buffer sinks_;
  moe_attention_args args_{};
  moe::Op op_;
};

// Concatenated biases of several products that run as one; zeros where one has none.
moe::Result<std::vector<float>> joined_bias(BuildContext& ctx, bool wanted, const std::vector<std::pair<std::string, int64_t>>& parts) {
  std::vector<float> out;
  if (!wanted) return out;
  for (const auto& [role, n] : parts) {
    if (!ctx.weights.has(ctx.spec.layer_tensors, role, ctx.layer)) {
      out.resize(out.size() + static_cast<size_t>(n), 0.0F);
      continue;
    }
    MOE_ASSIGN(const auto bias, ctx.weights.vectors(ctx.spec.layer_tensors, role, ctx.layer, 1, n));
    out.insert(out.end(), bias.begin(), bias.end());
  }
  return out;
}

moe::Status build_output(Linear& o, StepDevice& device, BuildContext& ctx, const AttentionSpec& spec) {
  const int64_t n_in = spec.n_heads * spec.v_dim;
  MOE_ASSIGN(const MatrixSet set, ctx.weights.matrices(ctx.spec.layer_tensors, "o", ctx.layer, 1, ctx.spec.d_model, n_in));
  MOE_ASSIGN(const auto bias, joined_bias(ctx, spec.o_bias, {{"o_bias", ctx.spec.d_model}}));
  return o.build(device, ctx, set, bias, shape_f32({ctx.limits.max_tokens, n_in}), shape_f32({ctx.limits.max_tokens, ctx.spec.d_model}),
                 ctx.precision.activation, ctx.precision.encoding, true, ctx.spec.residual_scale);
}

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
    MOE_TRY(norm_.build(device, ctx, map, "attention_norm", d, shape_f32({n, d})));
    // One product for queries, keys and values: they read the same input.
    MOE_ASSIGN(MatrixSet qkv, ctx.weights.matrices(map, "q", ctx.layer, 1, q_dim_, d));
    MOE_ASSIGN(const MatrixSet k, ctx.weights.matrices(map, "k", ctx.layer, 1, k_dim_, d));
    MOE_ASSIGN(const MatrixSet v, ctx.weights.matrices(map, "v", ctx.layer, 1, v_dim_, d));
    MOE_TRY(WeightLoader::append(qkv, k));
    MOE_TRY(WeightLoader::append(qkv, v));
    MOE_ASSIGN(const auto bias, joined_bias(ctx, spec_.qkv_bias, {{"q_bias", q_dim_}, {"k_bias", k_dim_}, {"v_bias", v_dim_}}));
    MOE_TRY(qkv_.build(device, ctx, qkv, bias, shape_f32({n, d}), shape_f32({n, width}), ctx.precision.activation, ctx.precision.encoding));
    qkv_slot_ = device.scratch().request("qkv", static_cast<uint64_t>(n * width) * 4);
    out_slot_ = device.scratch().request("attention_out", static_cast<uint64_t>(n * spec_.n_heads * spec_.v_dim) * 4);
    const moe_tensor all = shape_f32({n, width});
    const moe_tensor q_shape = as_heads(columns(all, 0, q_dim_), spec_.n_heads);
    const moe_tensor k_shape = as_heads(columns(all, q_dim_, k_dim_), spec_.n_kv_heads);
    MOE_TRY(build_qk_norm(device, ctx, q_shape, k_shape));
    MOE_TRY(q_rope_.build(device, spec_.rope, q_shape, moe::absent()));
    MOE_TRY(k_rope_.build(device, spec_.rope, k_shape, moe::absent()));
    MOE_TRY(k_cache_.build(device, ctx, k_dim_, columns(all, 0, k_dim_)));
    MOE_TRY(v_cache_.build(device, ctx, v_dim_, columns(all, 0, v_dim_)));
    MOE_TRY(attention_.build(device, ctx, spec_, q_shape, k_cache_.heads(spec_.n_kv_heads, spec_.k_dim),
                             v_cache_.heads(spec_.n_kv_heads, spec_.v_dim), shape_f32({n, spec_.n_heads, spec_.v_dim})));
    return build_output(o_, device, ctx, spec_);
  }

  moe::Status forward(StepDevice& device) override {
    const int64_t n = device.n_tokens();
    const moe_tensor qkv = device.scratch_f32(qkv_slot_, {n, q_dim_ + k_dim_ + v_dim_});
    const moe_tensor q = as_heads(columns(qkv, 0, q_dim_), spec_.n_heads);
    const moe_tensor k_row = columns(qkv, q_dim_, k_dim_);
    const moe_tensor k = as_heads(k_row, spec_.n_kv_heads);
    const moe_tensor v_row = columns(qkv, q_dim_ + k_dim_, v_dim_);
    const moe_tensor out = device.scratch_f32(out_slot_, {n, spec_.n_heads, spec_.v_dim});
    MOE_TRY(norm_.run(device, device.x(), device.h()));
    MOE_TRY(qkv_.run(device, device.h(), qkv));
    if (spec_.qk_norm == QkNorm::kPerHead) {
      MOE_TRY(q_norm_.run(device, q, q));
      MOE_TRY(k_norm_.run(device, k, k));
    } else if (spec_.qk_norm == QkNorm::kWhole) {
      MOE_TRY(q_norm_.run(device, columns(qkv, 0, q_dim_), columns(qkv, 0, q_dim_)));
      MOE_TRY(k_norm_.run(device, k_row, k_row));
    }
    MOE_TRY(q_rope_.run(device, q, moe::absent()));
    MOE_TRY(k_rope_.run(device, k, moe::absent()));
    MOE_TRY(k_cache_.store(device, k_row));
    MOE_TRY(v_cache_.store(device, v_row));
    MOE_TRY(attention_.run(device, q, out));
    return o_.run(device, device.scratch_f32(out_slot_, {n, spec_.n_heads * spec_.v_dim}), device.x());
  }

  [[nodiscard]] uint64_t weight_bytes() const override { return qkv_.weight_bytes() + o_.weight_bytes(); }
  [[nodiscard]] uint64_t cache_bytes_per_token() const override { return k_cache_.bytes_per_token() + v_cache_.bytes_per_token(); }

 private:
  moe::Status build_qk_norm(StepDevice& device, BuildContext& ctx, const moe_tensor& q_shape, const moe_tensor& k_shape) {
    const auto& map = ctx.spec.layer_tensors;
    if (spec_.qk_norm == QkNorm::kPerHead) {
      MOE_TRY(q_norm_.build(device, ctx, map, "q_norm", spec_.k_dim, q_shape));
      return k_norm_.build(device, ctx, map, "k_norm", spec_.k_dim, k_shape);
    }
    if (spec_.qk_norm == QkNorm::kWhole) {
      const int64_t n = ctx.limits.max_tokens;
      MOE_TRY(q_norm_.build(device, ctx, map, "q_norm", q_dim_, shape_f32({n, q_dim_})));
      return k_norm_.build(device, ctx, map, "k_norm", k_dim_, shape_f32({n, k_dim_}));
    }
    return {};
  }

  AttentionSpec spec_;
  int64_t q_dim_ = 0, k_dim_ = 0, v_dim_ = 0;
  Norm norm_, q_norm_, k_norm_;
  Linear qkv_, o_;
  Rope q_rope_, k_rope_;
  CacheSlot k_cache_, v_cache_;
  PagedAttention attention_;
  size_t qkv_slot_ = 0, out_slot_ = 0;
};

// Latent attention (DeepSeek-V2, arXiv 2405.04434) in absorbed form: the cache holds the normalised latent and the rotated shared key,
// kv_rank + rope_dim numbers a token. With W_b = [K_h; V_h] per head, q . (K_h c) = (K_h^T q) . c, so queries move into the latent space
// and the mix of latents comes back through V_h.
class LatentAttention final : public AttentionPart {
 public:
  explicit LatentAttention(const AttentionSpec& spec) : spec_(spec) {}

  moe::Status build(StepDevice& device, BuildContext& ctx) {
    const auto& map = ctx.spec.layer_tensors;
    const int64_t n = ctx.limits.max_tokens;
    const int64_t d = ctx.spec.d_model;
    const int64_t heads = spec_.n_heads;
    q_dim_ = heads * spec_.k_dim;
    down_dim_ = spec_.q_rank > 0 ? spec_.q_rank : q_dim_;
    latent_dim_ = spec_.kv_rank + spec_.rope_dim;
    MOE_TRY(norm_.build(device, ctx, map, "attention_norm", d, shape_f32({n, d})));
    MOE_TRY(build_down(device, ctx));
    const moe_tensor all = shape_f32({n, down_dim_ + latent_dim_});
    if (spec_.q_rank > 0) {
      MOE_TRY(q_norm_.build(device, ctx, map, "q_a_norm", spec_.q_rank, columns(all, 0, spec_.q_rank)));
      MOE_ASSIGN(const MatrixSet q_b, ctx.weights.matrices(map, "q_b", ctx.layer, 1, q_dim_, spec_.q_rank));
      MOE_TRY(q_up_.build(device, ctx, q_b, {}, columns(all, 0, spec_.q_rank), shape_f32({n, q_dim_}), ctx.precision.activation,
                          ctx.precision.encoding));
      q_slot_ = device.scratch().request("q", static_cast<uint64_t>(n * q_dim_) * 4);
    }
    MOE_TRY(kv_norm_.build(device, ctx, map, "kv_a_norm", spec_.kv_rank, columns(all, down_dim_, spec_.kv_rank)));
    MOE_TRY(build_absorbed(device, ctx));
    const moe_tensor absorbed = shape_f32({n, heads, latent_dim_});
    const moe_tensor rope_part = as_heads(shape_f32({n, heads * spec_.rope_dim}), heads);
    RopeSpec rope = spec_.rope;
    MOE_TRY(q_rope_.build(device, rope, rope_part, rope_part));
    MOE_TRY(k_rope_.build(device, rope, as_heads(columns(all, 0, spec_.rope_dim), 1), moe::absent()));
    MOE_TRY(cache_.build(device, ctx, latent_dim_, columns(all, down_dim_, latent_dim_)));
    MOE_TRY(attention_.build(device, ctx, spec_, absorbed, cache_.heads(1, latent_dim_), cache_.heads(1, spec_.kv_rank),
                             shape_f32({n, heads, spec_.kv_rank})));
    return build_output(o_, device, ctx, spec_);
  }

  moe::Status forward(StepDevice& device) override {
    const int64_t n = device.n_tokens();
    const int64_t heads = spec_.n_heads;
    const moe_tensor down = device.scratch_f32(down_slot_, {n, down_dim_ + latent_dim_});
    MOE_TRY(norm_.run(device, device.x(), device.h()));
    MOE_TRY(down_.run(device, device.h(), down));
    moe_tensor q = as_heads(columns(down, 0, q_dim_), heads);
    if (spec_.q_rank > 0) {
      const moe_tensor low = columns(down, 0, spec_.q_rank);
      const moe_tensor up = device.scratch_f32(q_slot_, {n, q_dim_});
      MOE_TRY(q_norm_.run(device, low, low));
      MOE_TRY(q_up_.run(device, low, up));
      q = as_heads(up, heads);
    }
    const moe_tensor latent = columns(down, down_dim_, spec_.kv_rank);
    const moe_tensor k_rope = as_heads(columns(down, down_dim_ + spec_.kv_rank, spec_.rope_dim), 1);
    MOE_TRY(kv_norm_.run(device, latent, latent));
    MOE_TRY(k_rope_.run(device, k_rope, moe::absent()));
    MOE_TRY(cache_.store(device, columns(down, down_dim_, latent_dim_)));
    const moe_tensor absorbed = device.scratch_f32(absorbed_slot_, {n, heads, latent_dim_});
    MOE_TRY(k_up_.run(device, part(q, 0, spec_.nope_dim), part(absorbed, 0, spec_.kv_rank)));
    MOE_TRY(q_rope_.run(device, part(q, spec_.nope_dim, spec_.rope_dim), part(absorbed, spec_.kv_rank, spec_.rope_dim)));
    const moe_tensor mixed = device.scratch_f32(mixed_slot_, {n, heads, spec_.kv_rank});
    MOE_TRY(attention_.run(device, absorbed, mixed));
    MOE_TRY(v_up_.run(device, mixed, device.scratch_f32(out_slot_, {n, heads, spec_.v_dim})));
    return o_.run(device, device.scratch_f32(out_slot_, {n, heads * spec_.v_dim}), device.x());
  }

  [[nodiscard]] uint64_t weight_bytes() const override {
    return down_.weight_bytes() + q_up_.weight_bytes() + k_up_.weight_bytes() + v_up_.weight_bytes() + o_.weight_bytes();
  }
  [[nodiscard]] uint64_t cache_bytes_per_token() const override { return cache_.bytes_per_token(); }

 private:
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
    MOE_ASSIGN(const auto bias, joined_bias(ctx, spec_.qkv_bias, {{spec_.q_rank > 0 ? "q_a_bias" : "q_bias", down_dim_}, {"kv_a_bias", latent_dim_}}));
    down_slot_ = device.scratch().request("latent_down", static_cast<uint64_t>(n * (down_dim_ + latent_dim_)) * 4);
    return down_.build(device, ctx, down, bias, shape_f32({n, d}), shape_f32({n, down_dim_ + latent_dim_}), ctx.precision.activation,
                       ctx.precision.encoding);
  }

  // K_h transposed [kv_rank, nope_dim] and V_h [v_dim, kv_rank] of every head: from one matrix, or stored like that (k_b, v_b).
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
    MOE_TRY(k_up_.build(device, ctx, k_up, {}, q_nope, part_shape(n, heads, latent_dim_, spec_.kv_rank), ctx.precision.activation,
                        ctx.precision.encoding));
    return v_up_.build(device, ctx, v_up, {}, shape_f32({n, heads, spec_.kv_rank}), shape_f32({n, heads, spec_.v_dim}), ctx.precision.activation,
                       ctx.precision.encoding);
  }

  // [n, heads, dim] inside rows of heads * stride.
  static moe_tensor part_shape(int64_t n, int64_t heads, int64_t stride, int64_t dim) {
    moe_tensor t = shape_f32({n, heads, stride});
    t.shape[2] = dim;
    return t;
  }

  AttentionSpec spec_;
  int64_t q_dim_ = 0, down_dim_ = 0, latent_dim_ = 0;
  Norm norm_, q_norm_, kv_norm_;
  Linear down_, q_up_, k_up_, v_up_, o_;
  Rope q_rope_, k_rope_;
  CacheSlot cache_;
  PagedAttention attention_;
  size_t down_slot_ = 0, q_slot_ = 0, absorbed_slot_ = 0, mixed_slot_ = 0, out_slot_ = 0;
};

}  // namespace

moe::Result<std::unique_ptr<AttentionPart>> AttentionPart::build(StepDevice& device, BuildContext& ctx) {
  const AttentionSpec& spec = ctx.spec.layers[static_cast<size_t>(ctx.layer)].attention;
  if (spec.clip_qkv > 0) {
    return moe::unimplemented(fmt::format("layer {}: attention.clip_qkv: expected none, got {}", ctx.layer, spec.clip_qkv));
  }
  if (spec.kind == AttentionKind::kLatent) {
    auto part = std::make_unique<LatentAttention>(spec);
    MOE_TRY(part->build(device, ctx));
    return std::unique_ptr<AttentionPart>(std::move(part));
  }
  auto part = std::make_unique<GroupedQueryAttention>(spec);
  MOE_TRY(part->build(device, ctx));
  return std::unique_ptr<AttentionPart>(std::move(part));
}

}  // namespace patchbay
