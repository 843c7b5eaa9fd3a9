#include "core/service/text_generator.hpp"

#include <algorithm>
#include <utility>

namespace patchbay {

moe::Status TextGenerator::start(TextRequest request) {
  MOE_TRY(engine_.has_room());  // a prompt may be long: a server with too much to do does not read it in vain
  MOE_ASSIGN(stops_, StopMatcher::create(std::move(request.stop)));
  Request to_engine;
  MOE_ASSIGN(to_engine.prompt, model_.prompt_ids(request.prompt, engine_.context()));
  to_engine.max_tokens = request.max_tokens;
  to_engine.seed = request.seed;
  to_engine.sampling = std::move(request.sampling);
  if (!request.ignore_end) to_engine.stop_ids.assign(model_.stop_ids().begin(), model_.stop_ids().end());
  to_engine.top_logprobs = request.top_logprobs;
  to_engine.trace_routing = request.trace_routing;
  to_engine.priority = request.priority;
  to_engine.deadline = request.deadline;
  // Special tokens stay in the text: models mark with them where thinking ends, and whoever reads needs to see it. The
  // ids that end a text never come.
  if (model_.tokenizer() != nullptr) decoder_.emplace(*model_.tokenizer(), false);
  if (request.split_reasoning && decoder_) splitter_.emplace(opens_reasoning(to_engine.prompt));

  MOE_ASSIGN(const uint64_t id, engine_.submit(std::move(to_engine), this));
  request_ = id;
  known_ = true;
  if (cancelled_) engine_.cancel(id);
  return {};
}

void TextGenerator::cancel() {
  cancelled_ = true;
  if (known_) engine_.cancel(request_);
}

// From the ids, so that it does not matter how the prompt was given.
bool TextGenerator::opens_reasoning(std::span<const int32_t> prompt) const {
  constexpr size_t kMost = 16;  // tokens that the marker and the blanks behind it may be
  std::string end;
  for (const int32_t id : prompt.subspan(prompt.size() - std::min(prompt.size(), kMost))) {
    if (id >= 0 && static_cast<size_t>(id) < model_.tokenizer()->vocab_size())
      end += model_.tokenizer()->token_bytes(id);
  }
  return ReasoningSplitter::opens(end);
}

void TextGenerator::on_token(uint64_t request, const TokenOut& token) {
  if (stops_->matched() != nullptr) return;  // generated before the engine heard of it
  if (splitter_ && splitter_->is_thinking()) ++n_reasoning_;
  std::string text = decoder_ ? stops_->push(decoder_->push(token.id)) : std::string();
  const bool stopped = stops_->matched() != nullptr;
  publish({&token, 1}, std::move(text), stopped);
  if (stopped) engine_.cancel(request);
}

void TextGenerator::publish(std::span<const TokenOut> tokens, std::string text, bool last) {
  const int64_t index = n_tokens_;
  n_tokens_ += static_cast<int64_t>(tokens.size());
  ReasoningSplitter::Parts parts{{}, std::move(text)};
  if (splitter_) {
    parts = splitter_->push(parts.text);
    if (last) {
      const ReasoningSplitter::Parts rest = splitter_->flush();
      parts.reasoning += rest.reasoning;
      parts.text += rest.text;
    }
  }
  if (tokens.empty() && parts.text.empty() && parts.reasoning.empty()) return;
  listener_.on_text({index, tokens, parts.text, parts.reasoning});
}

void TextGenerator::finish_text() {
  if (!decoder_ || stops_->matched() != nullptr) return;
  std::string rest = stops_->push(decoder_->flush());
  rest += stops_->flush();
  publish({}, std::move(rest), true);
}

void TextGenerator::on_end(uint64_t, FinishReason reason, const moe::Error* error, const RequestUsage& usage) {
  finish_text();
  TextEnd end;
  end.reason = reason;
  end.usage = usage;
  end.usage.n_generated = n_tokens_;
  end.n_reasoning = n_reasoning_;
  if (const std::string* stop = stops_->matched()) {  // our own cancel, or whatever else came after it
    end.reason = FinishReason::kStop;
    end.stop = *stop;
  } else if (reason == FinishReason::kFailed) {
    end.error = error != nullptr ? *error : moe::internal("request: failed without a reason");
  }
  listener_.on_end(end);  // last: it may destroy this object
}

namespace {

struct Collector final : TextListener {
  explicit Collector(const std::function<void(const TextEvent&)>& on_text) : forward(on_text) {}
  void on_text(const TextEvent& event) override {
    generation.tokens.insert(generation.tokens.end(), event.tokens.begin(), event.tokens.end());
    generation.text += event.text;
    if (forward) forward(event);
  }
  void on_end(const TextEnd& end) override {
    generation.end = end;
    ended = true;
  }
  const std::function<void(const TextEvent&)>& forward;
  Generation generation;
  bool ended = false;
};

}  // namespace

moe::Result<Generation> generate(Engine& engine, const TextModel& model, TextRequest request,
                                 const std::function<void(const TextEvent&)>& on_text,
                                 const std::function<bool()>& interrupted) {
  Collector collector(on_text);
  TextGenerator generator(engine, model, collector);
  MOE_TRY(generator.start(std::move(request)));
  bool cancelled = false;
  while (!collector.ended) {
    if (!cancelled && interrupted && interrupted()) {
      cancelled = true;
      generator.cancel();
    }
    if (!engine.step() && !collector.ended)
      return moe::internal("engine: expected the request to end, got nothing left to do");
  }
  return std::move(collector.generation);
}

}  // namespace patchbay
