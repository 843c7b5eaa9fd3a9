// Feed-forward experts: routed, shared and zero-compute ones, gated or not, and the dense layers between them.
// Everything with weights is one `ffn` operation of the backend (MOE_OP_FFN).
#include <algorithm>
#include <string>
#include <vector>

#include "moe/sdk/expert.hpp"

namespace {

using moe::Op;
using moe::Status;

constexpr uint32_t kFlags = MOE_OPTION_PER_LAYER;
constexpr const char* kActivations[] = {"silu", "gelu", "gelu_tanh", "relu", "relu2", "swiglu_clamped", nullptr};
constexpr const char* kZeroExperts[] = {"identity", "zero", nullptr};

// What the weights of a set of feed-forwards are called.
struct Roles {
  const char *gate, *up, *down, *gate_bias, *up_bias, *down_bias;
};
constexpr Roles kRouted = {"gate", "up", "down", "gate_bias", "up_bias", "down_bias"};
constexpr Roles kShared = {"shared_gate",      "shared_up",      "shared_down",
                           "shared_gate_bias", "shared_up_bias", "shared_down_bias"};
constexpr Roles kChunk = {"chunk_gate", "chunk_up", "chunk_down", nullptr, nullptr, nullptr};

// One set of feed-forwards (the routed experts, the smaller ones beside them, or the shared part): where its weights
// stand in the declaration, and its operation.
struct FeedForward {
  int64_t n_groups = 0;  // 0: the layer has none
  int64_t width = 0;
  size_t first_weight = 0;  // gate, up (where gated), down, then the biases in the same order (where there are any)
  bool biased = false;
  float scale = 1;
  moe_ffn_args args{};  // everything that is the same in each call
  Op op;
};

class SwiGlu : public moe::Expert {
 public:
  static constexpr const char* kName = "swiglu";
  static constexpr const char* kDoc =
      "Gated and plain feed-forward experts, with shared and zero-compute experts and dense layers.";
  static constexpr uint32_t kCapabilities =
      MOE_CAP_GRAPH_SAFE | MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::choice_option("activation", "silu", kActivations,
                         "The gate's activation: silu(g) u (SwiGLU), gelu exact or by tanh, relu, relu squared, or "
                         "gpt-oss's clamped form "
                         "(u + 1) g sigma(alpha g).",
                         kFlags),
      moe::bool_option("gated", "true", "Whether there is an up projection; without, act(g) alone (Nemotron-H).",
                       kFlags),
      moe::float_option(
          "limit", "0.0", 0.0, 1e6,
          "If above 0, the bound of gate and up: act(g) <= limit, |u| <= limit (Step-3.5); swiglu_clamped needs it "
          "(gpt-oss 7).",
          kFlags),
      moe::float_option("alpha", "1.702", 0.0, 1e3, "The factor inside swiglu_clamped's sigma.", kFlags),
      moe::bool_option("bias", "false",
                       "Biases of the routed experts: weights gate_bias, up_bias, down_bias (gpt-oss).", kFlags),
      moe::bool_option("shared_bias", "false",
                       "Biases of the shared experts and of dense layers: weights shared_gate_bias, shared_up_bias, "
                       "shared_down_bias (ERNIE 4.5).",
                       kFlags),
      moe::bool_option("shared_gate", "false",
                       "Whether the shared experts' sum is multiplied by sigma(shared_router . x) (Qwen2-MoE).",
                       kFlags),
      moe::int_option("chunk_size", "0", 0, 65536,
                      "If above 0, beside the experts of a layer stand smaller ones, one for each so many consecutive "
                      "ids: weights chunk_gate, chunk_up, chunk_down (GroveMoE).",
                      kFlags),
      moe::int_option("d_chunk", "0", 0, int64_t{1} << 32, "Width of these.", kFlags),
      moe::float_option("chunk_scale", "0.05", -1e6, 1e6,
                        "What the weight of a choice is multiplied by for the smaller expert.", kFlags),
      moe::choice_option("zero_expert", "identity", kZeroExperts,
                         "What an id without weights computes: its input (LongCat-Flash), or nothing (MoE++).", kFlags),
  };

