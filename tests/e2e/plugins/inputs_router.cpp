// A router that looks at everything that it is given, and throws if something is not as promised: logits, hidden state,
// the state before attention, token ids, positions, layer, the decision of the layer below with what its router left,
// and its own context.
#include <cmath>
#include <stdexcept>

#include "moe/sdk/router.hpp"

namespace {

void expect(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

class Inputs : public moe::HostRouter {
 public:
  static constexpr const char* kName = "inputs";
  static constexpr const char* kDoc = "The best expert, after a look at every input.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT;

  moe::Status setup(const moe::RouterConfig& config, const moe::Options&) override {
    weights_ = {moe::weight_spec("gate", 1, config.n_experts, config.d_model, MOE_PLACE_HOST)};
    return {};
  }
  [[nodiscard]] int64_t k_max() const override { return 1; }
  [[nodiscard]] uint32_t inputs() const override {
    return MOE_INPUT_HIDDEN | MOE_INPUT_BEFORE_ATTENTION | MOE_INPUT_PREVIOUS_PLAN;
  }
  [[nodiscard]] int64_t context_floats() const override { return 4; }
  [[nodiscard]] int64_t aux_floats() const override { return 3; }
  [[nodiscard]] std::span<const moe_weight_spec> weights() const override { return weights_; }
  moe::Status bind(std::span<const moe_bound_weight> bound) override {
    gate_ = bound[0].plain;
    return {};
  }

  void score(const moe::RouterToken& token, moe::Choice& choice) override {
    look_at_states(token);
    look_at_context(token);
    look_at_previous(token);
    const auto aux = token.aux();
    aux[0] = static_cast<float>(token.token_id);
    aux[1] = static_cast<float>(token.position);
    aux[2] = static_cast<float>(config_.layer);
    moe::for_top_k(token.logits, 1, [&](int32_t id, float) { choice.add(id, 1); });
  }

 private:
  void look_at_states(const moe::RouterToken& token) const {
    const auto d = static_cast<size_t>(config_.d_model);
    expect(token.hidden.size() == d && token.before_attention.size() == d, "states: expected [d_model]");
    expect(token.logits.size() == static_cast<size_t>(config_.n_experts), "logits: expected one an expert");
    expect(token.token_id >= 0 && token.token_id < config_.n_vocab, "token_id: expected one of the vocabulary");
    expect(config_.layer >= 0 && config_.layer < config_.n_layers, "layer: expected one of the model's");
    double same = 0, size = 0;
    for (size_t c = 0; c < d; ++c) {
      same += std::fabs(token.hidden[c] - token.before_attention[c]);
      size += std::fabs(token.before_attention[c]);
    }
    expect(size > 0 && same > 0, "before_attention: expected a state, and not the hidden one");
    double dot = 0, terms = 0;
    for (size_t c = 0; c < d; ++c) {
      dot += static_cast<double>(gate_[c]) * token.hidden[c];
      terms += std::fabs(static_cast<double>(gate_[c]) * token.hidden[c]);
    }
    expect(std::fabs(dot - token.logits[0]) <= 1e-5 * terms + 1e-6, "logits: expected gate . hidden");
  }

  // Each position's row holds its token, itself, and a digest of all before it: a row of another sequence, or of a past
  // that is gone, would not fit.
  static float next_digest(float digest, int32_t token) {
    return std::fmod(digest * 31 + static_cast<float>(token) + 7, 65521.0F);
  }
  void look_at_context(const moe::RouterToken& token) const {
    float digest = 0;
    for (int32_t p = 0; p < token.position; ++p) {
      const auto row = token.context_row(p);
      digest = next_digest(digest, static_cast<int32_t>(row[0]));
      expect(row[1] == static_cast<float>(p), "context: expected the row of this position");
      expect(row[2] == static_cast<float>(config_.layer), "context: expected the row of this layer");
      expect(row[3] == digest, "context: expected the past of this sequence");
    }
    const auto own = token.context_row(token.position);
    own[0] = static_cast<float>(token.token_id);
    own[1] = static_cast<float>(token.position);
    own[2] = static_cast<float>(config_.layer);
    own[3] = next_digest(digest, token.token_id);
  }

  void look_at_previous(const moe::RouterToken& token) const {
    const auto previous = token.previous();
    if (config_.layer == 0) expect(!previous.has(), "previous: expected none in the first layer");
    if (!previous.has()) return;
    expect(previous.ids.size() == 1 && previous.weights[0] == 1, "previous: expected the plan of the layer below");
    expect(previous.aux.size() == 3, "previous.aux: expected what its router left");
    expect(
        previous.aux[0] == static_cast<float>(token.token_id) && previous.aux[1] == static_cast<float>(token.position),
        "previous.aux: expected this token's");
    expect(previous.aux[2] == static_cast<float>(config_.layer - 1), "previous.aux: expected that of the layer below");
  }

  std::vector<moe_weight_spec> weights_;
  const float* gate_ = nullptr;
};

}  // namespace

MOE_PLUGIN("inputs", "0.1.0", "MIT", "Patchbay", Inputs)
