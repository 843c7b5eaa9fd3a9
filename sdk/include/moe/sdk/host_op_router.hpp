// Routers that decide as a `route` operation does (MOE_OP_ROUTE), from logits or a selection bias that they make for
// each token on the host: a context, a table. They have all options of op_router.hpp but weight_on, without a line of
// their own.
#pragma once

#include <span>
#include <vector>

#include "moe/sdk/loops/route.hpp"
#include "moe/sdk/op_router.hpp"

namespace moe {

class HostOpRouter : public HostRouter {
 public:
  // Reads the class's own options into `args`, whose common fields are set: score is MOE_SCORE_SOFTMAX until it says
  // otherwise.
  virtual Status read_options(const RouterConfig& config, const Options& options, moe_route_op_args& args) = 0;
  // The token's logits into `logits` [n_experts], and what the selection adds to their scores into `bias` [n_experts],
  // which holds the trained bias, or zeros. -inf takes an expert out; at least k must be left. [compute-thread]
  virtual void prepare_row(const RouterToken& token, std::span<float> logits, std::span<float> bias) = 0;
  // Weights of the class's own, after the trained bias's; MOE_PLACE_HOST.
  [[nodiscard]] virtual std::vector<moe_weight_spec> own_weights() const { return {}; }
  virtual Status bind_own(std::span<const moe_bound_weight>) { return {}; }

  Status setup(const RouterConfig& config, const Options& options) final {
    MOE_TRY(settings_.begin(config, options));
    MOE_TRY(read_options(config, options, settings_.args));
    MOE_TRY(settings_.finish(options, settings_.auto_renorm()));
    moe_route_op_args& args = settings_.args;
    specs_ = own_weights();
    if (settings_.has_bias) specs_.insert(specs_.begin(), weight_spec("bias", 1, args.n_experts, 1, MOE_PLACE_HOST));
    logits_.resize(static_cast<size_t>(args.n_experts));
    trained_bias_.assign(logits_.size(), 0.0F);
    bias_.resize(logits_.size());
    ids_.resize(static_cast<size_t>(args.top_k));
    weights_.resize(ids_.size());
    args.bias = tensor(bias_.data(), {args.n_experts});
    loops::Arena needed;
    loops::route_space(needed, args);
    memory_.resize(needed.used());
    return {};
  }
  Status bind(std::span<const moe_bound_weight> bound) final {
    if (!settings_.has_bias) return bind_own(bound);
    trained_bias_.assign(bound[0].plain, bound[0].plain + trained_bias_.size());
    return bind_own(bound.subspan(1));
  }
  [[nodiscard]] int64_t k_max() const override { return settings_.args.top_k; }
  [[nodiscard]] float weights_sum() const override { return settings_.weights_sum(); }
  [[nodiscard]] std::span<const moe_weight_spec> weights() const final { return specs_; }

  void score(const RouterToken& token, Choice& choice) final {
    bias_ = trained_bias_;
    prepare_row(token, logits_, bias_);
    moe_op_args header{};
    header.workspace = memory_.data();
    header.workspace_bytes = memory_.size();
    loops::Arena arena(header);
    const loops::RouteSpace space = loops::route_space(arena, settings_.args);
    int32_t count = 0;
    loops::RouteRow(settings_.args, space).run(logits_.data(), ids_.data(), weights_.data(), &count);
    for (size_t j = 0; j < static_cast<size_t>(count); ++j) choice.add(ids_[j], weights_[j]);
  }

 protected:
  [[nodiscard]] const moe_route_op_args& args() const { return settings_.args; }

 private:
  RouteSettings settings_;
  std::vector<moe_weight_spec> specs_;
  std::vector<float> trained_bias_;
  // Of one token.
  std::vector<float> logits_, bias_, weights_;
  std::vector<int32_t> ids_;
  std::vector<char> memory_;
};

}  // namespace moe
