#include "core/engine/feed_forward.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace patchbay {

using moe::tensor;

FeedForwardPart::~FeedForwardPart() {
  if (router_ != nullptr) router_component_->destroy(router_);
  if (expert_ != nullptr) expert_component_->destroy(expert_);
}

moe::Result<std::unique_ptr<FeedForwardPart>> FeedForwardPart::build(StepDevice& device, BuildContext& ctx, Host& host,
                                                                     std::optional<ChosenPart<moe_router>> router, ChosenPart<moe_expert> expert,
                                                                     const PlanSettings& plan_settings, const FeedForwardPart* previous) {
  std::unique_ptr<FeedForwardPart> part(new FeedForwardPart());
  part->previous_ = previous;
  part->device_ = &device;
  moe_plan& plan = part->largest_plan_ = moe::make<moe_plan>();
  plan.ids = plan.weights = plan.count = plan.aux = moe::absent();
  MOE_TRY(part->branch_.build(device, ctx, ctx.spec.norm_before ? "ffn_norm" : "", ctx.spec.norm_after ? "ffn_out_norm" : ""));
  if (router) MOE_TRY(part->build_router(device, ctx, host, std::move(*router), plan_settings));
  MOE_TRY(part->build_expert(device, ctx, host, std::move(expert)));
  return part;
}

moe::Status FeedForwardPart::build_router(StepDevice& device, BuildContext& ctx, Host& host, ChosenPart<moe_router> chosen, const PlanSettings& plan) {
  const FeedForwardSpec& spec = ctx.spec.layers[static_cast<size_t>(ctx.layer)].ffn;
  router_component_ = chosen.component;
  router_name_ = chosen.component.header().name;
  router_subject_ = chosen.subject;
  n_experts_ = spec.n_experts;
  n_ids_ = spec.n_experts + spec.n_zero_experts;
  moe_router_config config = moe::make<moe_router_config>();
  config.layer = ctx.layer;
  config.n_layers = static_cast<int64_t>(ctx.spec.layers.size());
  config.d_model = ctx.spec.d_model;
  config.n_experts = spec.n_experts;
  config.n_zero_experts = spec.n_zero_experts;
  config.n_vocab = ctx.spec.n_vocab;
  moe::MessageBuffer message;
  moe_status status = router_component_->create(host.abi(), &config, chosen.values.data(), chosen.values.size(), &router_, message.get());
  if (status != MOE_OK) return message.error(status).in(router_subject_);
  router_spec_ = moe::make<moe_router_spec>();
  status = router_component_->describe(router_, &router_spec_, message.get());
  if (status != MOE_OK) return message.error(status).in(router_subject_);
  if (auto s = moe::check_struct(&router_spec_, "spec"); !s.ok()) return s.error().in(router_subject_);
  if (router_spec_.k_max < 1 || router_spec_.k_max > n_ids_) {
    return moe::invalid(fmt::format("{}: k: expected 1 to {} (the layer's experts), got {}", router_subject_, n_ids_, router_spec_.k_max));
  }
  on_host_ = (router_spec_.inputs & MOE_INPUT_HOST) != 0 && !device.device().host_visible();
  fills_count_ = router_spec_.dynamic != 0;
  if (plan.capacity > 0) {
    capacity_.emplace(plan.capacity, plan.overflow, n_experts_, router_spec_.k_max, ctx.limits.max_tokens);
    router_spec_.dynamic = 1;
  }
  MOE_TRY(build_gate(device, ctx, plan));
  MOE_TRY(build_plan(device, ctx));
  const int64_t n = ctx.limits.max_tokens;
  MOE_ASSIGN(const auto bound, bind(device, ctx, router_spec_.weights, router_spec_.n_weights, ctx.spec.router_tensors, router_subject_, false));
  uint64_t workspace = 0;
  status = router_component_->prepare(router_, &device.compute(), bound.data(), static_cast<uint32_t>(bound.size()), n, &workspace, message.get());
  if (status != MOE_OK) return message.error(status).in(router_subject_);
  if (on_host_) {
    MOE_ASSIGN(host_workspace_, device.device().alloc_host(std::max<uint64_t>(workspace, 64)));
    return {};
  }
  device.request_workspace(workspace);
  return find_route(device, n);
}

