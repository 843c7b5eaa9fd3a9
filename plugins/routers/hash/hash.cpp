// Routing by the token's id (Hash Layers, arXiv 2106.04426; DeepSeek-V4's first layers): a table says which k experts a
// token goes to, whatever its state; the gate's scores only weigh them. The table is the weight "table" [n_vocab, k] of
// a model that was trained with one, or made here: k different experts for each id, by a hash of id and layer, which
// any checkpoint can be run with.
#include <cmath>
#include <vector>

#include "moe/sdk/host_op_router.hpp"

namespace {

namespace opt = moe::route_option;

// A step of splitmix64 (Steele et al. 2014): every input bit changes every output bit.
uint64_t mixed(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

class Hash : public moe::HostOpRouter {
 public:
  static constexpr const char* kName = "hash";
  static constexpr const char* kDoc =
      "The token's id names its k experts, by a trained table or a hash; the gate weighs them.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      opt::kK,
      moe::bool_option("table", "false", "Read the table from the checkpoint, weight \"table\" [n_vocab, k].",
                       opt::kFlags),
      moe::int_option("seed", "0", 0, 1 << 30, "Of the hash that makes the table otherwise.", opt::kFlags),
      moe::choice_option("score", "sigmoid", opt::kPlainScores, "How logits become the scores that weigh.",
                         opt::kFlags),
      opt::kRenorm,
      opt::kRenormEps,
      opt::kScale,
      opt::kLogitCap,
  };

  moe::Status read_options(const moe::RouterConfig& config, const moe::Options& options,
                           moe_route_op_args& args) override {
    args.score = MOE_SCORE_SOFTMAX + options.choice("score", opt::kPlainScores);
    from_checkpoint_ = options.flag("table");
    n_vocab_ = config.n_vocab;
    n_experts_ = args.n_experts;
    k_ = args.top_k;
    if (n_vocab_ < 1) return moe::unfit("n_vocab", "at least 1", n_vocab_);
    if (!from_checkpoint_)
      make_table(mixed(mixed(static_cast<uint64_t>(options.integer("seed"))) + static_cast<uint64_t>(config.layer)));
    return {};
  }
  [[nodiscard]] std::vector<moe_weight_spec> own_weights() const override {
    if (!from_checkpoint_) return {};
    return {moe::weight_spec("table", 1, n_vocab_, k_, MOE_PLACE_HOST)};
  }
  moe::Status bind_own(std::span<const moe_bound_weight> bound) override {
    if (!from_checkpoint_) return {};
    table_.resize(static_cast<size_t>(n_vocab_ * k_));
    for (size_t i = 0; i < table_.size(); ++i) {
      const float id = bound[0].plain[i];
      if (!(id >= 0 && id < static_cast<float>(n_experts_)) || id != std::floor(id))
        return wrong_entry(i, "an expert's id below " + std::to_string(n_experts_), std::to_string(id));
      table_[i] = static_cast<int32_t>(id);
      const auto row = table_.begin() + static_cast<int64_t>(i) / k_ * k_;
      if (std::find(row, table_.begin() + static_cast<int64_t>(i), table_[i]) !=
          table_.begin() + static_cast<int64_t>(i))
        return wrong_entry(i, "different experts", std::to_string(table_[i]) + " twice");
    }
    return {};
  }

  void prepare_row(const moe::RouterToken& token, std::span<float> logits, std::span<float> bias) override {
    std::copy(token.logits.begin(), token.logits.end(), logits.begin());
    std::fill(bias.begin(), bias.end(), -std::numeric_limits<float>::infinity());
    const int64_t id = std::clamp<int64_t>(token.token_id, 0, n_vocab_ - 1);
    for (int64_t j = 0; j < k_; ++j) bias[static_cast<size_t>(table_[static_cast<size_t>(id * k_ + j)])] = 0;
  }

 private:
  [[nodiscard]] moe::Error wrong_entry(size_t at, const std::string& expected, const std::string& got) const {
    return moe::unfit("table: token " + std::to_string(static_cast<int64_t>(at) / k_), expected, got);
  }
  // The first k of a shuffle of all experts, for each id one of its own.
  void make_table(uint64_t seed) {
    std::vector<int32_t> order(static_cast<size_t>(n_experts_));
    table_.clear();
    for (int64_t id = 0; id < n_vocab_; ++id) {
      for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
      uint64_t random = seed ^ mixed(static_cast<uint64_t>(id));
      for (size_t j = 0; j < static_cast<size_t>(k_); ++j) {
        random = mixed(random);
        std::swap(order[j], order[j + random % (order.size() - j)]);
        table_.push_back(order[j]);
      }
    }
  }

  bool from_checkpoint_ = false;
  int64_t n_vocab_ = 0;
  int64_t n_experts_ = 0;
  int64_t k_ = 0;
  std::vector<int32_t> table_;  // [n_vocab, k]
};

}  // namespace

MOE_PLUGIN("router_hash", "0.1.0", "Apache-2.0", "Patchbay", Hash)
