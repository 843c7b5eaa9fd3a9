// A router that looks back: a token's logits are mixed with those that earlier tokens of its sequence had in this
// layer, by attention over them. The state of a token is its own softmax s; its weight for an earlier one is
// softmax_p(beta * s . s_p), so that a token listens to those that were routed as it would be:
//   l' = (1 - mix) l + mix * sum_p a_p log(s_p),   a = softmax over the last `window` positions, its own included
// With mix = 0 it is softmax and the k best. It has no trained weights: a stand-in for ones that need them (ROUTERS:
// "context-aware attention"), and the example of a router's own state. The states lie in the paged cache beside keys
// and values, so they follow the sequence through batching, chunks and preemption without a line here.
#include <cmath>
#include <vector>

#include "moe/sdk/router.hpp"

namespace {

class Context : public moe::HostRouter {
 public:
  static constexpr const char* kName = "context";
  static constexpr const char* kDoc =
      "Softmax and the k best, of logits mixed with those of earlier tokens of the sequence.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::int_option("k", "2", 1, 1024, "Experts a token goes to.", MOE_OPTION_PER_LAYER),
      moe::float_option("mix", "0.25", 0, 1, "Share of the past in the logits.", MOE_OPTION_PER_LAYER),
      moe::float_option("beta", "4.0", 0, 1000, "How much more a token listens to those that are like it.",
                        MOE_OPTION_PER_LAYER),
      moe::int_option("window", "64", 1, 1 << 20, "Positions that it looks back, its own included.",
                      MOE_OPTION_PER_LAYER, "tokens")};

  moe::Status setup(const moe::RouterConfig& config, const moe::Options& options) override {
    k_ = options.integer("k");
    mix_ = options.number("mix");
    beta_ = options.number("beta");
    window_ = options.integer("window");
    n_ = n_logits(config);
    if (k_ > n_)
      return moe::invalid("k: expected at most " + std::to_string(n_) + " (the layer's experts), got " +
                          std::to_string(k_));
    mixed_.resize(static_cast<size_t>(n_));
    scores_.resize(mixed_.size());
    return {};
  }
  [[nodiscard]] int64_t k_max() const override { return k_; }
  [[nodiscard]] int64_t context_floats() const override { return n_; }
  [[nodiscard]] float weights_sum() const override { return 1; }

  void score(const moe::RouterToken& token, moe::Choice& choice) override {
    const auto own = token.context_row(token.position);
    softmax(token.logits, own);
    // A first pass for the largest score, a second for the sums: the order of positions is the sequence's, whatever the
    // batch.
    const int64_t first = std::max<int64_t>(0, token.position - window_ + 1);
    double most = -1;
    for (int64_t p = first; p <= token.position; ++p) most = std::max(most, dot(own, token.context_row(p)));
    std::vector<double>& mixed = mixed_;
    std::fill(mixed.begin(), mixed.end(), 0.0);
    double sum = 0;
    for (int64_t p = first; p <= token.position; ++p) {
      const auto state = token.context_row(p);
      const double a = std::exp(beta_ * (dot(own, state) - most));
      sum += a;
      for (size_t e = 0; e < mixed.size(); ++e) mixed[e] += a * std::log(static_cast<double>(state[e]) + 1e-30);
    }
    choose(token, sum, choice);
  }

 private:
  static void softmax(std::span<const float> logits, std::span<float> out) {
    float most = -std::numeric_limits<float>::infinity();
    for (const float l : logits) most = std::max(most, l);
    double sum = 0;
    for (const float l : logits) sum += std::exp(static_cast<double>(l) - most);
    for (size_t e = 0; e < out.size(); ++e)
      out[e] = static_cast<float>(std::exp(static_cast<double>(logits[e]) - most) / sum);
  }
  static double dot(std::span<const float> a, std::span<const float> b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
  }
  // The k best of the mixed logits, and their softmax.
  void choose(const moe::RouterToken& token, double sum, moe::Choice& choice) {
    for (size_t e = 0; e < scores_.size(); ++e)
      scores_[e] = static_cast<float>((1 - mix_) * token.logits[e] + mix_ * mixed_[e] / sum);
    float best = 0;
    float total = 0;
    moe::for_top_k(scores_, k_, [&](int32_t e, float l) {
      if (choice.size() == 0) best = l;
      choice.add(e, std::exp(l - best));
      total += std::exp(l - best);
    });
    for (float& w : choice.weights()) w /= total;
  }

  int64_t k_ = 0;
  int64_t n_ = 0;
  int64_t window_ = 0;
  double mix_ = 0;
  double beta_ = 0;
  std::vector<double> mixed_;  // of one token
  std::vector<float> scores_;
};

}  // namespace

MOE_PLUGIN("router_context", "0.1.0", "Apache-2.0", "Patchbay", Context)
