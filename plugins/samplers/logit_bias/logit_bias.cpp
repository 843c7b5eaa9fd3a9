// A bias for single tokens (OpenAI's logit_bias), written "id:bias,id:bias".
#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/sampler.hpp"

namespace {

struct Bias {
  int64_t id;
  float value;
};

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

template <typename T>
bool read_all(std::string_view text, T* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

moe::Result<Bias> parse(std::string_view item, int64_t n_vocab) {
  const auto wrong = [&](const std::string& expected) {
    return moe::invalid("value: expected " + expected + ", got \"" + std::string(item.substr(0, 40)) + "\"");
  };
  const size_t colon = item.find(':');
  if (colon == std::string_view::npos) return wrong("id:bias");
  Bias bias{};
  if (!read_all(trimmed(item.substr(0, colon)), &bias.id) || bias.id < 0 || bias.id >= n_vocab) {
    return wrong("a token id in [0, " + std::to_string(n_vocab) + ") before ':'");
  }
  double value = 0;
  if (!read_all(trimmed(item.substr(colon + 1)), &value) || !(std::fabs(value) <= 1e6 || value == moe::kRemoved)) {
    return wrong("a bias from -1e6 to 1e6, or -inf, after ':'");
  }
  bias.value = static_cast<float>(value);
  return bias;
}

class LogitBias : public moe::Sampler {
 public:
  static constexpr const char* kName = "logit_bias";
  static constexpr const char* kDoc = "Adds a bias to the logits of single tokens.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {moe::string_option(
      "value", "", "\"id:bias,id:bias\", each id once; -inf takes a token out; empty: off.", MOE_OPTION_REQUEST)};

  moe::Status configure(const moe::Options& options, int64_t n_vocab) override {
    std::string_view rest = trimmed(options.text("value"));
    while (!rest.empty()) {
      const size_t comma = std::min(rest.find(','), rest.size());
      MOE_ASSIGN(const Bias bias, parse(trimmed(rest.substr(0, comma)), n_vocab));
      biases_.push_back(bias);
      if (comma + 1 == rest.size()) return moe::invalid("value: expected id:bias after the last comma, got the end");
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    std::sort(biases_.begin(), biases_.end(), [](const Bias& a, const Bias& b) { return a.id < b.id; });
    const auto twice =
        std::adjacent_find(biases_.begin(), biases_.end(), [](const Bias& a, const Bias& b) { return a.id == b.id; });
    if (twice != biases_.end()) {
      return moe::invalid("value: expected each id once, got " + std::to_string(twice->id) + " twice");
    }
    return {};
  }
  [[nodiscard]] bool is_identity() const override { return biases_.empty(); }

  void apply(moe::SampleRow& row) override {
    for (const Bias& bias : biases_) row.logits()[static_cast<size_t>(bias.id)] += bias.value;
  }

 private:
  std::vector<Bias> biases_;
};

}  // namespace

MOE_PLUGIN("sampler_logit_bias", "0.1.0", "Apache-2.0", "Patchbay", LogitBias)