// The product that the router's logits come from, with a bias where one is to follow the load.
moe::Status FeedForwardPart::build_gate(StepDevice& device, BuildContext& ctx, const PlanSettings& plan) {
  const int64_t n = ctx.limits.max_tokens;
  if (plan.balance > 0 && router_spec_.n_logits != n_ids_) {
    return moe::invalid(fmt::format("{}: plan.balance: expected a router with a logit for each of the {} experts, got one with {}", router_subject_, n_ids_,
                                    router_spec_.n_logits));
  }
  if (router_spec_.n_logits == 0) return {};
  std::vector<float> bias;
  if (plan.balance > 0) {
    balancer_.emplace(plan.balance, n_ids_);
    bias.resize(static_cast<size_t>(n_ids_));
  }
  MOE_ASSIGN(const MatrixSet gate, ctx.weights.matrices(ctx.spec.router_tensors, "gate", ctx.layer, 1, router_spec_.n_logits, ctx.spec.d_model));
  // Gate logits are f32 whatever the precision: bf16 collapses near ties.
  MOE_TRY(gate_.build(device, ctx, gate, bias, shape_f32({n, ctx.spec.d_model}), shape_f32({n, router_spec_.n_logits}), MOE_F32, "auto"));
  MOE_TRY(branch_.find_product(device, gate_.op(), gate_.largest(), true));
  logits_slot_ = device.scratch().request("router_logits", static_cast<uint64_t>(n * router_spec_.n_logits) * 4);
  weight_bytes_ += gate_.weight_bytes();
  read_bytes_ += gate_.weight_bytes();
  return {};
}

// Norm, gate and decision as one operation, if the router's part of it is one and the backend has a faster way for
// calls of up to n tokens. Nothing else reads the logits then.
moe::Status FeedForwardPart::find_route(StepDevice& device, int64_t n) {
  const auto* op = extension<moe_router_op>(router_component_.header(), MOE_ROUTER_OP_ID);
  const bool keeps_more = router_spec_.context_floats > 0 || router_spec_.aux_floats > 0;
  if (op == nullptr || !gate_.op() || keeps_more) return {};
  moe_route_args largest = moe::make<moe_route_args>();
  largest.n_tokens = n;
  largest.logits = shape_f32({n, router_spec_.n_logits});
  largest.plan = largest_plan_;
  largest.plan.ids = shape_i32({n, router_spec_.k_max});
  if (fills_count_) largest.plan.count = shape_i32({n});
  route_op_ = op;
  MOE_ASSIGN(const moe_route_op_args route, route_op(largest));
  MOE_ASSIGN(const bool found, branch_.find_route(device, gate_.op(), gate_.largest(), route));
  if (!found) route_op_ = nullptr;
  return {};
}

// The operation that the router's route(args) would launch.
moe::Result<moe_route_op_args> FeedForwardPart::route_op(const moe_route_args& args) const {
  auto op = moe::op_args<moe_route_op_args>();
  moe::MessageBuffer message;
  const moe_status status = route_op_->op(router_, &args, &op, message.get());
  if (status != MOE_OK) return message.error(status).in(router_subject_);
  return op;
}

moe::Status FeedForwardPart::build_plan(StepDevice& device, BuildContext& ctx) {
  const int64_t n = ctx.limits.max_tokens;
  const int64_t k = router_spec_.k_max;
  const moe_device where = device.device().where();
  decision_column_ = device.request_decisions(k + (router_spec_.dynamic != 0 ? 1 : 0));
  MOE_ASSIGN(weights_, device.device().alloc(static_cast<uint64_t>(n * k) * 4));
  largest_plan_.weights = tensor(weights_.data(), MOE_F32, {n, k}, where);
  largest_plan_.weight_on = router_spec_.weight_on;
  if (router_spec_.aux_floats > 0) {
    MOE_ASSIGN(aux_, device.device().alloc(static_cast<uint64_t>(n * router_spec_.aux_floats) * 4));
    largest_plan_.aux = tensor(aux_.data(), MOE_F32, {n, router_spec_.aux_floats}, where);
  }
  context_rows_ = moe::absent();
  if (router_spec_.context_floats > 0) {
    const int64_t rows = ctx.limits.n_pages * ctx.limits.page_tokens;
    const uint64_t n_bytes = static_cast<uint64_t>(rows * router_spec_.context_floats) * 4;
    MOE_ASSIGN(context_, on_host_ ? device.device().alloc_host(n_bytes) : device.device().alloc(n_bytes));
    context_rows_ = tensor(context_.data(), MOE_F32, {rows, router_spec_.context_floats}, on_host_ ? moe::kHost : where);
  }
  const bool limits_copies = capacity_ && !device.device().host_visible();
  return on_host_ || limits_copies ? allocate_host(device.device(), ctx.limits, ctx.spec.d_model) : moe::Status();
}

