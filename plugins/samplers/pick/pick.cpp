// A draw from softmax(logits): the inverse of the cumulative distribution, in double, at the row's own random number.
#include "moe/sdk/logits.hpp"
#include "moe/sdk/sampler.hpp"

namespace {

class Pick : public moe::Sampler {
 public:
  static constexpr const char* kName = "pick";
  static constexpr const char* kDoc = "Draws the token from the softmax of the logits; same seed, same token.";
  static constexpr uint32_t kCapabilities =
      MOE_CAP_PICKS | MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;

  moe::Status configure(const moe::Options&, int64_t n_vocab) override {
    masses_ = moe::Scratch<double>(moe::n_logit_blocks(static_cast<size_t>(n_vocab)));
    return {};
  }

  // The exponentials are not kept, only their sum a block: they are taken again in the one block that the draw falls
  // into.
  void apply(moe::SampleRow& row) override {
    const std::span<const float> logits = row.logits();
    const moe::LogitScan scan = moe::scan_logits(logits);
    if (!scan.usable) return row.fail();
    double total = 0;
    for (size_t b = 0; b < masses_.size(); ++b) {
      masses_.data()[b] = moe::block_mass(moe::logit_block(logits, b), scan.max);
      total += masses_.data()[b];
    }
    double rest = row.uniform() * total;
    size_t block = 0;
    for (size_t b = 0; b < masses_.size(); ++b) {
      const double mass = masses_.data()[b];
      if (mass == 0.0) continue;
      block = b;  // the last with any mass, should rounding carry the draw past the end
      if (rest < mass) break;
      rest -= mass;
    }
    row.pick(within(logits, scan.max, block, rest));
  }

 private:
  static int64_t within(std::span<const float> logits, double max, size_t block, double rest) {
    double e[moe::kLogitBlock];
    const auto values = moe::logit_block(logits, block);
    moe::exp_block(values, max, e);
    size_t chosen = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      if (e[i] == 0.0) continue;  // a token that was taken out is never drawn, whatever rounding does
      chosen = i;
      if (rest < e[i]) break;
      rest -= e[i];
    }
    return static_cast<int64_t>(block * moe::kLogitBlock + chosen);
  }

  moe::Scratch<double> masses_;
};

}  // namespace

MOE_PLUGIN("sampler_pick", "0.1.0", "Apache-2.0", "Patchbay", Pick)
