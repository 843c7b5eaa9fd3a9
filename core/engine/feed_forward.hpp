// The feed-forward part of a layer: x += experts(h, plan), with plan = router(h) and h = norm(x). Its four steps - plan, dispatch, experts,
// combine - are the router's call and the expert's forward(), which gathers and combines; across ranks, dispatch and combine would become
// all-to-all around that call.
#pragma once

#include <memory>
#include <optional>

#include "core/engine/attention.hpp"
#include "core/engine/parts.hpp"
#include "core/engine/plan_limits.hpp"
#include "moe/abi/expert.h"
#include "moe/abi/router.h"

namespace patchbay {

class FeedForwardPart {
 public:
  // `router` is empty in a dense layer.
  static moe::Result<std::unique_ptr<FeedForwardPart>> build(StepDevice& device, BuildContext& ctx, Host& host,
                                                             std::optional<ChosenPart<moe_router>> router, ChosenPart<moe_expert> expert,
                                                             const PlanSettings& plan, const FeedForwardPart* previous);
  ~FeedForwardPart();
  FeedForwardPart(const FeedForwardPart&) = delete;
  FeedForwardPart& operator=(const FeedForwardPart&) = delete;

  // The three steps of the part, in order; where the backend has a faster way, the first does the router's part of the second, too.
  // `before_attention`: the layer's input, where the router wants it.
  moe::Status prepare_route(StepDevice& device);
  moe::Status route(StepDevice& device, const moe_tensor& before_attention);
  moe::Status run_experts(StepDevice& device);
  // After a step, its decisions on the host: the gate's bias follows the load, where that is wanted.
  moe::Status follow_load(StepDevice& device);
  // Whether route() and run_experts() only enqueue what may be recorded and replayed.
  [[nodiscard]] bool route_is_graph_safe() const { return router_ == nullptr || (!on_host_ && !capacity_ && has(router_component_, MOE_CAP_GRAPH_SAFE)); }
  [[nodiscard]] bool experts_are_graph_safe() const { return has(expert_component_, MOE_CAP_GRAPH_SAFE); }

  [[nodiscard]] bool has_router() const { return router_ != nullptr; }
  [[nodiscard]] bool wants_before_attention() const { return (router_spec_.inputs & MOE_INPUT_BEFORE_ATTENTION) != 0; }
  // The step's decision, in the device's memory.
  [[nodiscard]] moe_plan plan() const;
  // Its ids on the host, after the step: [n, k_max], and count [n], null if all k_max count.
  [[nodiscard]] const int32_t* host_ids() const { return device_->host_decisions(decision_column_); }
  [[nodiscard]] const int32_t* host_count() const {
    return router_spec_.dynamic != 0 ? device_->host_decisions(decision_column_ + router_spec_.k_max) : nullptr;
  }
  [[nodiscard]] int64_t k_max() const { return router_spec_.k_max; }
  [[nodiscard]] int64_t n_ids() const { return n_ids_; }
  [[nodiscard]] const std::string& router_name() const { return router_name_; }
  [[nodiscard]] const std::string& expert_name() const { return expert_name_; }
  [[nodiscard]] uint64_t weight_bytes() const { return weight_bytes_; }
  // What a token reads of them at most: k of the routed experts.
  [[nodiscard]] uint64_t read_bytes() const { return read_bytes_; }
  // One routed expert's.
  [[nodiscard]] uint64_t expert_bytes() const { return expert_bytes_; }
  [[nodiscard]] int64_t n_experts() const { return n_experts_; }
  [[nodiscard]] uint64_t cache_bytes_per_token() const { return static_cast<uint64_t>(router_spec_.context_floats) * 4; }

 private:
  FeedForwardPart() = default;
  moe::Status build_router(StepDevice& device, BuildContext& ctx, Host& host, ChosenPart<moe_router> chosen, const PlanSettings& plan);
  moe::Status build_gate(StepDevice& device, BuildContext& ctx, const PlanSettings& plan);
  moe::Status build_plan(StepDevice& device, BuildContext& ctx);
  moe::Status find_route(StepDevice& device, int64_t n);
  moe::Status build_expert(StepDevice& device, BuildContext& ctx, Host& host, ChosenPart<moe_expert> chosen);
  moe::Result<std::vector<moe_bound_weight>> bind(StepDevice& device, BuildContext& ctx, const moe_weight_spec* specs, uint32_t n_specs,
                                                  const TensorMap& map, const std::string& subject, bool routed);
  template <typename T>
  static bool has(const Component<T>& component, uint32_t capability) {
    return (component.header().capabilities & capability) != 0;
  }
  [[nodiscard]] moe_route_args route_args(StepDevice& device) const;
  moe::Result<moe_route_op_args> route_op(const moe_route_args& args) const;
  [[nodiscard]] moe_plan router_plan() const;
  moe::Status limit(StepDevice& device);
  void limit_on_host(const moe_plan& plan);
  moe::Status ask_router(StepDevice& device, const moe_tensor& before_attention);
  moe::Status call_router(const moe_route_args& args);
  moe::Status route_on_host(StepDevice& device, const moe_tensor& before_attention);
  moe::Result<moe_plan> previous_on_host(Device& device);

  // A tensor's rows on the host, and where they come from.
  struct HostCopy {
    Buffer memory;
    moe_tensor view{};
  };
  moe::Status allocate_host(Device& device, const StepLimits& limits, int64_t d_model);
  static moe::Status fetch(Device& device, HostCopy& copy, const moe_tensor& from);
  static moe::Status send(Device& device, const HostCopy& copy, const moe_tensor& to);

  Branch branch_;
  Linear gate_;
  std::optional<CapacityLimit> capacity_;
  std::optional<LoadBalancer> balancer_;
  const moe_router_op* route_op_ = nullptr;  // where the router's decision is taken with the gate's product
  bool fills_count_ = false;  // the router's plan has a count; with a capacity there is one in any case
  size_t logits_slot_ = 0;
  Component<moe_router> router_component_;
  Component<moe_expert> expert_component_;
  moe_router_instance* router_ = nullptr;
  moe_expert_instance* expert_ = nullptr;
  moe_router_spec router_spec_{};
  moe_plan largest_plan_{};  // for as many tokens as come
  StepDevice* device_ = nullptr;
  const FeedForwardPart* previous_ = nullptr;
  Buffer weights_, aux_, context_;
  int64_t decision_column_ = 0;
  // Host scoring on a device whose memory the host does not see: everything goes there and back.
  bool on_host_ = false;
  HostCopy host_logits_, host_hidden_, host_before_, host_ids_, host_weights_, host_count_, host_aux_;
  Buffer host_workspace_;
  HostCopy previous_ids_, previous_weights_, previous_count_, previous_aux_;
  moe_plan previous_plan_{};
  moe_tensor context_rows_{};
  std::vector<PreparedWeight> prepared_;
  std::vector<Buffer> plain_;
  std::vector<std::vector<float>> host_plain_;
  std::string router_name_, expert_name_, router_subject_, expert_subject_;
  uint64_t weight_bytes_ = 0;
  uint64_t read_bytes_ = 0;
  uint64_t expert_bytes_ = 0;
  int64_t n_experts_ = 0;
  int64_t n_ids_ = 0;
};

}  // namespace patchbay
