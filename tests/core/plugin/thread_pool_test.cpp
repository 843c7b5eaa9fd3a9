#include "core/plugin/thread_pool.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace patchbay {
namespace {

// Short jobs of changing sizes, one right after the other: workers are late for most of them.
TEST(ThreadPool, every_task_of_many_short_jobs_runs_once) {
  ThreadPool pool(3);
  std::array<std::atomic<int>, 8> runs;
  for (int64_t job = 0; job < 1'000'000; ++job) {
    const int64_t n = 2 + job % 6;
    for (auto& r : runs) r.store(0, std::memory_order_relaxed);
    pool.run(
        n,
        [](void* context, int64_t task, int32_t) {
          ++(*static_cast<std::array<std::atomic<int>, 8>*>(context))[static_cast<size_t>(task)];
        },
        &runs);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(runs[static_cast<size_t>(i)], 1) << "job " << job << " task " << i;
  }
}

TEST(ThreadPool, more_tasks_than_a_share_can_count_run_once) {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> runs(200'001);
  pool.run(
      static_cast<int64_t>(runs.size()),
      [](void* context, int64_t task, int32_t) {
        ++(*static_cast<std::vector<std::atomic<int>>*>(context))[static_cast<size_t>(task)];
      },
      &runs);
  for (size_t i = 0; i < runs.size(); ++i) ASSERT_EQ(runs[i], 1) << "task " << i;
}

// The first task ends when all others have: those of its own thread's share too, so another thread takes them.
TEST(ThreadPool, a_thread_that_is_held_up_loses_its_tasks_to_others) {
  ThreadPool pool(2);
  struct Job {
    std::atomic<int> n_others{0};
    bool others_ran = false;
  } job;
  constexpr int64_t kTasks = 8;
  pool.run(
      kTasks,
      [](void* context, int64_t task, int32_t) {
        auto& j = *static_cast<Job*>(context);
        if (task != 0) {
          ++j.n_others;
          return;
        }
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        while (j.n_others < kTasks - 1 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
        j.others_ran = j.n_others == kTasks - 1;
      },
      &job);
  EXPECT_TRUE(job.others_ran);
}

// Workers fall asleep between jobs; nobody may sleep through one that needs all threads.
TEST(ThreadPool, sleeping_workers_wake_for_a_job) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    struct Job {
      std::atomic<int> n_here{0};
      std::atomic<bool> met{true};
    } job;
    pool.run(
        3,
        [](void* context, int64_t, int32_t) {
          auto& j = *static_cast<Job*>(context);
          ++j.n_here;
          const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
          while (j.n_here < 3 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
          if (j.n_here < 3) j.met = false;
        },
        &job);
    ASSERT_TRUE(job.met) << "round " << round;
  }
}

}  // namespace
}  // namespace patchbay
