// How likely a model finds a text, how far it is from another model's predictions, and how it routes the text's tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/experiment/plan.hpp"
#include "core/experiment/routing.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {

// Token ids that are read together. Those from `first` on are predicted, what is before them is given.
struct TokenText {
  std::vector<int32_t> ids;
  size_t first = 1;
  bool operator==(const TokenText&) const = default;
};
// None longer than the measure's window.
using TokenTexts = std::vector<TokenText>;
moe::Result<TokenTexts> tokenize_texts(const std::string& text, const TextMeasure& measure, const Session& session);

// Natural logarithms of a model's probabilities where a token is predicted, [n][n_vocab].
struct Predictions {
  TokenTexts texts;
  int64_t n_vocab = 0;
  std::vector<float> log_probs;
};

struct TextScore {
  int64_t n_predicted = 0;
  double perplexity = 0;
  double kl = 0;  // nats a token, of the baseline's predictions from these; 0 without a baseline
  RoutingStatistics routing;
};

// The session's engine must not have been used. `baseline` and `keep` may be null. Errors: the baseline is of another
// vocabulary or read the text as other tokens.
moe::Result<TextScore> score_texts(Session& session, const TokenTexts& texts, const Predictions* baseline,
                                   Predictions* keep);

}  // namespace patchbay
