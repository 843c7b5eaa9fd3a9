// Plain top-k routing in every published spelling: score, selection bias, soft cap, renormalisation, dynamic k.
#include "moe/sdk/op_router.hpp"

namespace {

namespace opt = moe::route_option;

class TopK : public moe::OpRouter {
 public:
  static constexpr const char* kName = "topk";
  static constexpr const char* kDoc =
      "The k experts with the best scores: Mixtral, Qwen, gpt-oss, Llama-4, GLM, Kimi, Phi, Grok.";
  static constexpr uint32_t kCapabilities =
      MOE_CAP_GRAPH_SAFE | MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      opt::kK,
      moe::choice_option(
          "score", "softmax", opt::kScores,
          "How logits become scores; softmax_chosen takes the softmax after the choice (gpt-oss), sparse_mixer is "
          "Phi-3.5-MoE's rule.",
          opt::kFlags),
      opt::kBias,
      opt::kRenorm,
      opt::kRenormEps,
      opt::kScale,
      opt::kWeightOn,
      opt::kLogitCap,
      moe::float_option("sparse_eps", "0.01", 0.0, 1.0, "SparseMixer's eps (router_jitter_noise).", opt::kFlags),
      opt::kDynamic,
      opt::kThreshold,
      opt::kKMin,
  };

  moe::Status setup(const moe::RouterConfig&, const moe::Options& options, moe_route_op_args& args) override {
    args.score = MOE_SCORE_SOFTMAX + options.choice("score", opt::kScores);
    args.sparse_eps = static_cast<float>(options.number("sparse_eps"));
    return {};
  }
};

}  // namespace

MOE_PLUGIN("router_topk", "0.1.0", "Apache-2.0", "Patchbay", TopK)
