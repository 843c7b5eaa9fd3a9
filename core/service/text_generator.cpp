#include "core/service/text_generator.hpp"

#include <utility>

namespace patchbay {

moe::Status TextGenerator::start(TextRequest request) {
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
  // Special tokens stay in the text: models mark with them where thinking ends, and whoever reads needs to see it. The ids that end a text never
  // come.
  if (model_.tokenizer() != nullptr) decoder_.emplace(*model_.tokenizer(), false);

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

void TextGenerator::on_token(uint64_t request, const TokenOut& token) {
  if (stops_->matched() != nullptr) return;  // generated before the engine heard of it
  const std::string text = decoder_ ? stops_->push(decoder_->push(token.id)) : std::string();
  const int64_t index = n_tokens_++;
  const bool stopped = stops_->matched() != nullptr;
  listener_.on_text({index, {&token, 1}, text});
  if (stopped) engine_.cancel(request);
}

void TextGenerator::finish_text() {
  if (!decoder_ || stops_->matched() != nullptr) return;
  std::string rest = stops_->push(decoder_->flush());
  rest += stops_->flush();
  if (!rest.empty()) listener_.on_text({n_tokens_, {}, rest});
}

void TextGenerator::on_end(uint64_t, FinishReason reason, const moe::Error* error, const RequestUsage& usage) {
  finish_text();
  TextEnd end;
  end.reason = reason;
  end.usage = usage;
  end.usage.n_generated = n_tokens_;
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
