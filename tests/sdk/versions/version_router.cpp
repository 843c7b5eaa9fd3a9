// One router, built from the headers of two versions. What only the newer one knows it uses where the other side has it
// too.
#ifdef NEEDS_NEXT
#define MOE_ABI_LEAST_MINOR 1
#endif
#include "moe/sdk/router.hpp"

namespace {

// What route() puts into the weights, so that the test can see what the plugin saw.
int64_t g_config = 0;
int64_t g_service = 0;

class Versioned : public moe::HostRouter {
 public:
  static constexpr const char* kName = "versioned";
  static constexpr const char* kDoc = "The first k experts; says in its weights what it saw of the other side.";
  static constexpr moe_option kOptions[] = {moe::int_option("k", "2", 1, 8, "Experts a token goes to."),
                                            moe::float_option("weight", "0.5", 0, 1, "Weight of each."),
                                            moe::bool_option("flag", "true", "Nothing.")};

  moe::Status setup(const moe::RouterConfig& config, const moe::Options& options) override {
    k_ = options.integer("k");
    weight_ = static_cast<float>(options.number("weight"));
    if (!options.flag("flag")) return moe::invalid("flag: expected true");
    weights_ = {moe::weight_spec("first", 1, config.n_experts, 1, MOE_PLACE_HOST),
                moe::weight_spec("second", 1, config.n_experts, 1, MOE_PLACE_HOST)};
#if MOE_ABI_MINOR >= 1
    g_config = config.next_config;
    if (moe::knows(moe::host(), &moe_host::next_service)) g_service = moe::host()->next_service(moe::host()->self);
#endif
    return {};
  }
  [[nodiscard]] int64_t k_max() const override { return k_; }
  [[nodiscard]] std::span<const moe_weight_spec> weights() const override { return weights_; }
  moe::Status bind(std::span<const moe_bound_weight> bound) override {
    seen_ = bound[0].plain[1] + bound[1].plain[1];
    return {};
  }
  void score(const moe::RouterToken& token, moe::Choice& choice) override {
    for (int32_t e = 0; e < k_; ++e) choice.add(e, weight_);
    choice.weights()[0] = token.logits[0] + seen_ + static_cast<float>(100 * g_config + 10000 * g_service);
#if MOE_ABI_MINOR >= 1
    choice.weights()[0] += static_cast<float>(1000 * token.args->next_args);
#endif
  }

 private:
  int64_t k_ = 0;
  float weight_ = 0;
  float seen_ = 0;
  std::vector<moe_weight_spec> weights_;
};

}  // namespace

MOE_PLUGIN("versioned", "1.0.0", "MIT", "Patchbay", Versioned)
