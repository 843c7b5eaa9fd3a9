#include "core/engine/layer.hpp"

namespace patchbay {

moe::Status Norm::build(StepDevice& device, BuildContext& ctx, const TensorMap& map, const std::string& role,
                        int64_t dim, const moe_tensor& x_shape, const NormKind& kind) {
  args_ = moe::op_args<moe_norm_args>();
  if (kind.has_weight) {
    MOE_ASSIGN(const auto weight, ctx.weights.vectors(map, role, ctx.layer, 1, dim));
    MOE_ASSIGN(weight_, WeightLoader::upload(device.device(), weight));
    args_.weight = moe::tensor(weight_.data(), MOE_F32, {dim}, device.device().where());
  }
  if (kind.has_weight && ctx.spec.norm_bias) {
    MOE_ASSIGN(const auto bias, ctx.weights.vectors(map, role + "_bias", ctx.layer, 1, dim));
    MOE_ASSIGN(bias_, WeightLoader::upload(device.device(), bias));
    args_.bias = moe::tensor(bias_.data(), MOE_F32, {dim}, device.device().where());
  }
  args_.eps = kind.eps.value_or(ctx.spec.norm_eps);
  args_.kind = ctx.spec.rms_norm ? MOE_NORM_RMS : MOE_NORM_LAYER;
  args_.x = x_shape;
  args_.out = x_shape;
  MOE_ASSIGN(op_, find_op(device, MOE_OP_NORM, args_));
  return {};
}

moe_norm_args Norm::args(const moe_tensor& x, const moe_tensor& out) const {
  moe_norm_args call = args_;
  call.x = x;
  call.out = out;
  return call;
}

moe::Status Norm::run(StepDevice& device, const moe_tensor& x, const moe_tensor& out) const {
  moe_norm_args call = args(x, out);
  return device.launch(op_, call);
}

moe::Status Linear::build(StepDevice& device, BuildContext& ctx, const MatrixSet& set, const std::vector<float>& bias,
                          const moe_tensor& x_shape, const moe_tensor& out_shape, moe_activation_type activation,
                          const char* encoding, bool accumulate, float scale) {
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

moe::Status Linear::set_bias(StepDevice& device, std::span<const float> bias) {
  return device.device().upload(bias_.data(), bias.data(), bias.size_bytes());
}

moe_matmul_args Linear::args(const moe_tensor& x, const moe_tensor& out) const {
  moe_matmul_args call = args_;
  call.x = x;
  call.out = out;
  return call;
}

moe::Status Linear::run(StepDevice& device, const moe_tensor& x, const moe_tensor& out) const {
  moe_matmul_args call = args(x, out);
  return device.launch(op_, call);
}

moe::Status NormedProduct::find(StepDevice& device, const Norm& norm, const moe::Op& product,
                                const moe_matmul_args& largest, bool norm_is_read) {
  moe_norm_args first = norm.largest();
  moe_matmul_args second = largest;
  const Fused::Part parts[] = {{MOE_OP_NORM, &norm.op(), &first.header}, {MOE_OP_MATMUL, &product, &second.header}};
  return fused_.find(device, parts, norm_is_read ? 0 : 1);
}

moe::Status NormedProduct::run(StepDevice& device, const Norm& norm, const moe::Op& product, moe_matmul_args args,
                               const moe_tensor& x, const moe_tensor& normed) const {
  moe_norm_args first = norm.args(x, normed);
  args.x = normed;
  const Fused::Part parts[] = {{MOE_OP_NORM, &norm.op(), &first.header}, {MOE_OP_MATMUL, &product, &args.header}};
  return fused_.run(device, parts);
}

std::array<Fused::Part, 3> RoutedProduct::parts(const Norm& norm, const moe::Op& product, Calls& c) const {
  return {{{MOE_OP_NORM, &norm.op(), &c.norm.header},
           {MOE_OP_MATMUL, &product, &c.product.header},
           {MOE_OP_ROUTE, &route_, &c.route.header}}};
}

moe::Status RoutedProduct::find(StepDevice& device, const Norm& norm, const moe::Op& product,
                                const moe_matmul_args& largest, const moe_route_op_args& route) {
  Calls calls{norm.largest(), largest, route};
  MOE_ASSIGN(route_, find_op(device, MOE_OP_ROUTE, calls.route));
  constexpr uint32_t kProduct = 2;
  return fused_.find(device, parts(norm, product, calls), kProduct);
}

moe::Status RoutedProduct::run(StepDevice& device, const Norm& norm, const moe::Op& product,
                               const moe_matmul_args& args, const moe_tensor& x, const moe_tensor& normed,
                               const moe_route_op_args& route) const {
  Calls calls{norm.args(x, normed), args, route};
  calls.product.x = normed;
  return fused_.run(device, parts(norm, product, calls));
}

moe::Status Branch::build(StepDevice& device, BuildContext& ctx, const std::string& before, const std::string& after) {
  residual_scale_ = ctx.spec.residual_scale;
  const int64_t d = ctx.spec.d_model;
  const moe_tensor x = shape_f32({ctx.limits.max_tokens, d});
  if (!before.empty()) MOE_TRY(before_.build(device, ctx, ctx.spec.layer_tensors, before, d, x));
  if (after.empty()) return {};
  MOE_TRY(after_.build(device, ctx, ctx.spec.layer_tensors, after, d, x));
  slot_ = device.scratch().request("branch", static_cast<uint64_t>(ctx.limits.max_tokens * d) * 4);
  add_args_ = moe::op_args<moe_add_args>();
  add_args_.x = add_args_.y = add_args_.out = x;
  MOE_ASSIGN(add_op_, find_op(device, MOE_OP_ADD, add_args_));
  return {};
}

moe::Status Branch::find_product(StepDevice& device, const moe::Op& product, const moe_matmul_args& largest,
                                 bool input_is_read) {
  return before_.present() ? first_.find(device, before_, product, largest, input_is_read) : moe::Status();
}

moe::Result<bool> Branch::find_route(StepDevice& device, const moe::Op& product, const moe_matmul_args& largest,
                                     const moe_route_op_args& route) {
  MOE_TRY(routed_.find(device, before_, product, largest, route));
  return routed_.found();
}

moe::Status Branch::enter(StepDevice& device) const {
  return before_.present() ? before_.run(device, device.x(), device.h()) : moe::Status();
}

moe::Status Branch::enter_product(StepDevice& device, const moe::Op& product, moe_matmul_args args) const {
  if (before_.present()) return first_.run(device, before_, product, args, device.x(), device.h());
  args.x = device.x();
  return device.launch(product, args);
}

moe::Status Branch::enter_route(StepDevice& device, const moe::Op& product, const moe_matmul_args& args,
                                const moe_route_op_args& route) const {
  return routed_.run(device, before_, product, args, device.x(), input(device), route);
}

moe::Result<moe_tensor> Branch::target(StepDevice& device) const {
  if (!after_.present()) return device.x();
  const moe_tensor own = device.scratch_f32(slot_, {device.n_tokens(), device.x().shape[1]});
  // Zero times the stream: what is not a number there stays one, which is right.
  moe_add_args zero = add_args_;
  zero.x = device.x();
  zero.y = moe::absent();
  zero.out = own;
  zero.alpha = 0;
  MOE_TRY(device.launch(add_op_, zero));
  return own;
}

moe::Status Branch::leave(StepDevice& device) const {
  if (!after_.present()) return {};
  const moe_tensor own = device.scratch_f32(slot_, {device.n_tokens(), device.x().shape[1]});
  MOE_TRY(after_.run(device, own, own));
  moe_add_args add = add_args_;
  add.x = add.out = device.x();
  add.y = own;
  add.alpha = 1;
  add.beta = residual_scale_;
  return device.launch(add_op_, add);
}

}  // namespace patchbay
