// Routers that are one `route` operation of the backend (MOE_OP_ROUTE): no kernel of their own, on every backend
// without leaving the device, and where the backend has a faster way together with the norm and the product before it.
// A class derives from OpRouter, lists which of the options below it has, and says what its own options mean.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>

#include "moe/sdk/router.hpp"

namespace moe {

// "key: expected <what>, got <got>".
inline Error unfit(std::string_view key, std::string_view what, std::string_view got) {
  return invalid(std::string(key) + ": expected " + std::string(what) + ", got " + std::string(got));
}
inline Error unfit(std::string_view key, std::string_view what, int64_t got) {
  return unfit(key, what, std::to_string(got));
}

// The options that every OpRouter has, row by row, and their choices. All may differ from layer to layer.
namespace route_option {

inline constexpr uint32_t kFlags = MOE_OPTION_PER_LAYER;

inline constexpr const char* kScores[] = {"softmax",        "sigmoid",      "sqrt_softplus",
                                          "softmax_chosen", "sparse_mixer", nullptr};
// Those that are a number for each expert: SparseMixer masks by its own rule and knows neither groups nor tables.
inline constexpr const char* kPlainScores[] = {"softmax", "sigmoid", "sqrt_softplus", "softmax_chosen", nullptr};
inline constexpr const char* kRenorms[] = {"auto", "none", "sum", "clamp", nullptr};
inline constexpr const char* kDynamics[] = {"none", "ratio", "top_p", nullptr};
inline constexpr const char* kWeightOns[] = {"output", "input", nullptr};

inline constexpr moe_option kK =
    int_option("k", "2", 1, 65536, "Experts a token goes to; with dynamic k the most.", kFlags);
inline constexpr moe_option kBias = bool_option(
    "bias", "false", "A trained bias for each expert, weight \"bias\", that enters the selection only (DeepSeek-V3).",
    kFlags);
inline constexpr moe_option kRenorm = choice_option(
    "renorm", "auto", kRenorms,
    "Whether the chosen weights are made to sum to one: none; sum, w / (sum + eps); clamp, w / max(sum, eps); "
    "auto: sum where the score is not a weight already.",
    kFlags);
inline constexpr moe_option kRenormEps = float_option(
    "renorm_eps", "1e-20", 0.0, 1.0, "The eps of renorm (Hugging Face 1e-20, llama.cpp clamps at 6.1e-5).", kFlags);
inline constexpr moe_option kScale =
    float_option("scale", "1.0", 0.0, 1e6, "Factor of the weights, last (DeepSeek-V3 2.5).", kFlags);
inline constexpr moe_option kWeightOn = choice_option(
    "weight_on", "output", kWeightOns, "Whether a weight multiplies its expert's output or input (Llama-4).", kFlags);
inline constexpr moe_option kLogitCap = float_option(
    "logit_cap", "0.0", 0.0, 1e6, "If above 0, logits become cap * tanh(logit / cap) first (Grok).", kFlags);
inline constexpr moe_option kDynamic = choice_option(
    "dynamic", "none", kDynamics,
    "Keep fewer than k: ratio, those with s > threshold * best s; top_p, the fewest whose s sums to threshold or more.",
    kFlags);
inline constexpr moe_option kThreshold =
    float_option("threshold", "0.5", 0.0, 1.0, "The threshold of dynamic k.", kFlags);
inline constexpr moe_option kKMin =
    int_option("k_min", "1", 1, 65536, "The fewest experts that dynamic k keeps.", kFlags);

}  // namespace route_option

// The options above as the arguments of a `route` operation, for one layer.
class RouteSettings {
 public:
  // The fields that do not depend on the class; its own setup comes between begin and finish. score is
  // MOE_SCORE_SOFTMAX until it says otherwise.
  Status begin(const RouterConfig& config, const Options& options) {
    args = op_args<moe_route_op_args>();
    const int64_t n_experts = config.n_experts + config.n_zero_experts;
    if (n_experts < 1 || n_experts > std::numeric_limits<int32_t>::max()) {
      return unfit("n_experts", "at least 1 expert in the layer", n_experts);
    }
    args.n_experts = static_cast<int32_t>(n_experts);
    const int64_t k = options.integer("k");
    if (k > n_experts) return unfit("k", "at most " + std::to_string(n_experts) + " (the layer's experts)", k);
    args.top_k = static_cast<int32_t>(k);
    args.score = MOE_SCORE_SOFTMAX;
    args.renorm_eps = static_cast<float>(options.number("renorm_eps"));
    args.scale = static_cast<float>(options.number("scale"));
    args.logit_cap = static_cast<float>(options.number("logit_cap"));
    args.dynamic = options.choice("dynamic", route_option::kDynamics);
    args.threshold = static_cast<float>(options.number("threshold"));
    args.k_min = static_cast<int32_t>(options.integer("k_min"));
    has_bias = options.flag("bias");
    return {};
  }
  // `auto_renorm`: what renorm = "auto" means for these arguments.
  Status finish(const Options& options, int32_t auto_renorm) {
    const int renorm = options.choice("renorm", route_option::kRenorms);
    args.renorm = renorm == 0 ? auto_renorm : renorm - 1;
    if (args.dynamic != MOE_DYNAMIC_NONE && args.k_min > args.top_k) {
      return unfit("k_min", "at most " + std::to_string(args.top_k) + " (k)", args.k_min);
    }
    // SparseMixer's rounds leave no score by which a bias or a dynamic k could choose.
    if (args.score != MOE_SCORE_SPARSE_MIXER) return {};
    if (has_bias) return unfit("bias", "false with score = \"sparse_mixer\"", "true");
    if (args.dynamic != MOE_DYNAMIC_NONE) {
      return unfit("dynamic", "\"none\" with score = \"sparse_mixer\"", route_option::kDynamics[args.dynamic]);
    }
    return {};
  }
  // By the score alone: sum, unless it gives weights already.
  [[nodiscard]] int32_t auto_renorm() const {
    const bool final_weights = args.score == MOE_SCORE_SOFTMAX_CHOSEN || args.score == MOE_SCORE_SPARSE_MIXER;
    return final_weights ? MOE_RENORM_NONE : MOE_RENORM_SUM;
  }
  // What a token's weights add up to; 0: that varies.
  [[nodiscard]] float weights_sum() const {
    const bool softmax_of_all = args.score == MOE_SCORE_SOFTMAX_CHOSEN && args.dynamic == MOE_DYNAMIC_NONE;
    const bool normalised = args.renorm != MOE_RENORM_NONE && args.renorm_eps <= 1e-12F;
    return softmax_of_all || normalised ? args.scale : 0.0F;
  }
  [[nodiscard]] int64_t n_logits() const {
    return args.n_experts + (args.score == MOE_SCORE_GROUP_GATE ? args.n_groups : 0);
  }

