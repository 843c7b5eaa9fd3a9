// A router that sees its context (ROUTERS: "context-aware attention"): a token's query attends over the router states
// of the sequence's last tokens, its own included, and what it finds there enters the logits.
//   q, k, v = W_q x, W_k x, W_v x in R^state;  c = sum_p a_p v_p,  a = softmax_p(q . k_p / sqrt(state));  l = W x + W_c
//   c
// Then everything as in topk. The gate has n_experts + 3 state rows: W, W_q, W_k, W_v; W_c is the weight "context"
// [n_experts, state]. A token's k and v lie in the paged cache beside those of the model's attention, so they follow
// the sequence through batching, chunks, shared prefixes and preemption. A window of 1 is the twin without context.
// Trained by tools/train (router `attention`).
#include <cmath>
#include <vector>

#include "moe/sdk/host_op_router.hpp"

namespace {

namespace opt = moe::route_option;

class Attention : public moe::HostOpRouter {
 public:
  static constexpr const char* kName = "attention";
  static constexpr const char* kDoc =
      "The k best of logits that attention over the sequence's past router states has a part in; needs trained "
      "weights.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      opt::kK,
      moe::int_option("state", "16", 1, 4096, "Dimension of a token's query, key and value.", opt::kFlags),
      moe::int_option("window", "64", 1, 1 << 20, "Positions that a token looks back, its own included.", opt::kFlags,
                      "tokens"),
      moe::choice_option("score", "sigmoid", opt::kPlainScores, "How logits become scores.", opt::kFlags),
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
    state_ = options.integer("state");
    window_ = options.integer("window");
    n_experts_ = args.n_experts;
    found_.resize(static_cast<size_t>(state_));
    return {};
  }
  [[nodiscard]] int64_t n_logits(const moe::RouterConfig&) const override { return n_experts_ + 3 * state_; }
  [[nodiscard]] int64_t context_floats() const override { return 2 * state_; }
  [[nodiscard]] std::vector<moe_weight_spec> own_weights() const override {
    return {moe::weight_spec("context", 1, n_experts_, state_, MOE_PLACE_HOST)};
  }
  moe::Status bind_own(std::span<const moe_bound_weight> bound) override {
    context_.assign(bound[0].plain, bound[0].plain + n_experts_ * state_);
    return {};
  }

  void prepare_row(const moe::RouterToken& token, std::span<float> logits, std::span<float>) override {
    const auto d = static_cast<size_t>(state_);
    const auto own = token.logits.subspan(logits.size());
    const auto kept = token.context_row(token.position);
    std::copy_n(own.begin() + state_, 2 * d, kept.begin());
    attend(token, own.first(d));
    for (size_t e = 0; e < logits.size(); ++e)
      logits[e] = static_cast<float>(token.logits[e] + dot(std::span<const float>(context_).subspan(e * d, d), found_));
  }

 private:
  template <typename A, typename B>
  static double dot(const A& a, const B& b) {
    double sum = 0;
    for (size_t i = 0; i < b.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
  }
  // found_ = c. Positions in the sequence's order, whatever the batch: a first pass for the largest, a second for the
  // sums.
  void attend(const moe::RouterToken& token, std::span<const float> q) {
    const auto d = static_cast<size_t>(state_);
    const double scale = 1 / std::sqrt(static_cast<double>(state_));
    const int64_t first = std::max<int64_t>(0, token.position - window_ + 1);
    double most = -std::numeric_limits<double>::infinity();
    for (int64_t p = first; p <= token.position; ++p) most = std::max(most, scale * dot(token.context_row(p), q));
    std::fill(found_.begin(), found_.end(), 0.0);
    double sum = 0;
    for (int64_t p = first; p <= token.position; ++p) {
      const auto state = token.context_row(p);
      const double a = std::exp(scale * dot(state, q) - most);
      sum += a;
      for (size_t i = 0; i < d; ++i) found_[i] += a * state[d + i];
    }
    for (double& x : found_) x /= sum;
  }

  int64_t state_ = 0;
  int64_t window_ = 0;
  int64_t n_experts_ = 0;
  std::vector<float> context_;  // [n_experts, state]
  std::vector<double> found_;   // of one token
};

}  // namespace

MOE_PLUGIN("router_attention", "0.1.0", "Apache-2.0", "Patchbay", Attention)