// What a router that scores on the host reads and writes there.
moe::Status FeedForwardPart::allocate_host(Device& device, const StepLimits& limits, int64_t d_model) {
  const int64_t n = limits.max_tokens;
  const auto take = [&](HostCopy& copy, bool wanted, int32_t dtype, int64_t width) -> moe::Status {
    copy.view = moe::absent();
    if (!wanted) return {};
    MOE_ASSIGN(copy.memory, device.alloc_host(static_cast<uint64_t>(n * width) * 4));
    copy.view = tensor(copy.memory.data(), dtype, {n, width});
    return {};
  };
  const int64_t d = d_model;
  MOE_TRY(take(host_logits_, router_spec_.n_logits > 0, MOE_F32, router_spec_.n_logits));
  MOE_TRY(take(host_hidden_, (router_spec_.inputs & MOE_INPUT_HIDDEN) != 0, MOE_F32, d));
  MOE_TRY(take(host_before_, wants_before_attention(), MOE_F32, d));
  MOE_TRY(take(host_ids_, true, MOE_I32, router_spec_.k_max));
  MOE_TRY(take(host_weights_, true, MOE_F32, router_spec_.k_max));
  MOE_TRY(take(host_count_, router_spec_.dynamic != 0, MOE_I32, 1));
  MOE_TRY(take(host_aux_, router_spec_.aux_floats > 0, MOE_F32, router_spec_.aux_floats));
  const bool with_previous = (router_spec_.inputs & MOE_INPUT_PREVIOUS_PLAN) != 0 && previous_ != nullptr;
  const moe_router_spec before = with_previous ? previous_->router_spec_ : moe_router_spec{};
  MOE_TRY(take(previous_ids_, with_previous, MOE_I32, before.k_max));
  MOE_TRY(take(previous_weights_, with_previous, MOE_F32, before.k_max));
  MOE_TRY(take(previous_count_, before.dynamic != 0, MOE_I32, 1));
  return take(previous_aux_, before.aux_floats > 0, MOE_F32, before.aux_floats);
}

// Enqueues the copy of a contiguous tensor [n, width] or [n]; whoever reads it waits first.
moe::Status FeedForwardPart::fetch(Device& device, HostCopy& copy, const moe_tensor& from) {
  if (!moe::present(copy.view)) return {};
  copy.view.shape[0] = from.shape[0];
  return device.start_download(copy.view.data, from.data, static_cast<uint64_t>(from.shape[0] * copy.view.shape[1]) * 4);
}
moe::Status FeedForwardPart::send(Device& device, const HostCopy& copy, const moe_tensor& to) {
  if (!moe::present(copy.view)) return {};
  return device.upload(to.data, copy.view.data, static_cast<uint64_t>(to.shape[0] * copy.view.shape[1]) * 4);
}