  moe_route_op_args args{};  // everything that is the same in each call
  bool has_bias = false;
};

class OpRouter : public Router {
 public:
  // Reads the class's own options into `args`, whose common fields are set: score is MOE_SCORE_SOFTMAX until it says
  // otherwise.
  virtual Status setup(const RouterConfig& config, const Options& options, moe_route_op_args& args) = 0;
  // What renorm = "auto" means; asked after setup.
  [[nodiscard]] virtual int32_t auto_renorm(const moe_route_op_args&) const { return settings_.auto_renorm(); }

  Status configure(const RouterConfig& config, const Options& options) final {
    MOE_TRY(settings_.begin(config, options));
    MOE_TRY(setup(config, options, settings_.args));
    MOE_TRY(settings_.finish(options, auto_renorm(settings_.args)));
    weight_on_ = options.choice("weight_on", route_option::kWeightOns);
    bias_spec_ = weight_spec("bias", 1, settings_.args.n_experts, 1, MOE_PLACE_DEVICE);
    return {};
  }

  moe_router_spec describe() final {
    auto spec = make<moe_router_spec>();
    spec.weights = &bias_spec_;
    spec.n_weights = settings_.has_bias ? 1 : 0;
    spec.n_logits = settings_.n_logits();
    spec.k_max = settings_.args.top_k;
    spec.weight_on = weight_on_;
    spec.dynamic = settings_.args.dynamic == MOE_DYNAMIC_NONE ? 0 : 1;
    spec.weights_sum = settings_.weights_sum();
    return spec;
  }

