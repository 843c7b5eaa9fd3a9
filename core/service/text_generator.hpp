// TextGenerator: one request from text to text, over the engine's token ids.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/engine/engine.hpp"
#include "core/service/reasoning.hpp"
#include "core/service/stop_matcher.hpp"
#include "core/service/text_model.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

struct TextRequest {
  Prompt prompt;
  std::vector<std::string> stop;  // the text ends before the first of these; see StopMatcher
  bool ignore_end = false;        // go on through the model's end-of-text ids
  bool split_reasoning = false;   // thinking apart from the answer; see ReasoningSplitter
  // As in Request.
  int64_t max_tokens = 0;
  uint64_t seed = 0;
  std::vector<SamplingParameter> sampling;
  int32_t top_logprobs = -1;
  bool trace_routing = false;
  int32_t priority = 0;
  std::optional<std::chrono::steady_clock::time_point> deadline;
};

// New tokens, new text or both; borrowed for the call.
struct TextEvent {
  int64_t index = 0;                 // of the first token, from 0
  std::span<const TokenOut> tokens;  // may be empty: text that was held back until the end
  std::string_view text;             // never half a character; may be empty
  std::string_view reasoning;        // with split_reasoning; the same
};

struct TextEnd {
  FinishReason reason = FinishReason::kFailed;
  std::string stop;                 // the stop string that ended the text
  std::optional<moe::Error> error;  // with kFailed
  RequestUsage usage;               // n_generated counts the tokens that came in events
  int64_t n_reasoning = 0;          // of these, tokens of thinking; with split_reasoning
};

// Where events go: on the engine's thread, in order.
class TextListener {
 public:
  virtual ~TextListener() = default;
  virtual void on_text(const TextEvent& event) = 0;
  // Exactly once, last. May destroy the generator.
  virtual void on_end(const TextEnd& end) = 0;
};

// Tokens become text that is never half a character and ends before the first stop string; the joined texts are the
// whole text. One object a request: it must live until on_end.
class TextGenerator final : private RequestSink {
 public:
  // All three must outlive it. `model` gives tokenizer and end-of-text ids.
  TextGenerator(Engine& engine, const TextModel& model, TextListener& listener)
      : engine_(engine), model_(model), listener_(listener) {}
  TextGenerator(const TextGenerator&) = delete;
  TextGenerator& operator=(const TextGenerator&) = delete;

  // Checks the request and hands it to the engine; events may come before this returns. Called once. After an error, no
  // event comes. Errors: those of TextModel::prompt_ids, StopMatcher::create and Engine::submit.
  moe::Status start(TextRequest request);
  // The request ends as kCancelled soon, unless it is at its end already. Also from within on_text. [thread-safe after
  // start began]
  void cancel();

 private:
  void on_token(uint64_t request, const TokenOut& token) override;
  void on_end(uint64_t request, FinishReason reason, const moe::Error* error, const RequestUsage& usage) override;
  void finish_text();
  [[nodiscard]] bool opens_reasoning(std::span<const int32_t> prompt) const;
  void publish(std::span<const TokenOut> tokens, std::string text, bool last);

  Engine& engine_;
  const TextModel& model_;
  TextListener& listener_;
  std::optional<StreamDecoder> decoder_;  // absent: ids only
  std::optional<StopMatcher> stops_;
  std::optional<ReasoningSplitter> splitter_;  // absent: all is text
  int64_t n_tokens_ = 0;
  int64_t n_reasoning_ = 0;
  // The engine's id, 0 while unknown, and whether to cancel: whoever of cancel() and start() comes second acts.
  std::atomic<bool> known_ = false;
  std::atomic<uint64_t> request_ = 0;
  std::atomic<bool> cancelled_ = false;
};

// The whole of one request, on the calling thread.
struct Generation {
  std::vector<TokenOut> tokens;
  std::string text;
  TextEnd end;
};

// Submits the request and steps the engine, which must not be start()ed, until it has ended. `on_text` gets every
// event; `interrupted` is asked before every step, true cancels. A request that fails on its way is in Generation::end.
moe::Result<Generation> generate(Engine& engine, const TextModel& model, TextRequest request,
                                 const std::function<void(const TextEvent&)>& on_text = {},
                                 const std::function<bool()>& interrupted = {});

}  // namespace patchbay
