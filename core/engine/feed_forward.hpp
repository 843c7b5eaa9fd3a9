// The feed-forward part of a layer: x += experts(h, plan), with plan = router(h) and h = norm(x). Its four steps - plan, dispatch, experts,
// combine - are the router's call and the expert's forward(), which gathers and combines; across ranks, dispatch and combine would become
// all-to-all around that call.
#pragma once

#include <memory>
#include <optional>

#include "core/engine/attention.hpp"
#include "core/engine/parts.hpp"
#include "moe/abi/expert.h"
#include "moe/abi/router.h"

namespace patchbay {

class FeedForwardPart {
 public:
  // `router` is empty in a dense layer.
  static moe::Result<std::unique_ptr<FeedForwardPart>> build(StepDevice& device, BuildContext& ctx, Host& host,
                                                             std::optional<ChosenPart<moe_router>> router, ChosenPart<moe_expert> expert,
                                                             const FeedForwardPart* previous);
  ~FeedForwardPart();
  FeedForwardPart(const FeedForwardPart&) = delete;
  FeedForwardPart& operator=(const FeedForwardPart&) = delete;

  // `before_attention`: the layer's input, where the router wants it.
  moe::Status forward(StepDevice& device, const moe_tensor& before_attention);

  [[nodiscard]] bool has_router() const { return router_ != nullptr; }
  [[nodiscard]] bool wants_before_attention() const { return (router_spec_.inputs & MOE_INPUT_BEFORE_ATTENTION) != 0; }
  // The last step's decision: ids [n, k_max] and the rest, in the device's memory.
  [[nodiscard]] const moe_plan& plan() const { return plan_; }
  [[nodiscard]] int64_t k_max() const { return router_spec_.k_max; }
  [[nodiscard]] int64_t n_ids() const { return n_ids_; }
  [[nodiscard]] const std::string& router_name() const { return router_name_; }
  [[nodiscard]] const std::string& expert_name() const { return expert_name_; }
  [[nodiscard]] uint64_t weight_bytes() const { return weight_bytes_; }
  // Of routed experts only, for counting what a token reads.
  [[nodiscard]] uint64_t routed_bytes() const { return routed_bytes_; }
  [[nodiscard]] int64_t n_experts() const { return n_experts_; }
  [[nodiscard]] uint64_t cache_bytes_per_token() const { return static_cast<uint64_t>(router_spec_.context_floats) * 4; }

 private:
  FeedForwardPart() = default;
  moe::Status build_router(StepDevice& device, BuildContext& ctx, Host& host, ChosenPart<moe_router> chosen);
  moe::Status build_plan(StepDevice& device, BuildContext& ctx);
  moe::Status build_expert(StepDevice& device, BuildContext& ctx, Host& host, ChosenPart<moe_expert> chosen);
  moe::Result<std::vector<moe_bound_weight>> bind(StepDevice& device, BuildContext& ctx, const moe_weight_spec* specs, uint32_t n_specs,
                                                  const TensorMap& map, const std::string& subject, bool count_routed);
  moe::Status route(StepDevice& device, const moe_tensor& input, const moe_tensor& before_attention);

  Branch branch_;
  Linear gate_;
  size_t logits_slot_ = 0;
  Component<moe_router> router_component_;
  Component<moe_expert> expert_component_;
  moe_router_instance* router_ = nullptr;
  moe_expert_instance* expert_ = nullptr;
  moe_router_spec router_spec_{};
  moe_plan plan_{};
  const FeedForwardPart* previous_ = nullptr;
  Buffer ids_, weights_, count_, aux_, context_;
  moe_tensor context_rows_{};
  std::vector<PreparedWeight> prepared_;
  std::vector<Buffer> plain_;
  std::vector<std::vector<float>> host_plain_;
  std::string router_name_, expert_name_, router_subject_, expert_subject_;
  uint64_t weight_bytes_ = 0;
  uint64_t routed_bytes_ = 0;
  int64_t n_experts_ = 0;
  int64_t n_ids_ = 0;
};

}  // namespace patchbay