  Result<uint64_t> prepare(const moe_compute& compute, std::span<const moe_bound_weight> weights,
                           int64_t max_tokens) final {
    moe_route_op_args& args = settings_.args;
    args.bias = absent();
    if (settings_.has_bias) args.bias = tensor(weights[0].plain, {args.n_experts}, compute.device);
    moe_route_op_args largest = args;
    largest.logits = tensor(nullptr, MOE_F32, {max_tokens, settings_.n_logits()}, compute.device);
    largest.ids = tensor(nullptr, MOE_I32, {max_tokens, args.top_k}, compute.device);
    largest.weights = tensor(nullptr, MOE_F32, {max_tokens, args.top_k}, compute.device);
    if (args.dynamic != MOE_DYNAMIC_NONE) largest.count = tensor(nullptr, MOE_I32, {max_tokens}, compute.device);
    MOE_ASSIGN(op_, Op::find(compute, MOE_OP_ROUTE, largest.header));
    return op_.workspace_bytes();
  }

  Status route(const moe_route_args& args) final {
    if (args.n_tokens == 0) return {};
    moe_route_op_args call = op(args);
    return op_.launch(call, args.workspace, args.workspace_bytes);
  }

  // What route(args) launches.
  [[nodiscard]] moe_route_op_args op(const moe_route_args& args) const {
    moe_route_op_args call = settings_.args;
    call.logits = args.logits;
    call.ids = args.plan.ids;
    call.weights = args.plan.weights;
    call.count = args.plan.count;
    return call;
  }

  // moe.router.op/1. A class with an extension of its own asks this one for the others.
  static const void* extension(const char* id) {
    return std::string_view(id) == MOE_ROUTER_OP_ID ? &kOpExtension : nullptr;
  }

 private:
  RouteSettings settings_;
  moe_weight_spec bias_spec_{};
  int32_t weight_on_ = MOE_WEIGHT_ON_OUTPUT;
  Op op_;

  static moe_status give_op(moe_router_instance* self, const moe_route_args* args, moe_route_op_args* out,
                            moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(args, "args"));
      MOE_TRY(check_struct(&out->header, "out"));
      moe_route_op_args filled = static_cast<const OpRouter*>(reinterpret_cast<const Router*>(self))->op(*Grown(*args));
      filled.header.struct_size = std::min(out->header.struct_size, filled.header.struct_size);
      std::memcpy(out, &filled, filled.header.struct_size);
      return {};
    });
  }
  static constexpr moe_router_op kOpExtension = [] {
    auto extension = make<moe_router_op>();
    extension.op = give_op;
    return extension;
  }();
};

// Splits the experts into `groups` of which `top_groups` are kept, into args; both options are read here.
inline Status set_groups(const Options& options, moe_route_op_args& args) {
  const int64_t groups = options.integer("groups");
  const int64_t top_groups = options.integer("top_groups");
  if (groups > args.n_experts || args.n_experts % groups != 0) {
    return unfit("groups", "a divisor of " + std::to_string(args.n_experts) + " (the layer's experts)", groups);
  }
  if (top_groups > groups) return unfit("top_groups", "at most " + std::to_string(groups) + " (groups)", top_groups);
  const int64_t kept = top_groups * (args.n_experts / groups);
  if (args.top_k > kept) {
    return unfit("k", "at most " + std::to_string(kept) + " (the experts of " + std::to_string(top_groups) + " groups)",
                 args.top_k);
  }
  args.n_groups = static_cast<int32_t>(groups);
  args.top_groups = static_cast<int32_t>(top_groups);
  return {};
}

}  // namespace moe
