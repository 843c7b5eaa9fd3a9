#include "core/engine/attention_parts.hpp"

#include <algorithm>

namespace patchbay {

using moe::tensor;

int64_t cache_element_bytes(int32_t dtype) { return dtype == MOE_F32 ? 4 : 2; }

moe::Result<std::unique_ptr<AttentionPart>> AttentionPart::build(StepDevice& device, BuildContext& ctx) {
  const AttentionSpec& spec = ctx.spec.layers[static_cast<size_t>(ctx.layer)].attention;
  return spec.kind == AttentionKind::kLatent ? build_latent(device, ctx, spec) : build_grouped_query(device, ctx, spec);
}

moe::Status Rope::build(StepDevice& device, const RopeSpec& spec, const moe_tensor& x_shape,
                        const moe_tensor& out_shape) {
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

moe_rope_args Rope::args(const StepDevice& device, const moe_tensor& x, const moe_tensor& out) const {
  moe_rope_args call = args_;
  call.x = x;
  call.out = out;
  call.positions = device.positions();
  return call;
}

moe::Status CacheSlot::build(StepDevice& device, BuildContext& ctx, int64_t dim, int64_t heads,
                             const moe_tensor& x_shape) {
  dim_ = dim;
  heads_ = heads;
  dtype_ = ctx.cache_dtype;
  n_rows_ = ctx.limits.n_pages * ctx.limits.page_tokens;
  where_ = device.device().where();
  MOE_ASSIGN(memory_, device.device().alloc(static_cast<uint64_t>(n_rows_ * dim * cache_element_bytes(dtype_))));
  args_ = moe::op_args<moe_cache_store_args>();
  args_.x = x_shape;
  args_.rows = tensor(nullptr, MOE_I64, {x_shape.shape[0]});
  if (heads_ > 1) {
    args_.header.must_understand = MOE_CACHE_STORE_HEADS;
    args_.cache = this->heads(dim_ / heads_);
    auto found = find_op(device, MOE_OP_CACHE_STORE, args_);
    if (found.ok()) {
      op_ = std::move(found).value();
      return {};
    }
    if (found.error().code != MOE_UNIMPLEMENTED) return found.error();
    args_.header.must_understand = 0;
  }
  args_.cache = tensor(memory_.data(), dtype_, {n_rows_, dim_}, where_);
  MOE_ASSIGN(op_, find_op(device, MOE_OP_CACHE_STORE, args_));
  return {};
}

moe_cache_store_args CacheSlot::args(const StepDevice& device, const moe_tensor& x) const {
  moe_cache_store_args call = args_;
  call.x = x;
  call.rows = device.cache_rows();
  return call;
}

moe_tensor CacheSlot::heads(int64_t dim) const {
  const int64_t head_dim = dim_ / heads_;
  moe_tensor t = tensor(memory_.data(), dtype_, {n_rows_, heads_, dim}, where_);
  const bool by_head = (args_.header.must_understand & MOE_CACHE_STORE_HEADS) != 0;
  t.strides[0] = by_head ? head_dim : dim_;
  t.strides[1] = by_head ? n_rows_ * head_dim : head_dim;
  return t;
}

moe::Status PagedAttention::build(StepDevice& device, BuildContext& ctx, const AttentionSpec& spec,
                                  const moe_tensor& q_shape, const moe_tensor& k, const moe_tensor& v,
                                  const moe_tensor& out_shape) {
  args_ = moe::op_args<moe_attention_args>();
  args_.k = k;
  args_.v = v;
  args_.window = spec.window;
  args_.scale = spec.scale;
  args_.soft_cap = spec.soft_cap;
  if (spec.chunk > 0) {
    args_.chunk = spec.chunk;
    args_.header.must_understand |= MOE_ATTENTION_CHUNK;
  }
  if (spec.temperature.strength > 0) {
    args_.temperature = spec.temperature.strength;
    args_.temperature_length = spec.temperature.length;
    args_.temperature_offset = spec.temperature.offset;
    args_.header.must_understand |= MOE_ATTENTION_TEMPERATURE;
  }
  if (spec.sinks) {
    MOE_ASSIGN(const auto sinks, ctx.weights.vectors(ctx.spec.layer_tensors, "sinks", ctx.layer, 1, spec.n_heads));
    MOE_ASSIGN(sinks_, WeightLoader::upload(device.device(), sinks));
    args_.sinks = tensor(sinks_.data(), MOE_F32, {spec.n_heads}, device.device().where());
  }
  args_.q = q_shape;
  args_.out = out_shape;
  args_.sequences = shape_i32({ctx.limits.max_tokens});
  args_.positions = shape_i32({ctx.limits.max_tokens});
  args_.pages.page_table = shape_i32({ctx.limits.max_sequences, ctx.limits.max_pages});
  args_.pages.page_size = ctx.limits.page_tokens;
  MOE_ASSIGN(op_, find_op(device, MOE_OP_ATTENTION, args_));
  return {};
}

moe_attention_args PagedAttention::args(const StepDevice& device, const moe_tensor& q, const moe_tensor& out) const {
  moe_attention_args call = args_;
  call.q = q;
  call.out = out;
  call.sequences = device.sequences();
  call.positions = device.positions();
  call.pages = device.pages();
  return call;
}

moe::Result<std::vector<float>> joined_bias(BuildContext& ctx, bool wanted,
                                            const std::vector<std::pair<std::string, int64_t>>& parts) {
  std::vector<float> out;
  if (!wanted) return out;
  const auto& map = ctx.spec.layer_tensors;
  const bool some =
      std::any_of(parts.begin(), parts.end(), [&](const auto& p) { return ctx.weights.has(map, p.first, ctx.layer); });
  for (const auto& [role, n] : parts) {
    if (some && !ctx.weights.has(map, role, ctx.layer)) {
      out.resize(out.size() + static_cast<size_t>(n), 0.0F);
      continue;
    }
    MOE_ASSIGN(const auto bias, ctx.weights.vectors(map, role, ctx.layer, 1, n));
    out.insert(out.end(), bias.begin(), bias.end());
  }
  return out;
}

moe::Status build_branch(Branch& branch, StepDevice& device, BuildContext& ctx) {
  return branch.build(device, ctx, ctx.spec.norm_before ? "attention_norm" : "",
                      ctx.spec.norm_after ? "attention_out_norm" : "");
}

moe::Status build_output(Linear& o, StepDevice& device, BuildContext& ctx, const AttentionSpec& spec,
                         const Branch& branch) {
  const int64_t n_in = spec.n_heads * spec.v_dim;
  MOE_ASSIGN(const MatrixSet set,
             ctx.weights.matrices(ctx.spec.layer_tensors, "o", ctx.layer, 1, ctx.spec.d_model, n_in));
  MOE_ASSIGN(const auto bias, joined_bias(ctx, spec.o_bias, {{"o_bias", ctx.spec.d_model}}));
  return o.build(device, ctx, set, bias, shape_f32({ctx.limits.max_tokens, n_in}),
                 shape_f32({ctx.limits.max_tokens, ctx.spec.d_model}), ctx.precision.activation, ctx.precision.encoding,
                 true, branch.scale());
}

}  // namespace patchbay
