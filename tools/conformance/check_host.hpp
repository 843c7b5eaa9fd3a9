// A moe_host for checks: collects what it is told, and runs parallel_for on a few threads of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "moe/abi/host.h"
#include "moe/sdk/tensor.hpp"
#include "tools/conformance/hook_control.hpp"

namespace patchbay::conformance {

class CheckHost {
 public:
  // With n_threads 1 everything runs on the caller.
  explicit CheckHost(int32_t n_threads = 1) : host_(moe::make<moe_host>()), n_threads_(n_threads) {
    host_.self = this;
    host_.name = "conformance kit";
    host_.log = [](void* self, int32_t level, const char* plugin, const char* text) {
      of(self).log(level, plugin, text);
    };
    host_.metric_add = [](void* self, const char* name, double value) {
      const HostCode mine;
      const std::lock_guard lock(of(self).mutex_);
      of(self).metrics_[name] += value;
    };
    host_.metric_set = [](void* self, const char* name, double value) {
      const HostCode mine;
      const std::lock_guard lock(of(self).mutex_);
      of(self).metrics_[name] = value;
    };
    host_.parallel_for = [](void* self, int64_t n_tasks, moe_task task, void* context) {
      of(self).parallel_for(n_tasks, task, context);
    };
    host_.n_threads = [](void* self) { return of(self).n_threads_.load(); };
    host_.get_extension = [](void*, const char*) -> const void* { return nullptr; };
    for (int32_t t = 1; t < n_threads; ++t) threads_.emplace_back([this, t] { serve(t); });
  }
  ~CheckHost() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }
  CheckHost(const CheckHost&) = delete;
  CheckHost& operator=(const CheckHost&) = delete;

  [[nodiscard]] const moe_host* get() const { return &host_; }

  // From now on use at most n of the threads. Not during a parallel_for.
  void limit_threads(int32_t n) { n_threads_ = n; }

  // While it lives, this thread is one that computes: parallel_for may be called from it.
  class ComputeScope {
   public:
    ComputeScope() { ++depth(); }
    ~ComputeScope() { --depth(); }
    ComputeScope(const ComputeScope&) = delete;
    ComputeScope& operator=(const ComputeScope&) = delete;

   private:
    friend CheckHost;
    static int& depth() {
      thread_local int depth = 0;
      return depth;
    }
  };
  // Calls from now on are judged by their thread tags.
  void judge() { judging_ = true; }
  // Which thread rules were broken; empty: none.
  [[nodiscard]] std::vector<std::string> violations() {
    const std::lock_guard lock(mutex_);
    return violations_;
  }

  [[nodiscard]] std::vector<std::string> logged() {
    const std::lock_guard lock(mutex_);
    return log_;
  }
  [[nodiscard]] double metric(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return metrics_[name];
  }

 private:
  struct Job {
    moe_task task;
    void* context;
    int64_t n_tasks;
    int32_t n_threads;
    std::atomic<int64_t> next{0};
  };

  static CheckHost& of(void* self) { return *static_cast<CheckHost*>(self); }
  static bool& inside() {
    thread_local bool inside = false;
    return inside;
  }

  void log(int32_t level, const char* plugin, const char* text) {
    const HostCode mine;
    const std::lock_guard lock(mutex_);
    log_.push_back(std::to_string(level) + " " + (plugin == nullptr ? "" : plugin) + ": " + text);
  }

  static void work(Job& job, int32_t thread) {
    if (thread >= job.n_threads) return;
    inside() = true;
    for (int64_t i = job.next++; i < job.n_tasks; i = job.next++) {
      const PluginCode theirs;
      job.task(job.context, i, thread);
    }
    inside() = false;
  }

  void parallel_for(int64_t n_tasks, moe_task task, void* context) {
    const HostCode mine;
    if (judging_ && !inside() && ComputeScope::depth() == 0) {
      const std::lock_guard lock(mutex_);
      violations_.emplace_back("parallel_for: expected a call from a compute thread, got one from another thread");
    }
    if (inside() || threads_.empty() || n_threads_ == 1) {
      const PluginCode theirs;
      for (int64_t i = 0; i < n_tasks; ++i) task(context, i, 0);
      return;
    }
    const std::lock_guard one_job(job_mutex_);  // instances on several threads take turns
    Job job{task, context, n_tasks, n_threads_};
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      ++generation_;
      busy_ = threads_.size();
    }
    wake_.notify_all();
    work(job, 0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    job_ = nullptr;
  }

  void serve(int32_t thread) {
    const HostCode mine;
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      Job& job = *job_;
      lock.unlock();
      work(job, thread);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  moe_host host_;
  std::atomic<int32_t> n_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Job* job_ = nullptr;
  uint64_t generation_ = 0;
  size_t busy_ = 0;
  bool stopping_ = false;
  std::mutex job_mutex_;
  std::atomic<bool> judging_{false};
  std::vector<std::string> violations_;
  std::vector<std::string> log_;
  std::map<std::string, double> metrics_;
  std::vector<std::thread> threads_;
};

}  // namespace patchbay::conformance
