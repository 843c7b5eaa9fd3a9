// Attention router of Yuan 2.0-M32 (arXiv 2405.17976): the experts of one token attend to each other.
//   q, k, v = W_q x, W_k x, W_v x in R^E;  l_i = sum_j a_ij v_j,  a_i = softmax_j(q_i k_j)
// Then everything as in topk. The gate has 3 E rows: W_q, W_k, W_v. No factor stands before q_i k_j.
#include <algorithm>
#include <cmath>

#include "moe/sdk/host_op_router.hpp"

namespace {

namespace opt = moe::route_option;

class ExpertAttention : public moe::HostOpRouter {
 public:
  static constexpr const char* kName = "expert_attention";
  static constexpr const char* kDoc =
      "The k best of logits that come from attention among the experts of one token: Yuan 2.0-M32; needs a gate of "
      "three rows an expert.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      opt::kK,
      moe::choice_option("score", "softmax", opt::kPlainScores, "How logits become scores.", opt::kFlags),
      opt::kBias,
      opt::kRenorm,
      opt::kRenormEps,
      opt::kScale,
      opt::kLogitCap,
      opt::kDynamic,
      opt::kThreshold,
      opt::kKMin,
  };

  moe::Status read_options(const moe::RouterConfig&, const moe::Options& options, moe_route_op_args& args) override {
    args.score = MOE_SCORE_SOFTMAX + options.choice("score", opt::kPlainScores);
    n_experts_ = args.n_experts;
    return {};
  }
  [[nodiscard]] int64_t n_logits(const moe::RouterConfig&) const override { return 3 * n_experts_; }

  void prepare_row(const moe::RouterToken& token, std::span<float> logits, std::span<float>) override {
    const size_t n = logits.size();
    const auto q = token.logits.first(n);
    const auto k = token.logits.subspan(n, n);
    const auto v = token.logits.last(n);
    const auto [least, most] = std::minmax_element(k.begin(), k.end());
    for (size_t i = 0; i < n; ++i) {
      const float best = q[i] < 0 ? *least : *most;  // the key of the largest product: exponents are at most 0
      double sum = 0;
      double found = 0;
      for (size_t j = 0; j < n; ++j) {
        const double a = std::exp(q[i] * (k[j] - best));
        sum += a;
        found += a * v[j];
      }
      logits[i] = static_cast<float>(found / sum);
    }
  }

 private:
  int64_t n_experts_ = 0;
};

}  // namespace

MOE_PLUGIN("router_expert_attention", "0.1.0", "Apache-2.0", "Patchbay", ExpertAttention)
