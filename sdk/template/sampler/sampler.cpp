// The smallest link of the sampler chain: it takes out a token that has already come `times` times in a row.
#include <algorithm>

#include "moe/sdk/sampler.hpp"

class MySampler : public moe::Sampler {
 public:
  static constexpr const char* kName = "my_sampler";
  static constexpr const char* kDoc = "Breaks loops of one token.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::int_option("times", "8", 1, 1000000, "How often a token may come in a row.", MOE_OPTION_REQUEST, "tokens")};

  moe::Status configure(const moe::Options& options, int64_t) override {
    times_ = options.integer("times");
    return {};
  }

  void apply(moe::SampleRow& row) override {
    const auto output = row.history().subspan(static_cast<size_t>(row.n_prompt()));
    if (static_cast<int64_t>(output.size()) < times_) return;
    const auto last = output.last(static_cast<size_t>(times_));
    const int32_t token = last.front();
    const bool loops = std::all_of(last.begin(), last.end(), [token](int32_t t) { return t == token; });
    if (loops) row.logits()[static_cast<size_t>(token)] = moe::kRemoved;
  }

 private:
  int64_t times_ = 0;
};

MOE_PLUGIN("my_sampler", "0.1.0", "MIT", "you", MySampler)
