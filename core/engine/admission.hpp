// Who is let in. A request that would wait too long is told so at once: its place is better given to one that is
// answered in time.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

// What a step takes: a + b * tokens, least squares over the last steps, of which the latest count most.
class StepCost {
 public:
  void add(double seconds, int64_t n_tokens);
  // Of a step with so many tokens; 0 before the first add().
  [[nodiscard]] double seconds(int64_t n_tokens) const;

 private:
  double weight_ = 0;
  double n_ = 0;  // means, from here on
  double s_ = 0;
  double nn_ = 0;
  double ns_ = 0;
};

struct AdmissionLimits {
  int64_t batch_size = 0;    // requests in a step at most
  int64_t batch_tokens = 0;  // tokens in a step at most
  int64_t queue = 0;         // requests that may wait
  double queue_s = 0;        // how long a request may be expected to wait for its first step; 0: any time
};

// Foretells how long a request would wait, from what steps and requests have taken. One thread at a time; time is an
// argument.
class Admission {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // A request that runs.
  struct Seat {
    int64_t n_pending = 0;  // tokens that are not in the cache yet
    int64_t n_generated = 0;
    int64_t n_left = 0;  // tokens that it may still generate
  };
  // What the last step left.
  struct State {
    std::vector<Seat> running;
    int64_t n_waiting = 0;
    int64_t n_waiting_tokens = 0;  // of their prompts
    bool short_of_pages = false;   // no more can run than do, whatever the batch has room for
    Time at;
  };

  explicit Admission(const AdmissionLimits& limits) : limits_(limits) {}

  void set_queue(int64_t queue, double queue_s) {
    limits_.queue = queue;
    limits_.queue_s = queue_s;
  }
  void step_took(double seconds, int64_t n_tokens) { cost_.add(seconds, n_tokens); }
  // A request had its first step after `waited_s`, when wait_s() had said `foretold_s` as it came in.
  void began(double foretold_s, double waited_s);
  // A request that has run is over.
  void run_ended(int64_t n_generated);
  void observe(State state) { state_ = std::move(state); }
  // One was let in after the last observe().
  void entered(int64_t n_prompt) {
    ++state_.n_waiting;
    state_.n_waiting_tokens += n_prompt;
  }

  // Whether a request may come in now. MOE_RESOURCE_EXHAUSTED: the queue is full, or its first step would be later than
  // allowed, or its first token after its deadline.
  [[nodiscard]] moe::Status check(int64_t n_prompt, std::optional<Time> deadline, Time now) const;
  // Seconds from `now` to the first step of a request that comes in: hardly one in fifty waits longer.
  [[nodiscard]] double wait_s(Time now) const;

 private:
  [[nodiscard]] int64_t n_seats() const;
  [[nodiscard]] int64_t n_running() const { return static_cast<int64_t>(state_.running.size()); }
  // Requests that get a seat before the next one does, beyond those for which there is one now; negative: seats are
  // left.
  [[nodiscard]] int64_t n_before() const { return state_.n_waiting - (n_seats() - n_running()); }
  [[nodiscard]] double plain_wait_s(Time now) const;
  [[nodiscard]] double seat_s(int64_t n_first) const;
  [[nodiscard]] double prompt_s(int64_t n_tokens) const;

  AdmissionLimits limits_;
  StepCost cost_;
  double n_generated_ = 0;  // by a request: the last ones count most
  double caution_ = 2;      // times the plain estimate, learnt from how long requests did wait
  State state_;
};

}  // namespace patchbay
