// A router that keeps context: it scores by a mean of the logits of this and all earlier tokens, weighted by age.
#include <cmath>

#include "moe/sdk/router.hpp"

namespace {

class Smoothing : public moe::HostRouter {
 public:
  static constexpr const char* kName = "smoothing";
  static constexpr const char* kDoc = "Logits are smoothed along the text.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT;
  static constexpr moe_option kOptions[] = {moe::int_option("k", "2", 1, 1024, "Experts a token goes to.")};

  moe::Status setup(const moe::RouterConfig& config, const moe::Options& options) override {
    k_ = options.integer("k");
    n_logits_ = n_logits(config);
    return {};
  }
  int64_t k_max() const override { return k_; }
  int64_t context_floats() const override { return n_logits_; }
  void score(const moe::RouterToken& token, moe::Choice& choice) override {
    const std::span<float> mean = token.context_row(token.position);
    for (size_t e = 0; e < mean.size(); ++e) {
      const float before = token.position == 0 ? 0 : token.context_row(token.position - 1)[e];
      mean[e] = 0.8F * before + 0.2F * token.logits[e];
    }
    moe::for_top_k(mean, k_, [&](int32_t id, float x) { choice.add(id, 1 / (1 + std::exp(-x))); });
  }

 private:
  int64_t k_ = 0;
  int64_t n_logits_ = 0;
};

}  // namespace

MOE_PLUGIN("smoothing", "0.1.0", "Apache-2.0", "The Patchbay authors", Smoothing)