moe::Status FeedForwardPart::build_expert(StepDevice& device, BuildContext& ctx, Host& host, ChosenPart<moe_expert> chosen) {
  const FeedForwardSpec& spec = ctx.spec.layers[static_cast<size_t>(ctx.layer)].ffn;
  expert_component_ = chosen.component;
  expert_name_ = chosen.component.header().name;
  expert_subject_ = chosen.subject;
  moe_expert_config config = moe::make<moe_expert_config>();
  config.layer = ctx.layer;
  config.d_model = ctx.spec.d_model;
  config.n_experts = spec.n_experts;
  config.n_zero_experts = spec.n_zero_experts;
  config.k_max = router_spec_.k_max;
  config.d_expert = spec.d_expert;
  config.d_shared = spec.d_shared;
  config.first_expert = 0;
  config.n_local_experts = spec.n_experts;
  config.activation = ctx.precision.activation;
  config.weight_on = router_spec_.weight_on;
  moe::MessageBuffer message;
  moe_status status = expert_component_->create(host.abi(), &config, chosen.values.data(), chosen.values.size(), &expert_, message.get());
  if (status != MOE_OK) return message.error(status).in(expert_subject_);
  moe_expert_spec declared = moe::make<moe_expert_spec>();
  status = expert_component_->describe(expert_, &declared, message.get());
  if (status != MOE_OK) return message.error(status).in(expert_subject_);
  if (auto s = moe::check_struct(&declared, "spec"); !s.ok()) return s.error().in(expert_subject_);
  const TensorMap& map = spec.n_experts > 0 ? ctx.spec.expert_tensors : ctx.spec.dense_tensors;
  MOE_ASSIGN(const auto bound, bind(device, ctx, declared.weights, declared.n_weights, map, expert_subject_, spec.n_experts > 0));
  uint64_t workspace = 0;
  status = expert_component_->prepare(expert_, &device.compute(), bound.data(), static_cast<uint32_t>(bound.size()), ctx.limits.max_tokens, &workspace,
                                      message.get());
  if (status != MOE_OK) return message.error(status).in(expert_subject_);
  device.request_workspace(workspace);
  return {};
}

moe::Result<std::vector<moe_bound_weight>> FeedForwardPart::bind(StepDevice& device, BuildContext& ctx, const moe_weight_spec* specs, uint32_t n_specs,
                                                                 const TensorMap& map, const std::string& subject, bool routed) {
  std::vector<moe_bound_weight> bound;
  for (uint32_t i = 0; i < n_specs; ++i) {
    const moe_weight_spec& spec = moe::nth(specs, i);
    moe_bound_weight weight{};
    weight.role = spec.role;
    if (spec.optional != 0 && !ctx.weights.has(map, spec.role, ctx.layer)) {
      bound.push_back(weight);
      continue;
    }
    if (spec.placement == MOE_PLACE_PREPARED) {
      auto set = ctx.weights.matrices(map, spec.role, ctx.layer, spec.n_groups, spec.n_out, spec.n_in);
      if (!set.ok()) return set.error().in(subject);
      MOE_ASSIGN(PreparedWeight prepared, ctx.weights.prepare(device.device(), *set, ctx.precision.encoding));
      weight.prepared = prepared.get();
      weight_bytes_ += prepared.bytes();
      const auto groups = static_cast<uint64_t>(spec.n_groups);  // several: one for each expert, or for each few of them
      const bool chosen = routed && groups > 1;
      if (chosen) expert_bytes_ += prepared.bytes() / groups;
      read_bytes_ += chosen ? prepared.bytes() / groups * std::min(static_cast<uint64_t>(router_spec_.k_max), groups) : prepared.bytes();
      prepared_.push_back(std::move(prepared));
    } else {
      auto values = ctx.weights.vectors(map, spec.role, ctx.layer, spec.n_groups, spec.n_out * spec.n_in);
      if (!values.ok()) return values.error().in(subject);
      if (spec.placement == MOE_PLACE_HOST) {
        host_plain_.push_back(std::move(*values));
        weight.plain = host_plain_.back().data();
      } else {
        MOE_ASSIGN(Buffer buffer, WeightLoader::upload(device.device(), *values));
        weight.plain = static_cast<const float*>(buffer.data());
        plain_.push_back(std::move(buffer));
      }
    }
    bound.push_back(weight);
  }
  return bound;
}

moe_plan FeedForwardPart::plan() const {
  moe_plan plan = largest_plan_;
  if (router_ == nullptr) return plan;
  const int64_t n = device_->n_tokens();
  plan.ids = device_->decisions(decision_column_, router_spec_.k_max);
  plan.weights.shape[0] = n;
  if (router_spec_.dynamic != 0) {
    plan.count = device_->decisions(decision_column_ + router_spec_.k_max, 1);
    plan.count.ndim = 1;
  }
  if (moe::present(plan.aux)) plan.aux.shape[0] = n;
  return plan;
}

