// A sampler that makes NaN of the logits, for requests that ask for it, from a token of the output on.
#include <limits>

#include "moe/sdk/sampler.hpp"

namespace {

class Poison : public moe::Sampler {
 public:
  static constexpr const char* kName = "poison";
  static constexpr const char* kDoc = "NaN from the token `value` of the output on; negative: never.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT;
  static constexpr moe_option kOptions[] = {
      moe::int_option("value", "-1", -1, 1 << 20, "The first token that is spoilt.", MOE_OPTION_REQUEST, "tokens")};

  moe::Status configure(const moe::Options& options, int64_t) override {
    first_ = options.integer("value");
    return {};
  }
  [[nodiscard]] bool is_identity() const override { return first_ < 0; }
  void apply(moe::SampleRow& row) override {
    if (static_cast<int64_t>(row.history().size()) - row.n_prompt() < first_) return;
    for (float& logit : row.logits()) logit = std::numeric_limits<float>::quiet_NaN();
  }

 private:
  int64_t first_ = -1;
};

}  // namespace

MOE_PLUGIN("poison", "0.1.0", "Apache-2.0", "The Patchbay authors", Poison)