  Status configure(const moe::ExpertConfig& config, const moe::Options& options) override {
    config_ = config;
    identity_ = config.n_zero_experts > 0 && options.choice("zero_expert", kZeroExperts) == 0;
    MOE_TRY(read_gating(options));
    if (config.n_experts > 0 && config.d_expert < 1) return expected("d_expert", "at least 1", config.d_expert);
    if (config.n_experts == 0 && config.d_shared < 1)
      return expected("d_shared", "at least 1 in a dense layer", config.d_shared);
    declare(routed_, kRouted, config.n_experts > 0 ? config.n_local_experts : 0, config.d_expert, options.flag("bias"));
    declare(shared_, kShared, config.d_shared > 0 ? 1 : 0, config.d_shared, options.flag("shared_bias"));
    MOE_TRY(declare_chunks(options));
    // A dense layer is not a shared expert: Qwen2-MoE's dense layers have no such gate.
    shared_gate_ = options.flag("shared_gate") && config.n_experts > 0;
    if (shared_gate_ && config.d_shared < 1) {
      return moe::invalid("shared_gate: expected false in a layer without shared experts, got true");
    }
    if (shared_gate_) {
      specs_.push_back(moe::weight_spec("shared_router", 1, 1, config.d_model, MOE_PLACE_PREPARED));
    }
    return {};
  }

  std::span<const moe_weight_spec> weights() override { return specs_; }

  moe::Result<uint64_t> prepare(const moe_compute& compute, std::span<const moe_bound_weight> weights,
                                int64_t max_tokens) override {
    MOE_ASSIGN(const uint64_t routed, find_ffn(routed_, compute, weights, max_tokens));
    MOE_ASSIGN(const uint64_t shared, find_ffn(shared_, compute, weights, max_tokens));
    MOE_ASSIGN(const uint64_t chunk, find_chunks(compute, weights, max_tokens));
    MOE_ASSIGN(const uint64_t gate, find_shared_gate(compute, weights, max_tokens));
    MOE_ASSIGN(const uint64_t identity, find_identity(compute, max_tokens));
    // The operations run one after the other on one stream and share the workspace behind what stays between them.
    return gate_bytes_ + chunk_bytes_ + std::max({routed, shared, chunk, gate, identity});
  }

  Status forward(const moe_expert_args& args) override {
    if (args.n_tokens == 0) return {};
    auto* const ops_workspace = static_cast<std::byte*>(args.workspace) + gate_bytes_ + chunk_bytes_;
    const uint64_t ops_bytes = args.workspace_bytes - gate_bytes_ - chunk_bytes_;
    for (const FeedForward* set : {&routed_, &chunk_}) {
      if (set->n_groups == 0) continue;
      moe_ffn_args call = set->args;
      call.ids = set == &chunk_ ? chunk_ids(args) : args.plan.ids;
      call.weights = args.plan.weights;
      call.count = args.plan.count;
      MOE_TRY(launch_ffn(*set, call, args, ops_workspace, ops_bytes));
    }
    if (shared_.n_groups > 0) {
      moe_ffn_args call = shared_.args;
      if (shared_gate_) {
        call.row_gate = moe::tensor(args.workspace, MOE_F32, {args.n_tokens, 1}, args.x.device);
        gate_args_.x = args.x;
        gate_args_.out = call.row_gate;
        MOE_TRY(gate_op_.launch(gate_args_, ops_workspace, ops_bytes));
      }
      MOE_TRY(launch_ffn(shared_, call, args, ops_workspace, ops_bytes));
    }
    return identity_ ? add_identity(args, ops_workspace, ops_bytes) : Status();
  }

 private:
  static moe::Error expected(const char* key, const char* what, int64_t got) {
    return moe::invalid(std::string(key) + ": expected " + what + ", got " + std::to_string(got));
  }

  Status read_gating(const moe::Options& options) {
    gating_.kind = MOE_ACT_SILU + options.choice("activation", kActivations);
    gating_.ungated = options.flag("gated") ? 0 : 1;
    gating_.limit = static_cast<float>(options.number("limit"));
    gating_.alpha = static_cast<float>(options.number("alpha"));
    if (gating_.kind != MOE_ACT_SWIGLU_CLAMPED) return {};
    if (gating_.ungated != 0)
      return moe::invalid("gated: expected true with activation = \"swiglu_clamped\", got false");
    if (gating_.limit <= 0) return moe::invalid("limit: expected above 0 with activation = \"swiglu_clamped\", got 0");
    return {};
  }

