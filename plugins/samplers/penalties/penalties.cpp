// Penalties for what has been said. Repetition (CTRL, Keskar et al. 2019, arXiv 1909.05858, as Hugging Face applies
// it): tokens of prompt and output, a positive logit divided and a negative one multiplied. Presence and frequency
// (OpenAI): tokens of the output, logit -= presence + frequency * count. Repetition comes first.
#include <cmath>
#include <vector>

#include "moe/sdk/sampler.hpp"

namespace {

class Penalties : public moe::Sampler {
 public:
  static constexpr const char* kName = "penalties";
  static constexpr const char* kDoc = "Repetition, presence and frequency penalties on tokens that have occurred.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::float_option("repetition_penalty", "1.0", 0.01, 100.0,
                        "Divides positive and multiplies negative logits of tokens of prompt and output; 1: off.",
                        MOE_OPTION_REQUEST),
      moe::float_option("presence_penalty", "0.0", -2.0, 2.0, "Subtracted once from each token of the output; 0: off.",
                        MOE_OPTION_REQUEST),
      moe::float_option("frequency_penalty", "0.0", -2.0, 2.0,
                        "Subtracted for each time that a token is in the output; 0: off.", MOE_OPTION_REQUEST)};

  moe::Status configure(const moe::Options& options, int64_t n_vocab) override {
    const double repetition = options.number("repetition_penalty");
    if (!(repetition > 0.0)) return moe::invalid("repetition_penalty: expected a number above 0, got another");
    repetition_ = static_cast<float>(repetition);
    presence_ = static_cast<float>(options.number("presence_penalty"));
    frequency_ = static_cast<float>(options.number("frequency_penalty"));
    if (!(std::isfinite(presence_) && std::isfinite(frequency_))) {
      return moe::invalid("presence_penalty, frequency_penalty: expected finite numbers, got others");
    }
    if (is_identity()) return {};
    seen_.resize(static_cast<size_t>(n_vocab));
    distinct_.reserve(static_cast<size_t>(n_vocab));
    return {};
  }
  [[nodiscard]] bool is_identity() const override {
    return repetition_ == 1.0F && presence_ == 0.0F && frequency_ == 0.0F;
  }

  // Costs what is new in the history and its distinct tokens, not the vocabulary. NaN stays NaN.
  void apply(moe::SampleRow& row) override {
    if (is_identity()) return;
    read(row.history(), row.n_prompt());
    const std::span<float> logits = row.logits();
    for (const int32_t id : distinct_) {
      float& logit = logits[static_cast<size_t>(id)];
      const int32_t count = seen_[static_cast<size_t>(id)].n_output;
      logit = logit < 0.0F ? logit * repetition_ : logit / repetition_;
      if (count > 0) logit -= presence_ + frequency_ * static_cast<float>(count);
    }
  }

 private:
  struct Seen {
    bool anywhere = false;
    int32_t n_output = 0;
  };

  // The history only grows, but for a caller that starts over.
  void read(std::span<const int32_t> history, int64_t n_prompt) {
    if (history.size() < n_read_) forget();
    for (; n_read_ < history.size(); ++n_read_) {
      const auto id = static_cast<size_t>(history[n_read_]);
      if (history[n_read_] < 0 || id >= seen_.size())
        continue;  // ids that no logit has: parts of a prompt that are not text
      if (!seen_[id].anywhere) distinct_.push_back(history[n_read_]);
      seen_[id].anywhere = true;
      if (static_cast<int64_t>(n_read_) >= n_prompt) ++seen_[id].n_output;
    }
  }
  void forget() {
    for (const int32_t id : distinct_) seen_[static_cast<size_t>(id)] = {};
    distinct_.clear();
    n_read_ = 0;
  }

  float repetition_ = 1.0F;
  float presence_ = 0.0F;
  float frequency_ = 0.0F;
  size_t n_read_ = 0;
  std::vector<Seen> seen_;         // [n_vocab]
  std::vector<int32_t> distinct_;  // in order of occurrence
};

}  // namespace

MOE_PLUGIN("sampler_penalties", "0.1.0", "Apache-2.0", "Patchbay", Penalties)
