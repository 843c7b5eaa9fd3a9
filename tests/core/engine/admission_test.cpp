// Admission over the real scheduler, with a model that only takes time: a simulated clock's.
#include "core/engine/admission.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "core/engine/scheduler.hpp"

namespace patchbay {
namespace {

using Seconds = std::chrono::duration<double>;

struct Workload {
  int64_t n_prompt = 16;
  int64_t n_generated = 32;  // from half to one and a half times as many
  double queue_s = 0;
  int64_t queue = 1 << 20;
};

struct Outcome {
  std::vector<double> first_token_s;  // of those let in
  int64_t n_refused = 0;
  double per_second = 0;  // done

  [[nodiscard]] double p99() const {
    std::vector<double> sorted = first_token_s;
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0 : sorted[sorted.size() * 99 / 100];
  }
  [[nodiscard]] double refused() const {
    const auto n = static_cast<double>(n_refused);
    return n / (n + static_cast<double>(first_token_s.size()));
  }
};

// An engine whose steps take 5 ms and 0.2 ms a token.
class Simulation {
 public:
  explicit Simulation(const Workload& workload)
      : workload_(workload),
        scheduler_({options().batch_tokens, options().batch_size, 1024, 1 << 16, 16}, options()),
        admission_({options().batch_size, options().batch_tokens, workload.queue, workload.queue_s}) {}

  // Requests come at random, `rate` a second, for so long; what the first half brings is not counted.
  Outcome run(double rate, double seconds) {
    run_on(rate, seconds / 2);
    outcome_ = {};
    n_done_ = 0;
    run_on(rate, seconds / 2);
    outcome_.per_second = static_cast<double>(n_done_) / (seconds / 2);
    return std::move(outcome_);
  }

 private:
  void run_on(double rate, double seconds) {
    std::exponential_distribution<double> gap(rate);
    const Clock::time_point end = now_ + duration(seconds);
    Clock::time_point next = now_ + duration(gap(random_));
    while (now_ < end) {
      for (; next <= now_; next += duration(gap(random_))) arrive(next);
      for (auto& s : std::exchange(inbox_, {})) scheduler_.add(std::move(s));
      if (scheduler_.empty()) {
        now_ = next;
      } else {
        step(next, [&] { return duration(gap(random_)); });
      }
    }
  }
  static EngineOptions options() {
    EngineOptions o;
    o.batch_size = 16;
    o.batch_tokens = 128;
    o.prefix_cache = false;
    return o;
  }
  static Clock::duration duration(double s) { return std::chrono::duration_cast<Clock::duration>(Seconds(s)); }

  void arrive(Clock::time_point at) {
    if (!admission_.check(workload_.n_prompt, std::nullopt, at).ok()) {
      ++outcome_.n_refused;
      return;
    }
    const double foretold = admission_.wait_s(at);
    admission_.entered(workload_.n_prompt);
    auto s = std::make_unique<Sequence>();
    s->id = ++last_id_;
    s->tokens.assign(static_cast<size_t>(workload_.n_prompt), 1);
    s->n_prompt = workload_.n_prompt;
    s->max_tokens =
        workload_.n_generated / 2 + static_cast<int64_t>(random_() % static_cast<uint64_t>(workload_.n_generated + 1));
    s->submitted = at;
    s->foretold_wait_s = foretold;
    inbox_.push_back(std::move(s));
  }

  template <typename Gap>
  void step(Clock::time_point& next, const Gap& gap) {
    scheduler_.schedule(batch_);
    for (Sequence* s : scheduler_.scheduled()) {
      if (!std::exchange(s->has_started, true))
        admission_.began(s->foretold_wait_s, Seconds(now_ - s->submitted).count());
    }
    const double took = 0.005 + 0.0002 * static_cast<double>(batch_.n_tokens());
    const Clock::time_point end = now_ + duration(took);
    for (; next <= end; next += gap()) arrive(next);  // while it runs
    now_ = end;
    for (Sequence* s : scheduler_.scheduled()) {
      scheduler_.advance(*s);
      if (s->n_pending() > 0) continue;
      if (s->n_generated() == 0) outcome_.first_token_s.push_back(Seconds(now_ - s->submitted).count());
      s->tokens.push_back(1);
      if (s->n_generated() < s->max_tokens) continue;
      admission_.run_ended(s->n_generated());
      scheduler_.remove(s, false);
      ++n_done_;
    }
    admission_.step_took(took, batch_.n_tokens());
    Admission::State state;
    for (const auto& s : scheduler_.running()) {
      state.running.push_back({s->n_pending(), s->n_generated(), 1 << 20});
    }
    for (const auto& s : scheduler_.waiting()) state.n_waiting_tokens += s->n_tokens();
    for (const auto& s : inbox_) state.n_waiting_tokens += s->n_tokens();
    state.n_waiting = scheduler_.n_waiting() + static_cast<int64_t>(inbox_.size());
    state.at = now_;
    admission_.observe(std::move(state));
  }

