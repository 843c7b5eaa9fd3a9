// The engine: many requests, one model. A step is schedule -> forward -> sample -> publish; requests join and leave at any step.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/engine/duration_histogram.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// A sampling parameter of one request: the option `value` of the chain's link `name`, or the option `name` of any link. A name that no
// link has is an error.
struct SamplingParameter {
  std::string name;
  std::variant<bool, int64_t, double, std::string> value;
};

struct Request {
  std::vector<int32_t> prompt;  // at least one id
  int64_t max_tokens = 0;       // 0: as many as the context holds
  uint64_t seed = 0;            // same seed, same text, whatever runs beside it
  std::vector<SamplingParameter> sampling;
  std::vector<int32_t> stop_ids;  // ids that end the text; they are not part of it
  int32_t top_logprobs = -1;      // -1: no log-probabilities; n: those of the token and of the n likeliest
  bool trace_routing = false;     // report the experts of every token
  int32_t priority = 0;           // higher goes first
  std::optional<std::chrono::steady_clock::time_point> deadline;  // ends as MOE_DEADLINE_EXCEEDED
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;  // natural logarithm, from the model's own logits, before the chain
};

struct TokenOut {
  int32_t id = 0;
  float logprob = 0;              // with top_logprobs >= 0
  std::vector<TokenLogprob> top;  // likeliest first
  // With trace_routing: for each MoE layer in order its k experts (-1: none) of the position that gave this token.
  std::vector<int32_t> experts;
};

enum class FinishReason { kStop, kLength, kCancelled, kFailed };

struct RequestUsage {
  int64_t n_prompt = 0;
  int64_t n_generated = 0;
  int64_t n_reused = 0;     // of the prompt, tokens that were found in the cache when it began
  int64_t n_preempted = 0;  // times that its pages were taken and computed again
  double queue_s = 0;       // from submit to its first step
  double prefill_s = 0;     // from there to its first token
  double decode_s = 0;      // from its first token to its last
};

// Where a request's tokens go. Called on the engine's thread, in order, never after on_end; must not block.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  virtual void on_token(uint64_t request, const TokenOut& token) = 0;
  // Exactly once. `error` is given with kFailed only.
  virtual void on_end(uint64_t request, FinishReason reason, const moe::Error* error, const RequestUsage& usage) = 0;
};

// What the engine is doing, for metrics and pages. Counters only grow.
struct EngineStats {
  int64_t n_running = 0;
  int64_t n_waiting = 0;
  int64_t cache_pages_used = 0;
  int64_t cache_pages_idle = 0;  // of those that are not used: kept for requests that begin like one before
  int64_t cache_pages = 0;
  int64_t page_tokens = 0;
  uint64_t steps = 0;
  uint64_t tokens_prefilled = 0;
  uint64_t tokens_reused = 0;  // found in the cache instead of prefilled
  uint64_t tokens_generated = 0;
  uint64_t requests_done = 0;
  uint64_t requests_cancelled = 0;
  uint64_t requests_failed = 0;
  uint64_t preemptions = 0;
  double step_seconds = 0;  // in all steps together
  std::chrono::steady_clock::time_point last_progress;  // end of the last step or of a layer within, or the last look at an empty queue
  DurationHistogram step_times;
  // [n_moe_layers][n_experts]: tokens that each expert got.
  std::vector<std::vector<uint64_t>> expert_tokens;
  std::vector<uint64_t> unassigned;  // [n_moe_layers]: places of a plan that went to no expert
};

class ThreadPool;  // core/plugin/thread_pool.hpp

struct EngineOptions {
  int64_t batch_size = 32;     // requests in a step at most
  int64_t batch_tokens = 512;  // tokens in a step at most: the size of a prefill chunk
  int64_t queue = 256;         // requests that may wait; beyond: MOE_RESOURCE_EXHAUSTED at once
  double queue_s = 0;          // how long a request may be expected to wait for its first step, likewise; 0: any time
  int64_t cache_tokens = 0;    // room of the paged cache; 0: enough for one full context, and for batch_size requests up to 8192 in all
  int64_t page_tokens = 16;
  bool prefix_cache = true;    // requests that begin alike share pages
  ThreadPool* pool = nullptr;        // whose threads sample a step's rows side by side, which outlives the engine; null: the step's own
  std::string cache_dtype = "auto";  // auto (f32 where weights are f32-exact) | f32 | f16 | bf16
};

class Model;         // core/engine/model.hpp: weights and forward pass
class SamplerChain;  // core/engine/sampling.hpp

class Engine {
 public:
  virtual ~Engine() = default;

  static moe::Result<std::unique_ptr<Engine>> create(std::shared_ptr<Model> model, std::shared_ptr<const SamplerChain> chain,
                                                     const EngineOptions& options);

  // Checks the request and queues it: its id. The sink must live until on_end. Errors: MOE_INVALID_ARGUMENT (what is wrong with it),
  // MOE_RESOURCE_EXHAUSTED (queue full, its first step too far away, or the deadline would pass before its first token), MOE_UNAVAILABLE
  // (draining). [thread-safe]
  virtual moe::Result<uint64_t> submit(Request request, RequestSink* sink) = 0;

  // Whether a short request would be queued now, before the work of making one: MOE_RESOURCE_EXHAUSTED or MOE_UNAVAILABLE as from submit().
  // [thread-safe]
  [[nodiscard]] virtual moe::Status has_room() const = 0;

  // Ends it as kCancelled at the next step. An id that has ended is ignored. [thread-safe]
  virtual void cancel(uint64_t request) = 0;

  // One step on the calling thread; false if there was nothing to do. Not while start()ed.
  virtual bool step() = 0;

  // Steps on a thread of the engine's until stop().
  virtual void start() = 0;
  // No new requests; those that wait or run go on. [thread-safe]
  virtual void drain() = 0;
  // Whether nothing waits or runs. [thread-safe]
  [[nodiscard]] virtual bool idle() const = 0;
  // Ends the thread after its step; what is left ends as kCancelled.
  virtual void stop() = 0;

  // For requests that come from now on: how many may wait and how long (see EngineOptions), and other values of the same links. MOE_FAILED_PRECONDITION: the chain
  // has other links. [thread-safe]
  virtual void set_queue(int64_t queue, double queue_s) = 0;
  virtual moe::Status set_chain(std::shared_ptr<const SamplerChain> chain) = 0;

  [[nodiscard]] virtual EngineStats stats() const = 0;  // [thread-safe]
  [[nodiscard]] virtual int64_t context() const = 0;    // tokens that a request may hold, prompt and output
  [[nodiscard]] virtual int64_t n_vocab() const = 0;
};

}  // namespace patchbay
