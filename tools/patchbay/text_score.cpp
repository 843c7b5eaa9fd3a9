#include "tools/patchbay/text_score.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tools/patchbay/sequence_pass.hpp"

namespace patchbay {
namespace {

// In place: logits to natural logarithms of probabilities.
void log_softmax(std::span<const float> logits, std::vector<double>& out) {
  out.assign(logits.begin(), logits.end());
  const double most = *std::max_element(out.begin(), out.end());
  double sum = 0;
  for (const double x : out) sum += std::exp(x - most);
  const double norm = most + std::log(sum);
  for (double& x : out) x -= norm;
}

double divergence(std::span<const float> from, std::span<const double> of) {
  double kl = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    const auto log_p = static_cast<double>(from[i]);
    if (std::exp(log_p) > 0) kl += std::exp(log_p) * (log_p - of[i]);
  }
  return kl;
}

// Tokens of a piece up to the end of what the measure says comes before the predicted part.
moe::Result<size_t> n_given(const Tokenizer& tokenizer, std::string_view piece, const TextMeasure& measure) {
  if (measure.after.empty()) return size_t{0};
  const size_t at = piece.find(measure.after);
  if (at == std::string_view::npos)
    return moe::invalid(fmt::format("{}: expected \"{}\" in every text (measure.text.after), got \"{}\"",
                                    measure.file.string(), measure.after, piece));
  MOE_ASSIGN(const auto ids, tokenizer.encode(piece.substr(0, at + measure.after.size()), true));
  return ids.size();
}

class Scorer {
 public:
  Scorer(Session& session, const Predictions* baseline, Predictions* keep)
      : model_(*session.model),
        n_vocab_(static_cast<size_t>(session.model->spec().n_vocab)),
        baseline_(baseline),
        keep_(keep) {}

  moe::Status add(const TokenText& text) {
    return run_sequence(model_, text.ids, [&](int64_t first, std::span<const float> rows) -> moe::Status {
      for (size_t row = 0; row * n_vocab_ < rows.size(); ++row) {
        const size_t next = static_cast<size_t>(first) + row + 1;
        if (next >= text.first && next < text.ids.size())
          add_token(rows.subspan(row * n_vocab_, n_vocab_), text.ids[next]);
      }
      for (int64_t l = 0; l < model_.n_moe_layers(); ++l) {
        MOE_ASSIGN(const auto weights, model_.plan_weights(l));
        const Model::PlanView view = model_.plan(l);
        score_.routing.add(static_cast<size_t>(l), view.ids, weights, view.k, view.n_experts);
      }
      return {};
    });
  }
  moe::Result<TextScore> finish() {
    if (score_.n_predicted == 0) return moe::invalid("measure.text: expected tokens to predict, got none");
    const auto n = static_cast<double>(score_.n_predicted);
    score_.perplexity = std::exp(nll_ / n);
    score_.kl /= n;
    return std::move(score_);
  }

 private:
  void add_token(std::span<const float> logits, int32_t next) {
    log_softmax(logits, log_probs_);
    nll_ -= log_probs_[static_cast<size_t>(next)];
    if (baseline_ != nullptr) {
      const auto from =
          std::span(baseline_->log_probs).subspan(static_cast<size_t>(score_.n_predicted) * n_vocab_, n_vocab_);
      score_.kl += divergence(from, log_probs_);
    }
    if (keep_ != nullptr) keep_->log_probs.insert(keep_->log_probs.end(), log_probs_.begin(), log_probs_.end());
    ++score_.n_predicted;
  }

  Model& model_;
  size_t n_vocab_;
  const Predictions* baseline_;
  Predictions* keep_;
  std::vector<double> log_probs_;
  double nll_ = 0;
  TextScore score_;
};

}  // namespace

moe::Result<TokenTexts> tokenize_texts(const std::string& text, const TextMeasure& measure, const Session& session) {
  const Tokenizer* tokenizer = session.text->tokenizer();
  if (tokenizer == nullptr)
    return moe::Error{MOE_FAILED_PRECONDITION, "measure.text: expected a model with a tokenizer, got one without"};
  const auto window = static_cast<size_t>(std::min(measure.window, session.model->context()));
  auto left = static_cast<size_t>(measure.tokens);
  TokenTexts out;
  for (size_t begin = 0; begin < text.size() && left > 1;) {
    const size_t end = measure.separator.empty() ? std::string::npos : text.find(measure.separator, begin);
    const std::string_view piece = std::string_view(text).substr(begin, end - begin);
    MOE_ASSIGN(const auto ids, tokenizer->encode(piece, true));
    MOE_ASSIGN(const size_t given, n_given(*tokenizer, piece, measure));
    for (size_t at = 0; at + 1 < ids.size() && left > 1; at += window) {
      const size_t n = std::min({window, ids.size() - at, left});
      const auto from = ids.begin() + static_cast<std::ptrdiff_t>(at);
      if (n > 1)
        out.push_back(
            {{from, from + static_cast<std::ptrdiff_t>(n)}, std::max<size_t>(1, given > at ? given - at : 0)});
      left -= n;
    }
    if (end == std::string::npos) break;
    begin = end + measure.separator.size();
  }
  if (out.empty())
    return moe::invalid(fmt::format("{}: expected a text of at least two tokens, got none", measure.file.string()));
  return out;
}

moe::Result<TextScore> score_texts(Session& session, const TokenTexts& texts, const Predictions* baseline,
                                   Predictions* keep) {
  const int64_t n_vocab = session.model->spec().n_vocab;
  if (baseline != nullptr && (baseline->n_vocab != n_vocab || baseline->texts != texts)) {
    return moe::invalid(
        "measure.text.baseline: expected a model that reads the text as the same tokens, got another vocabulary");
  }
  if (keep != nullptr) *keep = {texts, n_vocab, {}};
  Scorer scorer(session, baseline, keep);
  for (const auto& text : texts) MOE_TRY(scorer.add(text));
  return scorer.finish();
}

}  // namespace patchbay
