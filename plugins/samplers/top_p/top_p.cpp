// Nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751): the fewest most likely tokens whose probabilities reach p.
#include <algorithm>
#include <cmath>
#include <functional>

#include "moe/sdk/logits.hpp"
#include "moe/sdk/sampler.hpp"

namespace {

class TopP : public moe::Sampler {
 public:
  static constexpr const char* kName = "top_p";
  static constexpr const char* kDoc = "Keeps the fewest best tokens whose probabilities sum to `value`; 1 keeps all.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {moe::float_option(
      "value", "1.0", 0.0, 1.0, "The probability to keep, at least one token; 1: all.", MOE_OPTION_REQUEST)};

  moe::Status configure(const moe::Options& options, int64_t n_vocab) override {
    p_ = options.number("value");
    if (!(p_ >= 0.0 && p_ <= 1.0)) return moe::invalid("value: expected a probability from 0 to 1, got another number");
    if (p_ < 1.0) candidates_ = moe::Scratch<float>(static_cast<size_t>(n_vocab));
    return {};
  }
  [[nodiscard]] bool is_identity() const override { return p_ == 1.0; }

  void apply(moe::SampleRow& row) override {
    const std::span<float> logits = row.logits();
    const moe::LogitScan scan = moe::scan_logits(logits);
    if (p_ == 1.0 || !scan.usable) return;
    const double wanted = p_ * moe::softmax_mass(logits, scan.max);
    const size_t n = collect(logits, scan.max);
    const size_t last = crossing(n, scan.max, wanted);
    float* c = candidates_.data();
    const float least = c[last];
    const auto n_above = std::count_if(c, c + last, [&](float v) { return v > least; });
    moe::keep_from(logits, least, static_cast<int64_t>(last + 1) - n_above);
  }

 private:
  // The logits that can be needed. The n_vocab below max - log(n_vocab / (1 - p)) hold less than 1 - p of the largest
  // one's probability, hence of all, and so everything above reaches p without them.
  size_t collect(std::span<const float> logits, float max) {
    const double bound = max - std::log(static_cast<double>(logits.size()) / (1.0 - p_));
    float threshold = static_cast<float>(bound);
    while (static_cast<double>(threshold) >= bound) threshold = std::nextafter(threshold, moe::kRemoved);
    size_t n = 0;
    float* c = candidates_.data();
    moe::for_above(logits, threshold, [&](float v) {
      c[n++] = v;
      return threshold;
    });
    return n;
  }

  // Where, among the candidates from the largest down, the sum reaches `wanted`; they are sorted only as far as the
  // search needs: it halves the range that holds the place, so the work is linear.
  size_t crossing(size_t n, double max, double wanted) {
    float* c = candidates_.data();
    size_t low = 0;
    size_t high = n;
    double before = 0;  // the sum of all that is above the range
    while (high - low > 1) {
      const size_t middle = low + (high - low) / 2;
      std::nth_element(c + low, c + middle, c + high, std::greater<>());
      const double upper = moe::softmax_mass({c + low, middle - low}, max);
      if (before + upper >= wanted) {
        high = middle;
      } else {
        before += upper;
        low = middle;
      }
    }
    return low;
  }

  double p_ = 1.0;
  moe::Scratch<float> candidates_;
};

}  // namespace

MOE_PLUGIN("sampler_top_p", "0.1.0", "Apache-2.0", "Patchbay", TopP)
