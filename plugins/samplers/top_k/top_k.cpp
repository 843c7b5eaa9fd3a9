// The k most likely tokens (Fan, Lewis & Dauphin 2018).
#include <algorithm>
#include <functional>

#include "moe/sdk/logits.hpp"
#include "moe/sdk/sampler.hpp"

namespace {

class TopK : public moe::Sampler {
 public:
  static constexpr const char* kName = "top_k";
  static constexpr const char* kDoc = "Keeps the `value` largest logits, ties to the lower id; 0 keeps all.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::int_option("value", "0", 0, INT32_MAX, "How many tokens to keep; 0: all.", MOE_OPTION_REQUEST, "tokens")};

  moe::Status configure(const moe::Options& options, int64_t n_vocab) override {
    const int64_t k = options.integer("value");
    if (k < 0) return moe::invalid("value: expected 0 or more tokens, got " + std::to_string(k));
    if (k == 0 || k >= n_vocab) return {};
    k_ = static_cast<size_t>(k);
    best_ = moe::Scratch<float>(std::min(static_cast<size_t>(n_vocab), std::max(2 * k_, k_ + 1024)));
    return {};
  }
  [[nodiscard]] bool is_identity() const override { return k_ == 0; }

  void apply(moe::SampleRow& row) override {
    if (k_ == 0 || !moe::scan_logits(row.logits()).usable) return;
    // Collects what may be among the k best. Whenever the buffer is full, the k best in it stay and the least of them
    // is what a further value must exceed; so each k values are partitioned once, and the whole is linear even where
    // the row ascends.
    float* best = best_.data();
    size_t n = 0;
    float least = moe::kRemoved;
    moe::for_above(row.logits(), least, [&](float v) {
      if (n == best_.size()) {
        least = partition(n);
        n = k_;
        if (!(v > least)) return least;
      }
      best[n++] = v;
      return least;
    });
    if (n < k_) return;  // fewer are left than may stay
    least = partition(n);
    const auto n_above = std::count_if(best, best + n, [&](float v) { return v > least; });
    moe::keep_from(row.logits(), least, static_cast<int64_t>(k_) - n_above);
  }

 private:
  // Brings the k best of the first n to the front and returns the k-th.
  float partition(size_t n) {
    float* best = best_.data();
    std::nth_element(best, best + k_ - 1, best + n, std::greater<>());
    return best[k_ - 1];
  }

  size_t k_ = 0;
  moe::Scratch<float> best_;
};

}  // namespace

MOE_PLUGIN("sampler_top_k", "0.1.0", "Apache-2.0", "Patchbay", TopK)