moe_route_args FeedForwardPart::route_args(StepDevice& device) const {
  moe_route_args args = moe::make<moe_route_args>();
  args.n_tokens = device.n_tokens();
  args.logits = args.hidden = args.before_attention = moe::absent();
  args.context = moe::make<moe_context>();
  args.context.rows = context_rows_;
  args.workspace = device.workspace();
  args.workspace_bytes = device.workspace_bytes();
  return args;
}

moe::Status FeedForwardPart::call_router(const moe_route_args& args) {
  moe::MessageBuffer message;
  const moe_status status = router_component_->route(router_, &args, message.get());
  if (status != MOE_OK) return message.error(status).in(router_subject_);
  return {};
}

moe::Status FeedForwardPart::prepare_route(StepDevice& device) {
  if (!gate_.op()) {
    return branch_.enter(device);
  }
  const moe_tensor logits = device.scratch_f32(logits_slot_, {device.n_tokens(), router_spec_.n_logits});
  const moe_matmul_args gate = gate_.args(moe::absent(), logits);
  if (route_op_ == nullptr) return branch_.enter_product(device, gate_.op(), gate);
  moe_route_args args = route_args(device);
  args.logits = logits;
  args.plan = router_plan();
  MOE_ASSIGN(const moe_route_op_args route, route_op(args));
  return branch_.enter_route(device, gate_.op(), gate, route);
}

// The plan as the router fills it: without a count where only the capacity gives it one.
moe_plan FeedForwardPart::router_plan() const {
  moe_plan filled = plan();
  if (!fills_count_) filled.count = moe::absent();
  return filled;
}

moe::Status FeedForwardPart::route(StepDevice& device, const moe_tensor& before_attention) {
  if (router_ == nullptr) return {};
  if (on_host_) return route_on_host(device, before_attention);
  if (route_op_ == nullptr) MOE_TRY(ask_router(device, before_attention));
  return capacity_ ? limit(device) : moe::Status();
}

moe::Status FeedForwardPart::ask_router(StepDevice& device, const moe_tensor& before_attention) {
  moe_route_args args = route_args(device);
  if (router_spec_.n_logits > 0) args.logits = device.scratch_f32(logits_slot_, {args.n_tokens, router_spec_.n_logits});
  if ((router_spec_.inputs & MOE_INPUT_HIDDEN) != 0) args.hidden = branch_.input(device);
  if (wants_before_attention()) args.before_attention = before_attention;
  args.token_ids = device.ids();
  args.positions = device.positions();
  args.sequences = device.sequences();
  if ((router_spec_.inputs & MOE_INPUT_PREVIOUS_PLAN) != 0 && previous_ != nullptr) {
    previous_plan_ = previous_->plan();
    args.previous = &previous_plan_;
  }
  args.context.pages = device.pages();
  args.plan = router_plan();
  return call_router(args);
}

// The plan cut to the experts' capacity, on the host.
void FeedForwardPart::limit_on_host(const moe_plan& plan) {
  const int64_t n = plan.ids.shape[0];
  auto* count = static_cast<int32_t*>(plan.count.data);
  if (!fills_count_) std::fill_n(count, n, static_cast<int32_t>(router_spec_.k_max));
  capacity_->apply(n, static_cast<int32_t*>(plan.ids.data), static_cast<float*>(plan.weights.data), count);
}
moe::Status FeedForwardPart::limit(StepDevice& step) {
  Device& device = step.device();
  const moe_plan there = plan();
  if (device.host_visible()) {
    limit_on_host(there);
    return {};
  }
  MOE_TRY(fetch(device, host_ids_, there.ids));
  MOE_TRY(fetch(device, host_weights_, there.weights));
  if (fills_count_) MOE_TRY(fetch(device, host_count_, there.count));
  MOE_TRY(device.sync());
  moe_plan here = there;
  here.ids = moe::with_rows(host_ids_.view, step.n_tokens());
  here.weights = moe::with_rows(host_weights_.view, step.n_tokens());
  here.count = tensor(host_count_.view.data, MOE_I32, {step.n_tokens()});
  limit_on_host(here);
  MOE_TRY(send(device, host_ids_, there.ids));
  MOE_TRY(send(device, host_weights_, there.weights));
  return send(device, host_count_, there.count);
}

