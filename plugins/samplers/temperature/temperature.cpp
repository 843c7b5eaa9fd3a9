// Logits divided by the temperature (Ackley, Hinton & Sejnowski 1985); at 0 the limit, which is the largest logit.
#include <cmath>
#include <limits>

#include "moe/sdk/logits.hpp"
#include "moe/sdk/sampler.hpp"

namespace {

class Temperature : public moe::Sampler {
 public:
  static constexpr const char* kName = "temperature";
  static constexpr const char* kDoc = "Divides the logits by `value`; 0 picks the largest, ties to the lower id.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::float_option("value", "1.0", 0.0, 100.0, "Below 1 sharper, above 1 flatter, 1 as the model says, 0 greedy.",
                        MOE_OPTION_REQUEST)};

  moe::Status configure(const moe::Options& options, int64_t) override {
    const double value = options.number("value");
    if (!(value >= 0.0 && value <= 100.0)) return moe::invalid("value: expected a number from 0 to 100, got another");
    value_ = static_cast<float>(value);
    return {};
  }
  [[nodiscard]] bool is_identity() const override { return value_ == 1.0F; }
  [[nodiscard]] bool picks_largest() const override { return value_ == 0.0F; }

  void apply(moe::SampleRow& row) override {
    const std::span<float> logits = row.logits();
    const moe::LogitScan scan = moe::scan_logits(logits);
    if (value_ == 0.0F) {
      if (!scan.usable) return row.fail();
      return row.pick(moe::first_index_of(logits, scan.max));
    }
    if (!scan.usable) return;
    // Softmax does not see a shift, so where the largest quotient would be infinite, it becomes 0.
    const float shift = std::isfinite(scan.max / value_) ? 0.0F : scan.max;
    for (float& v : logits) v = (v - shift) / value_;
  }

 private:
  float value_ = 1.0F;
};

}  // namespace

MOE_PLUGIN("sampler_temperature", "0.1.0", "Apache-2.0", "Patchbay", Temperature)
