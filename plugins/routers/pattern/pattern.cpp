// Routers for benchmarks: loads that are known beforehand, whatever the model says. No gate, no weights; every choice
// weighs 1 / k. The answers mean nothing; what an expert layer costs under such a load does.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "moe/sdk/op_router.hpp"

namespace {

constexpr const char* kPatterns[] = {"uniform", "zipf", "round_robin", "balanced", "fixed", nullptr};
enum Kind { kUniform, kZipf, kRoundRobin, kBalanced, kFixed };

// A step of splitmix64 (Steele et al. 2014): every input bit changes every output bit.
uint64_t mixed(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

class Pattern : public moe::HostRouter {
 public:
  static constexpr const char* kName = "pattern";
  static constexpr const char* kDoc =
      "Loads that are known beforehand, for benchmarks: uniform, Zipf, round robin, balanced, a fixed table.";
  // Not batch-invariant: `balanced` counts a step's tokens.
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::route_option::kK,
      moe::choice_option("pattern", "uniform", kPatterns,
                         "uniform: random, every expert as likely; zipf: random, expert e with a probability "
                         "proportional to (e + 1)^-exponent; round_robin: by the token's position in its sequence; "
                         "balanced: by the token's number in the step, so that loads differ by one at most; fixed: "
                         "by position from `experts`.",
                         MOE_OPTION_PER_LAYER),
      moe::float_option("exponent", "1.0", 0, 16, "Of zipf; 0 is uniform.", MOE_OPTION_PER_LAYER),
      moe::int_option("seed", "0", 0, 1 << 30, "Of uniform and zipf.", MOE_OPTION_PER_LAYER),
      moe::int_list_option("experts", "",
                           "Of fixed: rows of k experts, one after the other; position p takes row p modulo their "
                           "number.",
                           MOE_OPTION_PER_LAYER)};

  moe::Status setup(const moe::RouterConfig& config, const moe::Options& options) override {
    n_ = config.n_experts + config.n_zero_experts;
    k_ = options.integer("k");
    if (n_ < 1) return moe::unfit("n_experts", "at least 1 expert in the layer", n_);
    if (k_ > n_) return moe::unfit("k", "at most " + std::to_string(n_) + " (the layer's experts)", k_);
    kind_ = static_cast<Kind>(options.choice("pattern", kPatterns));
    seed_ = mixed(mixed(static_cast<uint64_t>(options.integer("seed"))) + static_cast<uint64_t>(config.layer));
    taken_.resize(static_cast<size_t>(n_));
    const double exponent = kind_ == kZipf ? options.number("exponent") : 0;
    for (int64_t e = 0; e < n_; ++e) share_.push_back(std::pow(static_cast<double>(e + 1), -exponent));
    return kind_ == kFixed ? read_table(options.integers("experts")) : moe::Status();
  }
  [[nodiscard]] int64_t k_max() const override { return k_; }
  [[nodiscard]] int64_t n_logits(const moe::RouterConfig&) const override { return 0; }
  [[nodiscard]] float weights_sum() const override { return 1; }

  void score(const moe::RouterToken& token, moe::Choice& choice) override {
    std::fill(taken_.begin(), taken_.end(), false);
    switch (kind_) {
      case kUniform:
      case kZipf:
        draw(token);
        break;
      case kRoundRobin:
        take_from(token.position);
        break;
      case kBalanced:  // from the first token's position on: steps of one token take turns too
        take_from(static_cast<const int32_t*>(token.args->positions.data)[0] + token.index);
        break;
      case kFixed: {
        const auto row = static_cast<int64_t>(token.position) % (std::ssize(table_) / k_) * k_;
        for (int64_t j = 0; j < k_; ++j) take(table_[static_cast<size_t>(row + j)]);
        break;
      }
    }
    for (size_t e = 0; e < taken_.size(); ++e) {  // all weigh the same: lower ids first
      if (taken_[e]) choice.add(static_cast<int32_t>(e), 1 / static_cast<float>(k_));
    }
  }

 private:
  moe::Status read_table(std::span<const int64_t> table) {
    if (table.empty() || std::ssize(table) % k_ != 0)
      return moe::unfit("experts", "rows of " + std::to_string(k_) + " (k) experts",
                        std::to_string(table.size()) + " numbers");
    table_.assign(table.begin(), table.end());
    for (size_t i = 0; i < table_.size(); ++i) {
      const auto row = table_.begin() + static_cast<int64_t>(i) / k_ * k_;
      const auto at = table_.begin() + static_cast<int64_t>(i);
      if (*at < 0 || *at >= n_) return moe::unfit("experts", "ids from 0 to " + std::to_string(n_ - 1), *at);
      if (std::find(row, at, *at) != at)
        return moe::unfit("experts", "different experts in a row", std::to_string(*at) + " twice");
    }
    return {};
  }

  void take(int64_t expert) { taken_[static_cast<size_t>(expert)] = true; }
  // The next k experts after those of all earlier numbers.
  void take_from(int64_t number) {
    for (int64_t j = 0; j < k_; ++j) take((number * k_ + j) % n_);
  }
  // k draws without replacement, each in proportion to the shares of what is left: a function of seed, layer, position
  // and token id alone.
  void draw(const moe::RouterToken& token) {
    uint64_t random = seed_ ^ mixed((static_cast<uint64_t>(static_cast<uint32_t>(token.position)) << 32) |
                                    static_cast<uint32_t>(token.token_id));
    double left = 0;
    for (const double share : share_) left += share;
    for (int64_t j = 0; j < k_; ++j) {
      random = mixed(random);
      const int64_t expert = at(static_cast<double>(random >> 11) * 0x1p-53 * left);
      take(expert);
      left -= share_[static_cast<size_t>(expert)];
    }
  }
  // The expert not yet taken within whose share `x` falls, their shares laid end to end; rounding ends at the last one.
  [[nodiscard]] int64_t at(double x) const {
    int64_t last = 0;
    for (int64_t e = 0; e < n_; ++e) {
      if (taken_[static_cast<size_t>(e)]) continue;
      last = e;
      x -= share_[static_cast<size_t>(e)];
      if (x < 0) break;
    }
    return last;
  }

  int64_t n_ = 0;
  int64_t k_ = 0;
  Kind kind_ = kUniform;
  uint64_t seed_ = 0;
  std::vector<int64_t> table_;  // rows of k
  std::vector<double> share_;   // of each expert in a draw
  std::vector<bool> taken_;     // by one token
};

}  // namespace

MOE_PLUGIN("router_pattern", "0.1.0", "Apache-2.0", "Patchbay", Pattern)
