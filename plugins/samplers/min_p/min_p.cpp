// A floor that moves with the model's certainty (Nguyen et al. 2024, arXiv 2407.01082): p_i >= value * max p. As
// logits: l_i >= max l + log(value), so that no exponential is taken.
#include <cmath>

#include "moe/sdk/logits.hpp"
#include "moe/sdk/sampler.hpp"

namespace {

class MinP : public moe::Sampler {
 public:
  static constexpr const char* kName = "min_p";
  static constexpr const char* kDoc = "Takes out tokens less likely than `value` times the likeliest; 0 keeps all.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {moe::float_option(
      "value", "0.0", 0.0, 1.0, "The least share of the best token's probability; 0: none.", MOE_OPTION_REQUEST)};

  moe::Status configure(const moe::Options& options, int64_t) override {
    p_ = options.number("value");
    if (!(p_ >= 0.0 && p_ <= 1.0)) return moe::invalid("value: expected a share from 0 to 1, got another number");
    return {};
  }
  [[nodiscard]] bool is_identity() const override { return p_ == 0.0; }

  void apply(moe::SampleRow& row) override {
    const moe::LogitScan scan = moe::scan_logits(row.logits());
    if (p_ == 0.0 || !scan.usable) return;
    const double bound = scan.max + std::log(p_);
    float least = static_cast<float>(bound);
    if (static_cast<double>(least) < bound) least = std::nextafter(least, -moe::kRemoved);
    for (float& v : row.logits()) v = v < least ? moe::kRemoved : v;
  }

 private:
  double p_ = 0.0;
};

}  // namespace

MOE_PLUGIN("sampler_min_p", "0.1.0", "Apache-2.0", "Patchbay", MinP)