  // Appends the set's weights to the declaration.
  void declare(FeedForward& ffn, const Roles& roles, int64_t n_groups, int64_t width, bool biased) {
    ffn.n_groups = n_groups;
    ffn.width = width;
    ffn.first_weight = specs_.size();
    ffn.biased = biased;
    if (n_groups == 0) return;
    const bool gated = gating_.ungated == 0;
    const int64_t d = config_.d_model;
    specs_.push_back(moe::weight_spec(roles.gate, n_groups, width, d, MOE_PLACE_PREPARED));
    if (gated) specs_.push_back(moe::weight_spec(roles.up, n_groups, width, d, MOE_PLACE_PREPARED));
    specs_.push_back(moe::weight_spec(roles.down, n_groups, d, width, MOE_PLACE_PREPARED));
    if (!biased) return;
    specs_.push_back(moe::weight_spec(roles.gate_bias, n_groups, width, 1, MOE_PLACE_DEVICE));
    if (gated) specs_.push_back(moe::weight_spec(roles.up_bias, n_groups, width, 1, MOE_PLACE_DEVICE));
    specs_.push_back(moe::weight_spec(roles.down_bias, n_groups, d, 1, MOE_PLACE_DEVICE));
  }

  // The smaller experts beside the routed ones (GroveMoE, arXiv 2508.07785): choice j of a token goes to expert id and
  // to the smaller one id / chunk_size, with chunk_scale times its weight there. Several choices that meet in one add
  // up.
  Status declare_chunks(const moe::Options& options) {
    const int64_t size = options.integer("chunk_size");
    if (size == 0 || config_.n_experts == 0) return {};
    const int64_t width = options.integer("d_chunk");
    if (width < 1) return expected("d_chunk", "at least 1 with chunk_size", width);
    for (const int64_t n : {config_.n_experts, config_.n_local_experts, config_.first_expert}) {
      if (n % size != 0)
        return expected("chunk_size", ("a divisor of " + std::to_string(n) + " experts").c_str(), size);
    }
    chunk_size_ = size;
    chunk_.scale = static_cast<float>(options.number("chunk_scale"));
    declare(chunk_, kChunk, config_.n_local_experts / size, width, false);
    return {};
  }

  // Binds the set's weights and finds its operation; returns the operation's workspace in bytes.
  moe::Result<uint64_t> find_ffn(FeedForward& ffn, const moe_compute& compute,
                                 std::span<const moe_bound_weight> weights, int64_t max_tokens) {
    if (ffn.n_groups == 0) return uint64_t{0};
    moe_ffn_args& args = ffn.args = moe::op_args<moe_ffn_args>();
    const bool gated = gating_.ungated == 0;
    size_t at = ffn.first_weight;
    args.gate = weights[at++].prepared;
    args.up = gated ? weights[at++].prepared : nullptr;
    args.down = weights[at++].prepared;
    args.gate_bias = args.up_bias = args.down_bias = moe::absent();
    if (ffn.biased) {
      args.gate_bias = moe::tensor(weights[at++].plain, {ffn.n_groups, ffn.width}, compute.device);
      if (gated) args.up_bias = moe::tensor(weights[at++].plain, {ffn.n_groups, ffn.width}, compute.device);
      args.down_bias = moe::tensor(weights[at++].plain, {ffn.n_groups, config_.d_model}, compute.device);
    }
    args.x = args.out = moe::tensor(nullptr, MOE_F32, {max_tokens, config_.d_model}, compute.device);
    args.ids = args.weights = args.count = args.row_gate = moe::absent();
    if (&ffn != &shared_) {
      args.ids = moe::tensor(nullptr, MOE_I32, {max_tokens, config_.k_max}, compute.device);
      args.weights = moe::tensor(nullptr, MOE_F32, {max_tokens, config_.k_max}, compute.device);
      args.count = moe::tensor(nullptr, MOE_I32, {max_tokens}, compute.device);
      args.first_expert = &ffn == &chunk_ ? config_.first_expert / chunk_size_ : config_.first_expert;
      args.weight_on = config_.weight_on;
    } else if (shared_gate_) {
      args.row_gate = moe::tensor(nullptr, MOE_F32, {max_tokens, 1}, compute.device);
    }
    args.n_experts = ffn.n_groups;
    args.width = ffn.width;
    args.gating = gating_;
    args.activation = config_.activation;
    args.accumulate = 1;
    args.scale = 1.0F;
    MOE_ASSIGN(ffn.op, Op::find(compute, MOE_OP_FFN, args.header));
    return ffn.op.workspace_bytes();
  }

  static uint64_t rounded(int64_t n_bytes) { return (static_cast<uint64_t>(n_bytes) + 63) / 64 * 64; }