  const Workload workload_;
  Scheduler scheduler_;
  Admission admission_;
  Batch batch_;
  std::vector<std::unique_ptr<Sequence>> inbox_;
  std::mt19937_64 random_{7};
  Clock::time_point now_ = Clock::time_point(std::chrono::hours(1));
  uint64_t last_id_ = 0;
  int64_t n_done_ = 0;
  Outcome outcome_;
};

double capacity(Workload workload) {
  workload.queue_s = 0;
  workload.queue = 64;
  return Simulation(workload).run(10000, 40).per_second;
}

struct Case {
  const char* name;
  Workload workload;
};

class Overload : public ::testing::TestWithParam<Case> {};

TEST_P(Overload, at_ten_times_the_load_first_tokens_come_within_twice_their_time_at_four_fifths) {
  const Workload& workload = GetParam().workload;
  const double full = capacity(workload);
  const Outcome normal = Simulation(workload).run(0.8 * full, 200);
  const Outcome over = Simulation(workload).run(10 * full, 200);
  EXPECT_LE(over.p99(), 2 * normal.p99()) << over.p99() << " s and " << normal.p99() << " s";
  EXPECT_GE(over.per_second, 0.9 * full) << "refusing too many leaves seats empty";
  EXPECT_LE(normal.refused(), 0.1);
  EXPECT_GE(over.refused(), 0.85);
}

TEST_P(Overload, without_a_bound_of_time_a_long_queue_makes_first_tokens_late) {
  Workload workload = GetParam().workload;
  const double full = capacity(workload);
  const Outcome bounded = Simulation(workload).run(10 * full, 30);
  workload.queue_s = 0;
  workload.queue = 256;
  EXPECT_GT(Simulation(workload).run(10 * full, 30).p99(), 4 * bounded.p99());
}

// Seats are what is short, then the rate at which prompts are read.
INSTANTIATE_TEST_SUITE_P(Workloads, Overload,
                         ::testing::Values(Case{"short_prompts", {16, 32, 0.1}}, Case{"long_answers", {16, 400, 0.5}},
                                           Case{"long_prompts", {600, 8, 1}}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Admission, an_idle_server_takes_a_request_whatever_the_last_ones_took) {
  Admission admission({4, 128, 8, 0.001});
  admission.step_took(100, 128);
  admission.run_ended(1000);
  const auto now = Clock::now();
  EXPECT_TRUE(admission.check(100000, std::nullopt, now).ok());
  admission.entered(100000);
  Admission::State busy;
  busy.running.push_back({100000, 0, 10});
  busy.at = now;
  admission.observe(busy);
  const moe::Status late = admission.check(1, std::nullopt, now);
  ASSERT_FALSE(late.ok()) << "a seat is left, but a long prompt comes first";
  EXPECT_EQ(late.error().code, MOE_RESOURCE_EXHAUSTED);
  EXPECT_NE(late.error().message.find("within 1 ms"), std::string::npos) << late.error().message;
}

TEST(Admission, seats_that_pages_allow_are_all_that_count) {
  Admission admission({32, 128, 8, 0});
  admission.step_took(0.01, 4);
  admission.run_ended(100);
  Admission::State state;
  state.running.assign(4, {1, 0, 1000});
  state.n_waiting = 1;
  state.at = Clock::now();
  admission.observe(state);
  EXPECT_LT(admission.wait_s(state.at), 0.05);
  state.short_of_pages = true;
  admission.observe(state);
  EXPECT_GE(admission.wait_s(state.at), 1.0);
}

TEST(StepCost, finds_what_a_step_and_a_token_take) {
  StepCost cost;
  EXPECT_EQ(cost.seconds(100), 0);
  for (int i = 0; i < 50; ++i) {
    for (const int64_t n : {1, 7, 500}) cost.add(0.004 + 0.001 * static_cast<double>(n), n);
  }
  EXPECT_NEAR(cost.seconds(0), 0.004, 1e-6);
  EXPECT_NEAR(cost.seconds(300), 0.304, 1e-6);
}

TEST(StepCost, is_never_negative_nor_more_than_in_proportion) {
  StepCost falling;
  for (const int64_t n : {1, 2, 3, 4}) falling.add(0.01 / static_cast<double>(n), n);
  EXPECT_GE(falling.seconds(1000), 0);
  StepCost steep;
  steep.add(0.001, 10);
  steep.add(0.1, 11);
  EXPECT_GE(steep.seconds(0), 0);
  EXPECT_LE(steep.seconds(1000), 1000 * 0.0505 / 10.5 * 1.01);
}

}  // namespace
}  // namespace patchbay
