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

// Tasks are taken in lots, of one as long as there are not more than a share can count.
constexpr int64_t kMostLots = 0xffff;
int64_t tasks_per_lot(int64_t n_tasks) { return (n_tasks + kMostLots - 1) / kMostLots; }

// Share::left.
constexpr uint64_t pack(uint32_t number, uint64_t begin, uint64_t end) {
  return (uint64_t{number} << 32) | (begin << 16) | end;
}
constexpr uint64_t begin_of(uint64_t left) { return (left >> 16) & 0xffff; }
constexpr uint64_t end_of(uint64_t left) { return left & 0xffff; }
constexpr bool is_empty(uint64_t left) { return begin_of(left) >= end_of(left); }

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

ThreadPool::ThreadPool(int32_t n_threads)
    : shares_(static_cast<size_t>(std::max(1, n_threads))), done_(shares_.size()) {
  for (int32_t i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  wake();
  for (auto& w : workers_) w.join();
}

void ThreadPool::wake() {
  wake_.fetch_add(1, std::memory_order_seq_cst);
  wake_.notify_all();
}

void ThreadPool::run(int64_t n_tasks, moe_task task, void* context) {
  if (n_tasks <= 0) return;
  if (t_inside || workers_.empty() || n_tasks == 1) {
    for (int64_t i = 0; i < n_tasks; ++i) task(context, i, 0);
    return;
  }
  const int64_t per_lot = tasks_per_lot(n_tasks);
  const auto n_lots = static_cast<uint64_t>((n_tasks + per_lot - 1) / per_lot);
  const uint64_t n_threads = shares_.size();
  ++number_;
  n_lots_given_ += n_lots;
  // The last job's shares are empty, so nobody can take from a share between these stores.
  for (uint64_t t = n_threads; t-- > 0;) {
    const auto first_of = [&](uint64_t thread) { return (thread * n_lots + n_threads - 1) / n_threads; };
    Share& share = shares_[t];
    share.task.store(task, std::memory_order_relaxed);
    share.context.store(context, std::memory_order_relaxed);
    share.n_tasks.store(n_tasks, std::memory_order_relaxed);
    share.left.store(pack(number_, first_of(t), first_of(t + 1)), std::memory_order_release);
  }
  if (n_asleep_.load(std::memory_order_relaxed) > 0) wake();
  t_inside = true;
  if (take_and_run(shares_[0], false, 0)) add_done(0, 1);
  // Who fell asleep while the shares were on their way has either seen his or is seen here. Not before the first task:
  // the fence waits for those stores, 0.1 to 0.3 us.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (n_asleep_.load(std::memory_order_relaxed) > 0) wake();
  help(0);
  t_inside = false;
  while (total_done() != n_lots_given_) pause();
}

// Runs the share's first or last lot, if one is left.
bool ThreadPool::take_and_run(Share& share, bool from_end, int32_t thread) {
  uint64_t left = share.left.load(std::memory_order_acquire);
  for (;;) {
    if (is_empty(left)) return false;
    const moe_task task = share.task.load(std::memory_order_relaxed);
    void* const context = share.context.load(std::memory_order_relaxed);
    const int64_t n_tasks = share.n_tasks.load(std::memory_order_relaxed);
    const uint64_t rest = from_end ? left - 1 : left + (uint64_t{1} << 16);
    if (!share.left.compare_exchange_weak(left, rest, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    const int64_t per_lot = tasks_per_lot(n_tasks);
    const int64_t first = static_cast<int64_t>(from_end ? end_of(rest) : begin_of(left)) * per_lot;
    for (int64_t i = first; i < std::min(n_tasks, first + per_lot); ++i) task(context, i, thread);
    return true;
  }
}

// Runs what is left of the thread's own share, then of the others'.
void ThreadPool::help(int32_t thread) {
  const auto own = static_cast<size_t>(thread);
  uint64_t n = 0;
  while (take_and_run(shares_[own], false, thread)) ++n;
  if (n > 0) add_done(thread, n);
  for (size_t i = 1; i < shares_.size(); ++i) {
    while (take_and_run(shares_[(own + i) % shares_.size()], true, thread)) add_done(thread, 1);
  }
}

void ThreadPool::add_done(int32_t thread, uint64_t n_lots) {
  auto& done = done_[static_cast<size_t>(thread)].n_lots;
  done.store(done.load(std::memory_order_relaxed) + n_lots, std::memory_order_release);
}

uint64_t ThreadPool::total_done() const {
  uint64_t sum = 0;
  for (const auto& d : done_) sum += d.n_lots.load(std::memory_order_acquire);
  return sum;
}

void ThreadPool::work(int32_t thread) {
  t_inside = true;
  const auto& left = shares_[static_cast<size_t>(thread)].left;
  auto last_work = std::chrono::steady_clock::now();
  uint64_t seen_job = 0;  // whose lots this thread has been through
  while (!stop_.load(std::memory_order_relaxed)) {
    // Only its own share tells a thread of a new job, so that those who wait stay away from the lines of those who
    // work.
    const uint64_t number = left.load(std::memory_order_relaxed) >> 32;
    if (number != seen_job) {
      seen_job = number;
      help(thread);
      last_work = std::chrono::steady_clock::now();
      continue;
    }
    // One pause is 45 ns on Intel's processors since Skylake, 15 ns on others.
    bool changed = false;
    for (int i = 0; i < 64 && !changed; ++i) {
      pause();
      changed = left.load(std::memory_order_relaxed) >> 32 != seen_job;
    }
    if (changed || std::chrono::steady_clock::now() - last_work < kSpin) continue;
    const uint32_t seen = wake_.load(std::memory_order_seq_cst);
    n_asleep_.fetch_add(1, std::memory_order_seq_cst);
    const bool nothing = left.load(std::memory_order_seq_cst) >> 32 == seen_job;
    if (nothing && !stop_.load()) wake_.wait(seen, std::memory_order_seq_cst);
    n_asleep_.fetch_sub(1, std::memory_order_seq_cst);
    last_work = std::chrono::steady_clock::now();
  }
}

}  // namespace patchbay
