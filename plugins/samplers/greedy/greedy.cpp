// The most likely token, always.
#include "moe/sdk/logits.hpp"
#include "moe/sdk/sampler.hpp"

namespace {

class Greedy : public moe::Sampler {
 public:
  static constexpr const char* kName = "greedy";
  static constexpr const char* kDoc = "Picks the largest logit, ties to the lower id.";
  static constexpr uint32_t kCapabilities =
      MOE_CAP_PICKS | MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;

  moe::Status configure(const moe::Options&, int64_t) override { return {}; }
  [[nodiscard]] bool picks_largest() const override { return true; }
  void apply(moe::SampleRow& row) override {
    const moe::LogitScan scan = moe::scan_logits(row.logits());
    if (!scan.usable) return row.fail();
    row.pick(moe::first_index_of(row.logits(), scan.max));
  }
};

}  // namespace

MOE_PLUGIN("sampler_greedy", "0.1.0", "Apache-2.0", "Patchbay", Greedy)
