// The smallest expert layer: SwiGLU by the backend's `ffn` operation, for routed and for shared experts (a dense layer
// is a shared expert alone). Put operations of your own around it, or in its place.
#include <algorithm>
#include <vector>

#include "moe/sdk/expert.hpp"

class MyExpert : public moe::Expert {
 public:
  static constexpr const char* kName = "my_expert";
  static constexpr const char* kDoc = "down(silu(gate x) * up x), routed and shared experts.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT;

  moe::Status configure(const moe::ExpertConfig& config, const moe::Options&) override {
    if (config.n_zero_experts > 0) return moe::invalid("layer: expected no zero-compute experts");
    config_ = config;
    if (config.n_experts > 0) declare("gate", "up", "down", config.n_local_experts, config.d_expert);
    if (config.d_shared > 0) declare("shared_gate", "shared_up", "shared_down", 1, config.d_shared);
    return {};
  }
  std::span<const moe_weight_spec> weights() override { return weights_; }

  moe::Result<uint64_t> prepare(const moe_compute& compute, std::span<const moe_bound_weight> bound,
                                int64_t max_tokens) override {
    uint64_t workspace_bytes = 0;
    for (size_t i = 0; i < parts_.size(); ++i) {
      MOE_TRY(find(parts_[i], compute, bound.subspan(3 * i, 3), max_tokens));
      workspace_bytes = std::max(workspace_bytes, parts_[i].op.workspace_bytes());
    }
    return workspace_bytes;
  }

  moe::Status forward(const moe_expert_args& args) override {
    for (Part& part : parts_) {
      part.args.x = args.x;
      part.args.out = args.out;
      part.args.scale = args.scale;
      if (part.routed) {
        part.args.ids = args.plan.ids;
        part.args.weights = args.plan.weights;
        part.args.count = args.plan.count;
      }
      MOE_TRY(part.op.launch(part.args, args.workspace, args.workspace_bytes));
    }
    return {};
  }

 private:
  struct Part {
    bool routed;
    int64_t n_groups;
    int64_t width;
    moe_ffn_args args;
    moe::Op op;
  };

  void declare(const char* gate, const char* up, const char* down, int64_t n_groups, int64_t width) {
    weights_.push_back(moe::weight_spec(gate, n_groups, width, config_.d_model, MOE_PLACE_PREPARED));
    weights_.push_back(moe::weight_spec(up, n_groups, width, config_.d_model, MOE_PLACE_PREPARED));
    weights_.push_back(moe::weight_spec(down, n_groups, config_.d_model, width, MOE_PLACE_PREPARED));
    parts_.push_back({config_.n_experts > 0 && parts_.empty(), n_groups, width, {}, {}});
  }

  // Shapes as large as they will come: the backend picks its implementation and workspace by them.
  moe::Status find(Part& part, const moe_compute& compute, std::span<const moe_bound_weight> bound,
                   int64_t max_tokens) {
    moe_ffn_args& a = part.args = moe::op_args<moe_ffn_args>();
    a.gate = bound[0].prepared;
    a.up = bound[1].prepared;
    a.down = bound[2].prepared;
    a.x = a.out = moe::tensor(nullptr, MOE_F32, {max_tokens, config_.d_model}, compute.device);
    if (part.routed) {
      a.ids = moe::tensor(nullptr, MOE_I32, {max_tokens, config_.k_max}, compute.device);
      a.weights = moe::tensor(nullptr, MOE_F32, {max_tokens, config_.k_max}, compute.device);
      a.count = moe::tensor(nullptr, MOE_I32, {max_tokens}, compute.device);
      a.first_expert = config_.first_expert;
      a.weight_on = config_.weight_on;
    }
    a.n_experts = part.n_groups;
    a.width = part.width;
    a.gating.kind = MOE_ACT_SILU;
    a.activation = config_.activation;
    a.accumulate = 1;
    MOE_ASSIGN(part.op, moe::Op::find(compute, MOE_OP_FFN, a.header));
    return {};
  }

  moe::ExpertConfig config_{};
  std::vector<moe_weight_spec> weights_;
  std::vector<Part> parts_;
};

MOE_PLUGIN("my_expert", "0.1.0", "MIT", "you", MyExpert)
