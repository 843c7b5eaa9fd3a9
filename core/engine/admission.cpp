#include "core/engine/admission.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace patchbay {
namespace {

// A step in 200 is a fresh prompt where requests run that long: its cost must not be forgotten before the next one.
constexpr double kStepWeight = 1.0 / 200;
constexpr double kRunWeight = 1.0 / 10;

constexpr double kMostCaution = 16;

double in_seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace

void StepCost::add(double seconds, int64_t n_tokens) {
  weight_ = (1 - kStepWeight) * weight_ + kStepWeight;
  const double share = kStepWeight / weight_;  // of this step in the means: 1 for the first
  const auto n = static_cast<double>(n_tokens);
  n_ += share * (n - n_);
  s_ += share * (seconds - s_);
  nn_ += share * (n * n - nn_);
  ns_ += share * (n * seconds - ns_);
}

double StepCost::seconds(int64_t n_tokens) const {
  const double variance = nn_ - n_ * n_;
  if (n_ <= 0) return 0;
  // Neither part is negative: a step takes no less for more tokens, and no more than in proportion to them.
  const double slope = variance > 1e-9 * nn_ ? std::clamp((ns_ - n_ * s_) / variance, 0.0, s_ / n_) : 0.0;
  return s_ + slope * (static_cast<double>(n_tokens) - n_);
}

void Admission::run_ended(int64_t n_generated) {
  const auto n = static_cast<double>(n_generated);
  n_generated_ = n_generated_ == 0 ? n : (1 - kRunWeight) * n_generated_ + kRunWeight * n;
}

// Requests differ in length by more than their mean tells, so the estimate is scaled until kOnTime of them begin in
// time: each that is late raises the scale by as much as lowers it, in kOnTime : 1 - kOnTime parts, one that is not.
void Admission::began(double foretold_s, double waited_s) {
  constexpr double kOnTime = 0.98;
  constexpr double kStep = 0.1;
  if (foretold_s <= 0) return;
  caution_ *= waited_s > foretold_s ? 1 + kStep * kOnTime : 1 - kStep * (1 - kOnTime);
  caution_ = std::clamp(caution_, 1.0, kMostCaution);
}

int64_t Admission::n_seats() const {
  return state_.short_of_pages ? std::max<int64_t>(1, n_running()) : std::max(limits_.batch_size, n_running());
}

// The seats become free in the order in which those on them are expected to end, and then in turns.
double Admission::seat_s(int64_t n_first) const {
  // Before any has ended nobody knows how long they run: then as long as they may.
  const auto left_of = [&](const Seat& seat) {
    const auto most = static_cast<double>(seat.n_left);
    if (n_generated_ == 0) return most;
    const double left = n_generated_ - static_cast<double>(seat.n_generated);
    return std::min(left > 0 ? left : n_generated_, most);  // past what others took: as long again
  };
  std::vector<double> steps(static_cast<size_t>(n_seats()), n_generated_);  // those that sit down next
  for (size_t i = 0; i < state_.running.size(); ++i) steps[i] = left_of(state_.running[i]);
  std::sort(steps.begin(), steps.end());
  const int64_t turns = n_first / n_seats();
  const double n_steps = static_cast<double>(turns) * n_generated_ + steps[static_cast<size_t>(n_first % n_seats())];
  return n_steps * cost_.seconds(n_seats());
}

// Prompts go in chunks beside the tokens of those that generate.
double Admission::prompt_s(int64_t n_tokens) const {
  if (n_tokens <= 0) return 0;
  const int64_t n_others = std::min(n_running(), limits_.batch_tokens - 1);
  const int64_t chunk = limits_.batch_tokens - n_others;
  const int64_t rest = n_tokens % chunk;
  return static_cast<double>(n_tokens / chunk) * cost_.seconds(limits_.batch_tokens) +
         (rest > 0 ? cost_.seconds(rest + n_others) : 0);
}

double Admission::wait_s(Time now) const { return caution_ * plain_wait_s(now); }

double Admission::plain_wait_s(Time now) const {
  if (state_.running.empty() && state_.n_waiting == 0) return 0;
  int64_t n_ahead = state_.n_waiting_tokens;
  for (const Seat& seat : state_.running) n_ahead += seat.n_pending > 1 ? seat.n_pending : 0;
  const double step = cost_.seconds(n_running());
  const double seat = n_before() < 0 ? step : seat_s(n_before());  // with a seat left, the step under way must end
  const double under_way = std::clamp(in_seconds(now - state_.at), 0.0, step);
  return std::max(0.0, std::max(seat, prompt_s(n_ahead)) - under_way);
}

moe::Status Admission::check(int64_t n_prompt, std::optional<Time> deadline, Time now) const {
  if (n_before() >= limits_.queue) {
    return moe::exhausted(
        fmt::format("queue: expected fewer than {} waiting requests, got {}", limits_.queue, state_.n_waiting));
  }
  const double wait = limits_.queue_s > 0 || deadline ? wait_s(now) : 0;
  if (limits_.queue_s > 0 && wait > limits_.queue_s) {
    return moe::exhausted(
        fmt::format("queue: expected to begin within {:.0f} ms, got {:.0f} ms with {} waiting requests",
                    limits_.queue_s * 1e3, wait * 1e3, state_.n_waiting));
  }
  if (!deadline || wait <= 0) return {};
  const double first_token = wait + prompt_s(n_prompt);
  const double left = in_seconds(*deadline - now);
  if (first_token <= left) return {};
  return moe::exhausted(fmt::format("deadline: expected at least {:.0f} ms, for which {} requests wait, got {:.0f} ms",
                                    first_token * 1e3, state_.n_waiting, left * 1e3));
}

}  // namespace patchbay
