#include "core/plugin/thread_pool.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>

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

}  // namespace
}  // namespace patchbay
