#include "core/plugin/thread_pool.hpp"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <set>
#include <string>

namespace patchbay {
namespace {

thread_local bool t_inside = false;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long a worker spins before it sleeps. Between two operations of a decode step lie a few microseconds, between two
// steps some tens (sampling, events); a sleeper costs the caller a system call to wake.
constexpr auto kSpin = std::chrono::microseconds(300);

// The low half of a ticket between two jobs.
constexpr uint64_t kNoTask = 0xffffffffU;

// The CPU quota of the process's own cgroup (version 2), in CPUs; 0 where there is none.
double cgroup_quota() {
  std::ifstream self("/proc/self/cgroup");
  std::string line;
  std::string path = "/";
  while (std::getline(self, line)) {
    if (line.starts_with("0::")) path = line.substr(3);
  }
  std::ifstream in("/sys/fs/cgroup" + (path == "/" ? "" : path) + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(in >> quota >> period) || quota == "max" || period <= 0) return 0;
  try {
    return std::stod(quota) / period;
  } catch (const std::exception&) {
    return 0;
  }
}

}  // namespace

int32_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return std::max(1U, std::thread::hardware_concurrency());
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    std::ifstream in("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    cores.insert(std::getline(in, siblings) ? siblings : std::to_string(cpu));
  }
  int32_t n = std::max<int32_t>(1, static_cast<int32_t>(cores.size()));
  const double quota = cgroup_quota();
  if (quota > 0) n = std::clamp(static_cast<int32_t>(std::ceil(quota)), 1, n);
  return n;
}

ThreadPool::ThreadPool(int32_t n_threads) {
  for (int32_t i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  wake_.fetch_add(1);
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

void ThreadPool::run(int64_t n_tasks, moe_task task, void* context) {
  if (n_tasks <= 0) return;
  if (t_inside || workers_.empty() || n_tasks == 1) {
    for (int64_t i = 0; i < n_tasks; ++i) task(context, i, 0);
    return;
  }
  // Closed while the job changes: a worker that still holds the last job's ticket must not find it good for the new
  // one's number of tasks. Its exchange fails, because these stores are released after the closing one.
  const uint64_t number = (next_.load(std::memory_order_relaxed) >> 32) + 1;
  next_.store((number << 32) | kNoTask, std::memory_order_seq_cst);
  n_done_.store(0, std::memory_order_release);
  task_.store(task, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  n_tasks_.store(n_tasks, std::memory_order_release);
  next_.store((number + 1) << 32, std::memory_order_seq_cst);
  if (n_asleep_.load(std::memory_order_seq_cst) > 0) {
    wake_.fetch_add(1, std::memory_order_seq_cst);
    wake_.notify_all();
  }
  while (claim_and_run(0)) {
  }
  while (n_done_.load(std::memory_order_acquire) != n_tasks) pause();
}

bool ThreadPool::claim_and_run(int32_t thread) {
  uint64_t ticket = next_.load(std::memory_order_acquire);
  for (;;) {
    const auto task_index = static_cast<int64_t>(ticket & kNoTask);
    if (task_index == static_cast<int64_t>(kNoTask) || task_index >= n_tasks_.load(std::memory_order_acquire))
      return false;
    const moe_task task = task_.load(std::memory_order_acquire);
    void* const context = context_.load(std::memory_order_acquire);
    if (!next_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    t_inside = true;
    task(context, task_index, thread);
    t_inside = false;
    n_done_.fetch_add(1, std::memory_order_release);
    return true;
  }
}

void ThreadPool::work(int32_t thread) {
  auto last_work = std::chrono::steady_clock::now();
  while (!stop_.load(std::memory_order_relaxed)) {
    bool worked = false;
    while (claim_and_run(thread)) worked = true;
    if (worked) {
      last_work = std::chrono::steady_clock::now();
      continue;
    }
    for (int i = 0; i < 32; ++i) pause();
    if (std::chrono::steady_clock::now() - last_work < kSpin) continue;
    const uint32_t seen = wake_.load(std::memory_order_seq_cst);
    n_asleep_.fetch_add(1, std::memory_order_seq_cst);
    const uint64_t ticket = next_.load(std::memory_order_seq_cst);
    const bool nothing = static_cast<int64_t>(ticket & 0xffffffffU) >= n_tasks_.load(std::memory_order_relaxed);
    if (nothing && !stop_.load()) wake_.wait(seen, std::memory_order_seq_cst);
    n_asleep_.fetch_sub(1, std::memory_order_seq_cst);
    last_work = std::chrono::steady_clock::now();
  }
}

}  // namespace patchbay
