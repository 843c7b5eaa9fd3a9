// Top-any gating (DynMoE, arXiv 2405.14297): an expert is taken if its cosine similarity to the token passes a
// threshold of its own, so that every token has as many experts as fit it; none at all means the most similar one. The
// experts that are taken weigh the same.
//
// The first of three ways to write a router: scores of one token on the host.
#include <cmath>
#include <vector>

#include "moe/sdk/router.hpp"

namespace {

class TopAny : public moe::HostRouter {
 public:
  static constexpr const char* kName = "top_any";
  static constexpr const char* kDoc =
      "Every expert whose cosine similarity to the token passes its threshold; at least one, at most k.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::int_option("k", "8", 1, 1024, "Experts a token goes to at most.", MOE_OPTION_PER_LAYER),
      moe::float_option("temperature", "1.0", 0, 1e4, "Factor of the similarity.", MOE_OPTION_PER_LAYER),
      moe::float_option("threshold", "0.0", -1e4, 1e4, "Of experts that have no trained one (weight \"threshold\").",
                        MOE_OPTION_PER_LAYER)};

  moe::Status setup(const moe::RouterConfig& config, const moe::Options& options) override {
    k_ = std::min(options.integer("k"), config.n_experts);
    temperature_ = static_cast<float>(options.number("temperature"));
    threshold_.assign(static_cast<size_t>(config.n_experts), static_cast<float>(options.number("threshold")));
    if (config.n_experts < 1 || config.n_zero_experts > 0)
      return moe::invalid("k: expected a layer with experts, and none without weights");
    similarity_.resize(threshold_.size());
    weights_ = {moe::weight_spec("gate", 1, config.n_experts, config.d_model, MOE_PLACE_HOST),
                moe::weight_spec("threshold", 1, config.n_experts, 1, MOE_PLACE_HOST, true)};
    return {};
  }
  [[nodiscard]] int64_t k_max() const override { return k_; }
  [[nodiscard]] uint32_t inputs() const override { return MOE_INPUT_HIDDEN; }
  [[nodiscard]] float weights_sum() const override { return 1; }
  [[nodiscard]] std::span<const moe_weight_spec> weights() const override { return weights_; }

  moe::Status bind(std::span<const moe_bound_weight> bound) override {
    const auto d = static_cast<size_t>(config_.d_model);
    for (size_t e = 0; e < threshold_.size(); ++e) length_.push_back(length({bound[0].plain + e * d, d}));
    if (bound[1].plain != nullptr) threshold_.assign(bound[1].plain, bound[1].plain + threshold_.size());
    return {};
  }

  // sigma(a) > sigma(b) is a > b.
  void score(const moe::RouterToken& token, moe::Choice& choice) override {
    const double x = length(token.hidden);
    std::span<float> similarity(similarity_);
    for (size_t e = 0; e < similarity.size(); ++e) {  // temperature * cos(x, gate_e); the core has the products
      const double lengths = x * length_[e];
      similarity[e] = lengths == 0 ? 0.0F : static_cast<float>(temperature_ * token.logits[e] / lengths);
    }
    moe::for_top_k(similarity, std::ssize(similarity), [&](int32_t e, float s) {
      if (s > threshold_[static_cast<size_t>(e)]) choice.add(e, 1);
    });
    if (choice.size() == 0) moe::for_top_k(similarity, 1, [&](int32_t e, float) { choice.add(e, 1); });
    for (float& w : choice.weights()) w /= static_cast<float>(choice.size());
  }

 private:
  static double length(std::span<const float> v) {
    double sum = 0;
    for (const float x : v) sum += static_cast<double>(x) * x;
    return std::sqrt(sum);
  }

  int64_t k_ = 0;
  double temperature_ = 1;
  std::vector<moe_weight_spec> weights_;
  std::vector<float> threshold_;
  std::vector<double> length_;     // of the gate's rows
  std::vector<float> similarity_;  // of one token
};

}  // namespace

MOE_PLUGIN("router_top_any", "0.1.0", "Apache-2.0", "Patchbay", TopAny)
