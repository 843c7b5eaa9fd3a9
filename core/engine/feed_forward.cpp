#include "core/engine/feed_forward.hpp"

#include <fmt/format.h>

namespace patchbay {

using moe::tensor;

FeedForwardPart::~FeedForwardPart() {
  if (router_ != nullptr) router_component_->destroy(router_);
  if (expert_ != nullptr) expert_component_->destroy(expert_);
}

moe::Result<std::unique_ptr<FeedForwardPart>> FeedForwardPart::build(StepDevice& device, BuildContext& ctx, Host& host,
                                                                     std::optional<ChosenPart<moe_router>> router, ChosenPart<moe_expert> expert,
                                                                     const FeedForwardPart* previous) {
  std::unique_ptr<FeedForwardPart> part(new FeedForwardPart());
  part->previous_ = previous;
  part->plan_ = moe::make<moe_plan>();
  MOE_TRY(part->branch_.build(device, ctx, ctx.spec.norm_before ? "ffn_norm" : "", ctx.spec.norm_after ? "ffn_out_norm" : ""));
  if (router) MOE_TRY(part->build_router(device, ctx, host, std::move(*router)));
  MOE_TRY(part->build_expert(device, ctx, host, std::move(expert)));
  return part;
}

moe::Status FeedForwardPart::build_router(StepDevice& device, BuildContext& ctx, Host& host, ChosenPart<moe_router> chosen) {
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
  if (router_spec_.k_max < 1 || router_spec_.k_max > n_ids_) {
    return moe::invalid(fmt::format("{}: k: expected 1 to {} (the layer's experts), got {}", router_subject_, n_ids_, router_spec_.k_max));
  }
  if ((router_spec_.inputs & MOE_INPUT_HOST) != 0 && !device.device().host_visible()) {
    return moe::unimplemented(fmt::format("{}: scores on the host, and the memory of backend \"{}\" is not visible there", router_subject_, device.device().name()));
  }
  const int64_t n = ctx.limits.max_tokens;
  if (router_spec_.n_logits > 0) {
    MOE_ASSIGN(const MatrixSet gate, ctx.weights.matrices(ctx.spec.router_tensors, "gate", ctx.layer, 1, router_spec_.n_logits, ctx.spec.d_model));
    // Gate logits are f32 whatever the precision: bf16 collapses near ties.
    MOE_TRY(gate_.build(device, ctx, gate, {}, shape_f32({n, ctx.spec.d_model}), shape_f32({n, router_spec_.n_logits}), MOE_F32, "auto"));
    logits_slot_ = device.scratch().request("router_logits", static_cast<uint64_t>(n * router_spec_.n_logits) * 4);
    weight_bytes_ += gate_.weight_bytes();
  }
  MOE_TRY(build_plan(device, ctx));
  MOE_ASSIGN(const auto bound, bind(device, ctx, router_spec_.weights, router_spec_.n_weights, ctx.spec.router_tensors, router_subject_, false));
  uint64_t workspace = 0;
  status = router_component_->prepare(router_, &device.compute(), bound.data(), static_cast<uint32_t>(bound.size()), n, &workspace, message.get());
  if (status != MOE_OK) return message.error(status).in(router_subject_);
  device.request_workspace(workspace);
  return {};
}

moe::Status FeedForwardPart::build_plan(StepDevice& device, BuildContext& ctx) {
  const int64_t n = ctx.limits.max_tokens;
  const int64_t k = router_spec_.k_max;
  const moe_device where = device.device().where();
  MOE_ASSIGN(ids_, device.device().alloc(static_cast<uint64_t>(n * k) * 4));
  MOE_ASSIGN(weights_, device.device().alloc(static_cast<uint64_t>(n * k) * 4));
  plan_ = moe::make<moe_plan>();
  plan_.ids = tensor(ids_.data(), MOE_I32, {n, k}, where);
  plan_.weights = tensor(weights_.data(), MOE_F32, {n, k}, where);
  plan_.count = moe::absent();
  plan_.aux = moe::absent();
  plan_.weight_on = router_spec_.weight_on;
  if (router_spec_.dynamic != 0) {
    MOE_ASSIGN(count_, device.device().alloc(static_cast<uint64_t>(n) * 4));
    plan_.count = tensor(count_.data(), MOE_I32, {n}, where);
  }
  if (router_spec_.aux_floats > 0) {
    MOE_ASSIGN(aux_, device.device().alloc(static_cast<uint64_t>(n * router_spec_.aux_floats) * 4));
    plan_.aux = tensor(aux_.data(), MOE_F32, {n, router_spec_.aux_floats}, where);
  }
  context_rows_ = moe::absent();
  if (router_spec_.context_floats > 0) {
    const int64_t rows = ctx.limits.n_pages * ctx.limits.page_tokens;
    MOE_ASSIGN(context_, device.device().alloc(static_cast<uint64_t>(rows * router_spec_.context_floats) * 4));
    context_rows_ = tensor(context_.data(), MOE_F32, {rows, router_spec_.context_floats}, where);
  }
  return {};
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
                                                                 const TensorMap& map, const std::string& subject, bool count_routed) {
  std::vector<moe_bound_weight> bound;
  for (uint32_t i = 0; i < n_specs; ++i) {
    const moe_weight_spec& spec = specs[i];
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
      if (count_routed && spec.n_groups == n_experts_ && n_experts_ > 1) routed_bytes_ += prepared.bytes();
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

moe::Status FeedForwardPart::route(StepDevice& device, const moe_tensor& input, const moe_tensor& before_attention) {
  const int64_t n = device.n_tokens();
  moe_route_args args = moe::make<moe_route_args>();
  args.n_tokens = n;
  if (router_spec_.n_logits > 0) {
    args.logits = device.scratch_f32(logits_slot_, {n, router_spec_.n_logits});
    MOE_TRY(gate_.run(device, input, args.logits));
  } else {
    args.logits = moe::absent();
  }
  args.hidden = (router_spec_.inputs & MOE_INPUT_HIDDEN) != 0 ? input : moe::absent();
  args.before_attention = wants_before_attention() ? before_attention : moe::absent();
  args.token_ids = device.ids();
  args.positions = device.positions();
  args.sequences = device.sequences();
  args.previous = (router_spec_.inputs & MOE_INPUT_PREVIOUS_PLAN) != 0 && previous_ != nullptr ? &previous_->plan_ : nullptr;
  args.context = moe::make<moe_context>();
  args.context.rows = context_rows_;
  args.context.pages = device.pages();
  plan_.ids.shape[0] = plan_.weights.shape[0] = n;
  if (moe::present(plan_.count)) plan_.count.shape[0] = n;
  if (moe::present(plan_.aux)) plan_.aux.shape[0] = n;
  args.plan = plan_;
  args.workspace = device.workspace();
  args.workspace_bytes = device.workspace_bytes();
  moe::MessageBuffer message;
  const moe_status status = router_component_->route(router_, &args, message.get());
  if (status != MOE_OK) return message.error(status).in(router_subject_);
  return {};
}

moe::Status FeedForwardPart::forward(StepDevice& device, const moe_tensor& before_attention) {
  MOE_ASSIGN(const moe_tensor input, branch_.enter(device));
  if (router_ != nullptr) MOE_TRY(route(device, input, before_attention));
  moe_expert_args args = moe::make<moe_expert_args>();
  args.n_tokens = device.n_tokens();
  args.x = input;
  args.plan = plan_;
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
