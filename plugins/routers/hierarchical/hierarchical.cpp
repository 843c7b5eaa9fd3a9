// Two gates, one above the other: a token picks groups, then experts inside them, w = s_group * s_expert (Jordan &
// Jacobs 1994; Shazeer et al. 2017, appendix B). A checkpoint that was trained with one gate has no group gate; its
// groups' logits are then derived as the log-sum-exp of their experts' logits, for which the product is exactly the
// plain softmax and only the choice is restricted.
#include "moe/sdk/op_router.hpp"

namespace {

namespace opt = moe::route_option;

constexpr const char* kGates[] = {"derived", "trained", nullptr};

class Hierarchical : public moe::OpRouter {
 public:
  static constexpr const char* kName = "hierarchical";
  static constexpr const char* kDoc =
      "First groups, then experts inside them, each by its own softmax; works on any checkpoint's gate.";
  static constexpr uint32_t kCapabilities =
      MOE_CAP_GRAPH_SAFE | MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      opt::kK,
      moe::int_option("groups", "4", 1, 65536, "Groups of equal size; consecutive ids share one.", opt::kFlags),
      moe::int_option("top_groups", "2", 1, 65536, "Groups that a token keeps.", opt::kFlags),
      moe::choice_option(
          "gate", "derived", kGates,
          "Where groups' logits come from: derived from their experts' (any checkpoint), or trained: the gate then has "
          "groups + experts rows, groups first. renorm = auto is sum when derived and none when trained.",
          opt::kFlags),
      opt::kBias,
      opt::kRenorm,
      opt::kRenormEps,
      opt::kScale,
      opt::kWeightOn,
      opt::kLogitCap,
      opt::kDynamic,
      opt::kThreshold,
      opt::kKMin,
  };

  moe::Status setup(const moe::RouterConfig&, const moe::Options& options, moe_route_op_args& args) override {
    const bool trained = options.choice("gate", kGates) == 1;
    args.score = trained ? MOE_SCORE_GROUP_GATE : MOE_SCORE_SOFTMAX;
    // exp(logsumexp) over the groups is proportional to the sum of their experts' softmax: no second gate has to be
    // computed.
    args.group_score = trained ? MOE_GROUP_GATE_SCORE : MOE_GROUP_SUM;
    args.fill = MOE_FILL_MINUS_INFINITY;
    return moe::set_groups(options, args);
  }
  [[nodiscard]] int32_t auto_renorm(const moe_route_op_args& args) const override {
    return args.score == MOE_SCORE_GROUP_GATE ? MOE_RENORM_NONE : MOE_RENORM_SUM;
  }
};

}  // namespace

MOE_PLUGIN("router_hierarchical", "0.1.0", "Apache-2.0", "Patchbay", Hierarchical)
