// The compute threads, shared by every plugin through moe_host.parallel_for.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "moe/abi/host.h"

namespace patchbay {

// How many threads this process should compute on: physical cores that it may run on (affinity mask), at most its cgroup's CPU quota.
int32_t usable_cores();

// n_threads - 1 workers beside the caller. A job is a number of tasks handed out in ascending order by one atomic counter; the caller
// works too and returns when the last task is done, so a worker that is late (asleep, or descheduled) delays nothing. Workers spin for a
// short while after a job, because in decoding the next one comes within microseconds, then sleep.
class ThreadPool {
 public:
  explicit ThreadPool(int32_t n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // From one thread at a time; a call from inside a task runs serially on that thread.
  void run(int64_t n_tasks, moe_task task, void* context);
  [[nodiscard]] int32_t n_threads() const { return static_cast<int32_t>(workers_.size()) + 1; }

 private:
  void work(int32_t thread);
  bool claim_and_run(int32_t thread);

  // `next_` holds the job's number in the high half and the next task in the low half: a worker that comes late cannot claim a task of a
  // job that it has not read, because the compare-exchange sees another number.
  std::atomic<uint64_t> next_{0};
  std::atomic<int64_t> n_tasks_{0};
  std::atomic<int64_t> n_done_{0};
  std::atomic<moe_task> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int32_t> n_asleep_{0};
  std::atomic<uint32_t> wake_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace patchbay
