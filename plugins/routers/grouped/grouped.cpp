// Group-limited top-k: the experts lie in groups, the best groups are kept, and the k are chosen inside them
// (DeepSeek-V2 and -V3).
#include "moe/sdk/op_router.hpp"

namespace {

namespace opt = moe::route_option;

constexpr const char* kGroupScores[] = {"max", "top2_sum", nullptr};
constexpr const char* kFills[] = {"zero", "minus_infinity", nullptr};

class Grouped : public moe::OpRouter {
 public:
  static constexpr const char* kName = "grouped";
  static constexpr const char* kDoc = "The k best experts of the best groups: DeepSeek-V2, DeepSeek-V3, DeepSeek-R1.";
  static constexpr uint32_t kCapabilities =
      MOE_CAP_GRAPH_SAFE | MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      opt::kK,
      moe::int_option("groups", "8", 1, 65536, "Groups of equal size; consecutive ids share one.", opt::kFlags),
      moe::int_option("top_groups", "4", 1, 65536, "Groups that are kept.", opt::kFlags),
      moe::choice_option("group_score", "top2_sum", kGroupScores,
                         "A group's score: its best expert's (DeepSeek-V2), or its best two's sum (DeepSeek-V3).",
                         opt::kFlags),
      moe::choice_option(
          "fill", "minus_infinity", kFills,
          "What the selection score becomes outside the kept groups: zero (Hugging Face's DeepSeek-V3, where it can "
          "still win over negative scores), minus_infinity (DeepSeek's own code).",
          opt::kFlags),
      moe::choice_option("score", "sigmoid", opt::kPlainScores, "How logits become scores.", opt::kFlags),
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
    args.score = MOE_SCORE_SOFTMAX + options.choice("score", opt::kPlainScores);
    args.group_score = MOE_GROUP_MAX + options.choice("group_score", kGroupScores);
    args.fill = MOE_FILL_ZERO + options.choice("fill", kFills);
    MOE_TRY(moe::set_groups(options, args));
    if (args.group_score == MOE_GROUP_TOP2_SUM && args.n_experts / args.n_groups < 2) {
      return moe::unfit("group_score", "\"max\" where a group has one expert", "top2_sum");
    }
    return {};
  }
};

}  // namespace

MOE_PLUGIN("router_grouped", "0.1.0", "Apache-2.0", "Patchbay", Grouped)