moe::Status FeedForwardPart::follow_load(StepDevice& device) {
  if (!balancer_) return {};
  balancer_->follow(device.n_tokens(), router_spec_.k_max, host_ids(), host_count());
  return gate_.set_bias(device, balancer_->bias());
}

// The layer below's decision for a router on the host.
moe::Result<moe_plan> FeedForwardPart::previous_on_host(Device& device) {
  const moe_plan from = previous_->plan();
  MOE_TRY(fetch(device, previous_ids_, from.ids));
  MOE_TRY(fetch(device, previous_weights_, from.weights));
  MOE_TRY(fetch(device, previous_count_, from.count));
  MOE_TRY(fetch(device, previous_aux_, from.aux));
  moe_plan on_host = from;
  on_host.ids = previous_ids_.view;
  on_host.weights = previous_weights_.view;
  on_host.count = previous_count_.view;
  on_host.count.ndim = moe::present(on_host.count) ? 1 : 0;
  on_host.aux = previous_aux_.view;
  return on_host;
}

moe::Status FeedForwardPart::route_on_host(StepDevice& step, const moe_tensor& before_attention) {
  Device& device = step.device();
  const int64_t n = step.n_tokens();
  MOE_TRY(fetch(device, host_logits_, step.scratch_f32(logits_slot_, {n, router_spec_.n_logits})));
  MOE_TRY(fetch(device, host_hidden_, branch_.input(step)));
  MOE_TRY(fetch(device, host_before_, before_attention));
  moe_route_args args = route_args(step);
  if ((router_spec_.inputs & MOE_INPUT_PREVIOUS_PLAN) != 0 && previous_ != nullptr) {
    MOE_ASSIGN(previous_plan_, previous_on_host(device));
    args.previous = &previous_plan_;
  }
  MOE_TRY(device.sync());
  args.logits = host_logits_.view;
  args.hidden = host_hidden_.view;
  args.before_attention = host_before_.view;
  args.token_ids = step.host_ids();
  args.positions = step.host_positions();
  args.sequences = step.host_sequences();
  args.context.pages = step.host_pages();
  args.workspace = host_workspace_.data();
  args.workspace_bytes = host_workspace_.bytes();
  const moe_plan on_device = plan();
  args.plan = on_device;
  args.plan.ids = moe::with_rows(host_ids_.view, n);
  args.plan.weights = moe::with_rows(host_weights_.view, n);
  args.plan.count = fills_count_ ? tensor(host_count_.view.data, MOE_I32, {n}) : moe::absent();
  args.plan.aux = moe::present(host_aux_.view) ? moe::with_rows(host_aux_.view, n) : moe::absent();
  MOE_TRY(call_router(args));
  if (capacity_) {
    moe_plan here = args.plan;
    here.count = tensor(host_count_.view.data, MOE_I32, {n});
    limit_on_host(here);
  }
  MOE_TRY(send(device, host_ids_, on_device.ids));
  MOE_TRY(send(device, host_weights_, on_device.weights));
  MOE_TRY(send(device, host_count_, on_device.count));
  return send(device, host_aux_, on_device.aux);
}

moe::Status FeedForwardPart::run_experts(StepDevice& device) {
  moe_expert_args args = moe::make<moe_expert_args>();
  args.n_tokens = device.n_tokens();
  args.x = branch_.input(device);
  args.plan = plan();
  MOE_ASSIGN(args.out, branch_.target(device));
  args.scale = branch_.scale();
  args.workspace = device.workspace();
  args.workspace_bytes = device.workspace_bytes();
  moe::MessageBuffer message;
  const moe_status status = expert_component_->forward(expert_, &args, message.get());
  if (status != MOE_OK) return message.error(status).in(expert_subject_);
  return branch_.leave(device);
}

}  // namespace patchbay
