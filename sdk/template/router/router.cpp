// The smallest router: softmax over the experts, the k best, weights that sum to one. Change score() and you have your
// own.
#include <cmath>

#include "moe/sdk/router.hpp"

class MyRouter : public moe::HostRouter {
 public:
  static constexpr const char* kName = "my_router";
  static constexpr const char* kDoc = "Softmax, then the k best.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT;
  static constexpr moe_option kOptions[] = {
      moe::int_option("k", "2", 1, 1024, "Experts a token goes to.", MOE_OPTION_PER_LAYER)};

  moe::Status setup(const moe::RouterConfig& config, const moe::Options& options) override {
    k_ = options.integer("k");
    if (k_ > n_logits(config))
      return moe::invalid("k: expected at most the layer's experts, got " + std::to_string(k_));
    return {};
  }
  [[nodiscard]] int64_t k_max() const override { return k_; }
  [[nodiscard]] float weights_sum() const override { return 1; }

  void score(const moe::RouterToken& token, moe::Choice& choice) override {
    float best = 0.0F;
    float sum = 0.0F;
    moe::for_top_k(token.logits, k_, [&](int32_t id, float logit) {
      if (choice.size() == 0) best = logit;
      choice.add(id, std::exp(logit - best));
    });
    for (const float w : choice.weights()) sum += w;
    for (float& w : choice.weights()) w /= sum;
  }

 private:
  int64_t k_ = 0;
};

MOE_PLUGIN("my_router", "0.1.0", "MIT", "you", MyRouter)
