// Who runs in a step, with which tokens, on which pages.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "core/engine/cache.hpp"
#include "core/engine/engine.hpp"
#include "core/engine/sampling.hpp"
#include "core/engine/step.hpp"

namespace patchbay {

using Clock = std::chrono::steady_clock;

// A request on its way through the engine: one object, one owner.
struct Sequence {
  uint64_t id = 0;
  Request request;
  RequestSink* sink = nullptr;
  ChainState sampling;
  std::vector<int32_t> tokens;  // prompt and what was generated
  int64_t n_prompt = 0;
  int64_t n_cached = 0;  // tokens whose rows are in the cache
  std::vector<int32_t> pages;
  int64_t n_known = 0;  // the first so many pages were offered to the prefix cache, or come from it
  int64_t max_tokens = 0;
  // Of this step.
  int64_t n_scheduled = 0;
  int64_t first_token = 0;  // index in the batch
  RequestUsage usage;
  double foretold_wait_s = 0;  // for its first step, as it came in
  Clock::time_point submitted, started, first_out, last_out;
  bool has_started = false;
  bool cancelled = false;

  [[nodiscard]] int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }
  [[nodiscard]] int64_t n_generated() const { return n_tokens() - n_prompt; }
  // Tokens that must still go through the model before the next one can be sampled.
  [[nodiscard]] int64_t n_pending() const { return n_tokens() - n_cached; }
};

class Scheduler {
 public:
  Scheduler(const StepLimits& limits, const EngineOptions& options) : limits_(limits), options_(options), pages_(limits.n_pages, limits.page_tokens) {}

  void add(std::unique_ptr<Sequence> sequence);

  // Chooses this step's tokens: first one token of every sequence that decodes, oldest first; then chunks of prompts, while there is
  // room in tokens, sequences and pages. When a decoding sequence needs a page and none is free, the sequence that ranks last gives up its
  // pages and goes back to the front of the queue; it is computed again later, with the same result, since no row's bits depend on the batch.
  void schedule(Batch& batch);

  // The sequences of this step, in the order of the batch.
  std::vector<Sequence*>& scheduled() { return scheduled_; }

  // The step has run: this sequence's tokens of it are in the cache, and pages that are full now can be shared.
  void advance(Sequence& sequence);

  // Takes a sequence out, wherever it is, and frees its pages. `distrust`: what they hold is shared with nobody who comes later.
  std::unique_ptr<Sequence> remove(Sequence* sequence, bool distrust);
  // All sequences for which f says so.
  template <typename F>
  std::vector<Sequence*> select(F&& f) {
    std::vector<Sequence*> out;
    for (auto& s : running_) {
      if (f(*s)) out.push_back(s.get());
    }
    for (auto& s : waiting_) {
      if (f(*s)) out.push_back(s.get());
    }
    return out;
  }

  [[nodiscard]] const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  [[nodiscard]] const std::deque<std::unique_ptr<Sequence>>& waiting() const { return waiting_; }
  [[nodiscard]] int64_t n_running() const { return static_cast<int64_t>(running_.size()); }
  [[nodiscard]] int64_t n_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  [[nodiscard]] int64_t pages_used() const { return pages_.n_pages() - pages_.n_free(); }
  [[nodiscard]] int64_t pages_idle() const { return pages_.n_idle(); }  // kept for sequences that begin like one before
  // Whether somebody waits for pages although the batch has room.
  [[nodiscard]] bool is_short_of_pages() const { return short_of_pages_; }
  [[nodiscard]] uint64_t n_preemptions() const { return n_preemptions_; }
  [[nodiscard]] uint64_t n_reused() const { return n_reused_; }  // tokens that were found in the cache
  [[nodiscard]] bool empty() const { return running_.empty() && waiting_.empty(); }

 private:
  void take_prefix(Sequence& sequence);
  void let_go(Sequence& sequence);
  bool reserve(Sequence& sequence, int64_t n_tokens);
  bool preempt_for(const Sequence& needy);
  void place(Batch& batch, Sequence& sequence, int64_t n_tokens);
  void admit(int64_t budget);

  StepLimits limits_;
  EngineOptions options_;
  PageAllocator pages_;
  std::deque<std::unique_ptr<Sequence>> waiting_;  // by priority, then in order of arrival
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
  std::vector<Sequence*> scheduled_;
  bool short_of_pages_ = false;
  uint64_t n_preemptions_ = 0;
  uint64_t n_reused_ = 0;
};

}  // namespace patchbay
