// The smallest expert: SwiGLU by the backend's `ffn` operation. Put operations of your own around it, or in its place.
#include <array>

#include "moe/sdk/expert.hpp"

class MyExpert : public moe::Expert {
 public:
  static constexpr const char* kName = "my_expert";
  static constexpr const char* kDoc = "down(silu(gate x) * up x), routed experts only.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT;

  moe::Status configure(const moe::ExpertConfig& config, const moe::Options&) override {
    if (config.n_experts == 0 || config.d_shared > 0) return moe::invalid("layer: expected routed experts only");
    config_ = config;
    const int64_t n = config.n_local_experts;
    weights_ = {moe::weight_spec("gate", n, config.d_expert, config.d_model, MOE_PLACE_PREPARED),
                moe::weight_spec("up", n, config.d_expert, config.d_model, MOE_PLACE_PREPARED),
                moe::weight_spec("down", n, config.d_model, config.d_expert, MOE_PLACE_PREPARED)};
    return {};
  }
  std::span<const moe_weight_spec> weights() override { return weights_; }

  moe::Result<uint64_t> prepare(const moe_compute& compute, std::span<const moe_bound_weight> bound,
                                int64_t max_tokens) override {
    args_ = moe::op_args<moe_ffn_args>();
    args_.gate = bound[0].prepared;
    args_.up = bound[1].prepared;
    args_.down = bound[2].prepared;
    // Shapes as large as they will come: the backend picks its implementation and workspace by them.
    args_.x = args_.out = moe::tensor(nullptr, MOE_F32, {max_tokens, config_.d_model}, compute.device);
    args_.ids = moe::tensor(nullptr, MOE_I32, {max_tokens, config_.k_max}, compute.device);
    args_.weights = moe::tensor(nullptr, MOE_F32, {max_tokens, config_.k_max}, compute.device);
    args_.count = moe::tensor(nullptr, MOE_I32, {max_tokens}, compute.device);
    args_.first_expert = config_.first_expert;
    args_.n_experts = config_.n_local_experts;
    args_.width = config_.d_expert;
    args_.gating.kind = MOE_ACT_SILU;
    args_.activation = config_.activation;
    args_.weight_on = config_.weight_on;
    args_.accumulate = 1;
    MOE_ASSIGN(op_, moe::Op::find(compute, MOE_OP_FFN, args_.header));
    return op_.workspace_bytes();
  }

  moe::Status forward(const moe_expert_args& args) override {
    args_.x = args.x;
    args_.ids = args.plan.ids;
    args_.weights = args.plan.weights;
    args_.count = args.plan.count;
    args_.out = args.out;
    args_.scale = args.scale;
    return op_.launch(args_, args.workspace, args.workspace_bytes);
  }

 private:
  moe::ExpertConfig config_{};
  std::array<moe_weight_spec, 3> weights_{};
  moe_ffn_args args_{};
  moe::Op op_;
};

MOE_PLUGIN("my_expert", "0.1.0", "MIT", "you", MyExpert)
