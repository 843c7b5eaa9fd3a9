// The compute threads, shared by every plugin through moe_host.parallel_for.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "moe/abi/host.h"

namespace patchbay {

// How many threads this process should compute on: physical cores that it may run on (affinity mask), at most its
// cgroup's CPU quota.
int32_t usable_cores();

// n_threads - 1 workers beside the caller. Each thread has its share of a job's tasks, neighbours in ascending order,
// so that what tasks read one after the other streams; who has done his own takes from the end of another's. The caller
// returns when the last task is done, and takes what others have not begun, so a worker that is late (asleep, or
// descheduled) delays nothing. Workers spin for a short while after a job, because in decoding the next one comes
// within microseconds, then sleep.
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
  // What one thread is to do of a job, in one cache line (two, because processors fetch them in pairs): the caller
  // writes it, its thread reads all of it at once, and nobody else comes near before there is nothing else left.
  struct alignas(128) Share {
    // The job's number in the high half, then the first lot that nobody has taken, then where the share ends. A thread
    // that comes late cannot take a lot of a job whose task it has not read: it sees another number, or nothing left.
    std::atomic<uint64_t> left{0};
    std::atomic<moe_task> task{nullptr};
    std::atomic<void*> context{nullptr};
    std::atomic<int64_t> n_tasks{0};
  };
  // Lots that a thread has done since the pool began, whoever's they were.
  struct alignas(128) Done {
    std::atomic<uint64_t> n_lots{0};
  };

  void work(int32_t thread);
  void wake();
  bool take_and_run(Share& share, bool from_end, int32_t thread);
  void help(int32_t thread);
  void add_done(int32_t thread, uint64_t n_lots);
  [[nodiscard]] uint64_t total_done() const;

  std::vector<Share> shares_;  // [n_threads], the caller's first
  std::vector<Done> done_;     // [n_threads]
  uint32_t number_ = 0;        // of the last job
  uint64_t n_lots_given_ = 0;  // of all jobs
  alignas(128) std::atomic<int32_t> n_asleep_{0};
  std::atomic<uint32_t> wake_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace patchbay