  // No operation divides ids: the host does, where it sees them.
  moe::Result<uint64_t> find_chunks(const moe_compute& compute, std::span<const moe_bound_weight> weights,
                                    int64_t max_tokens) {
    if (chunk_.n_groups == 0) return uint64_t{0};
    if ((compute.flags & MOE_BACKEND_HOST_VISIBLE) == 0)
      return expected("chunk_size", "0 on a backend whose memory the host does not see", chunk_size_);
    chunk_bytes_ = rounded(max_tokens * config_.k_max * static_cast<int64_t>(sizeof(int32_t)));
    return find_ffn(chunk_, compute, weights, max_tokens);
  }
  // The smaller expert of each of the plan's choices. Ids without an expert stay without one.
  [[nodiscard]] moe_tensor chunk_ids(const moe_expert_args& args) const {
    auto* const memory = static_cast<std::byte*>(args.workspace) + gate_bytes_;
    const moe_tensor ids = moe::tensor(memory, MOE_I32, {args.n_tokens, config_.k_max}, args.x.device);
    for (int64_t i = 0; i < args.n_tokens; ++i) {
      for (int64_t j = 0; j < config_.k_max; ++j) {
        const int32_t id = moe::row<const int32_t>(args.plan.ids, i)[j];
        moe::row<int32_t>(ids, i)[j] = id < config_.n_experts ? id / static_cast<int32_t>(chunk_size_) : -1;
      }
    }
    return ids;
  }

  moe::Result<uint64_t> find_shared_gate(const moe_compute& compute, std::span<const moe_bound_weight> weights,
                                         int64_t max_tokens) {
    gate_bytes_ = 0;
    if (!shared_gate_) return uint64_t{0};
    gate_bytes_ = rounded(max_tokens * static_cast<int64_t>(sizeof(float)));
    gate_args_ = moe::op_args<moe_matmul_args>();
    gate_args_.weight = weights.back().prepared;
    gate_args_.x = moe::tensor(nullptr, MOE_F32, {max_tokens, config_.d_model}, compute.device);
    gate_args_.bias = moe::absent();
    gate_args_.out = moe::tensor(nullptr, MOE_F32, {max_tokens, 1}, compute.device);
    gate_args_.scale = 1.0F;
    gate_args_.activation = MOE_F32;
    MOE_ASSIGN(gate_op_, Op::find(compute, MOE_OP_MATMUL, gate_args_.header));
    return gate_op_.workspace_bytes();
  }

  static Status launch_ffn(const FeedForward& ffn, moe_ffn_args& call, const moe_expert_args& args, void* workspace,
                           uint64_t n_bytes) {
    call.x = args.x;
    call.out = args.out;
    call.scale = args.scale * ffn.scale;
    return ffn.op.launch(call, workspace, n_bytes);
  }

  // Ids without an expert return their input; returns the operation's workspace in bytes.
  moe::Result<uint64_t> find_identity(const moe_compute& compute, int64_t max_tokens) {
    if (!identity_) return uint64_t{0};
    identity_args_ = moe::op_args<moe_identity_args>();
    identity_args_.x = identity_args_.out =
        moe::tensor(nullptr, MOE_F32, {max_tokens, config_.d_model}, compute.device);
    identity_args_.ids = moe::tensor(nullptr, MOE_I32, {max_tokens, config_.k_max}, compute.device);
    identity_args_.weights = moe::tensor(nullptr, MOE_F32, {max_tokens, config_.k_max}, compute.device);
    identity_args_.count = moe::tensor(nullptr, MOE_I32, {max_tokens}, compute.device);
    identity_args_.first = config_.n_experts;
    MOE_ASSIGN(identity_op_, Op::find(compute, MOE_OP_IDENTITY, identity_args_.header));
    return identity_op_.workspace_bytes();
  }
  Status add_identity(const moe_expert_args& args, void* workspace, uint64_t n_bytes) const {
    moe_identity_args call = identity_args_;
    call.x = args.x;
    call.ids = args.plan.ids;
    call.weights = args.plan.weights;
    call.count = args.plan.count;
    call.out = args.out;
    call.scale = args.scale;
    return identity_op_.launch(call, workspace, n_bytes);
  }

  moe::ExpertConfig config_{};
  moe_gating gating_{};
  std::vector<moe_weight_spec> specs_;
  FeedForward routed_;
  FeedForward chunk_;
  int64_t chunk_size_ = 0;
  FeedForward shared_;
  bool shared_gate_ = false;
  bool identity_ = false;
  Op identity_op_;
  moe_identity_args identity_args_{};
  Op gate_op_;
  moe_matmul_args gate_args_{};  // launched in place: the ABI calls an instance from one thread at a time
  uint64_t gate_bytes_ = 0;      // the shared gate's values at the workspace's front
  uint64_t chunk_bytes_ = 0;     // behind them the ids of the smaller experts
};

}  // namespace

MOE_PLUGIN("expert_swiglu", "0.1.0", "Apache-2.0", "Patchbay", SwiGlu)
