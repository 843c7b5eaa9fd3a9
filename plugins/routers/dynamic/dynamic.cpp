// As many experts as a token needs: the fewest whose scores sum to a threshold (arXiv 2403.07652), or those that are
// near the best (row "dynamic k" of the published routers). The other routers have this as an option; here it is the
// default, for models that are trained so (tools/train, router `dynamic`).
#include "moe/sdk/op_router.hpp"

namespace {

namespace opt = moe::route_option;

constexpr const char* kBy[] = {"ratio", "top_p", nullptr};

class Dynamic : public moe::OpRouter {
 public:
  static constexpr const char* kName = "dynamic";
  static constexpr const char* kDoc =
      "As many experts as a token needs: by the sum of their scores, or by their ratio.";
  static constexpr uint32_t kCapabilities =
      MOE_CAP_GRAPH_SAFE | MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::int_option("k", "8", 1, 65536, "The most experts that a token goes to.", opt::kFlags),
      moe::choice_option(
          "by", "top_p", kBy,
          "top_p: the fewest whose s sums to threshold or more; ratio: those with s > threshold * best s.",
          opt::kFlags),
      moe::float_option("threshold", "0.7", 0.0, 1.0, "See by.", opt::kFlags),
      opt::kKMin,
      moe::choice_option("score", "softmax", opt::kPlainScores, "How logits become scores.", opt::kFlags),
      opt::kBias,
      opt::kRenorm,
      opt::kRenormEps,
      opt::kScale,
      opt::kWeightOn,
      opt::kLogitCap,
  };

  moe::Status setup(const moe::RouterConfig&, const moe::Options& options, moe_route_op_args& args) override {
    args.score = MOE_SCORE_SOFTMAX + options.choice("score", opt::kPlainScores);
    args.dynamic = MOE_DYNAMIC_RATIO + options.choice("by", kBy);
    return {};
  }
};

}  // namespace

MOE_PLUGIN("router_dynamic", "0.1.0", "Apache-2.0", "Patchbay", Dynamic)
