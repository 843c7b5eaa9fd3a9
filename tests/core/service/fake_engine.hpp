// An engine without a model: it echoes the prompt, a token a step, and does what a test asks for besides.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "core/engine/engine.hpp"

namespace patchbay::testing {

class FakeEngine final : public Engine {
 public:
  int64_t queue = 256;
  int64_t fail_at = -1;  // the token at which every request fails
  bool endless = false;  // the prompt over and over
  std::function<void()> before_step;
  std::vector<std::vector<uint64_t>> expert_tokens;  // what it says of its layers

  ~FakeEngine() override { stop(); }

  moe::Result<uint64_t> submit(Request request, RequestSink* sink) override {
    MOE_TRY(has_room());
    const std::lock_guard lock(mutex_);
    for (const auto& p : request.sampling) {
      if (p.name != "temperature") return moe::invalid("sampling." + p.name + ": no link has it");
    }
    if (static_cast<int64_t>(request.prompt.size()) > context()) return moe::invalid("prompt: too long");
    last = request;
    jobs_[++last_id_] = {std::move(request), sink, 0, false};
    wake_.notify_all();
    return last_id_;
  }
  void cancel(uint64_t request) override {
    const std::lock_guard lock(mutex_);
    if (const auto found = jobs_.find(request); found != jobs_.end()) found->second.cancelled = true;
    wake_.notify_all();
  }
  bool step() override {
    if (before_step) before_step();
    std::vector<std::pair<uint64_t, Job>> batch;
    {
      const std::lock_guard lock(mutex_);
      if (jobs_.empty()) return false;
      batch.assign(jobs_.begin(), jobs_.end());
      stats_.n_running = static_cast<int64_t>(batch.size());
      ++stats_.steps;
    }
    for (auto& [id, job] : batch) advance(id, job);
    const std::lock_guard lock(mutex_);
    stats_.last_progress = std::chrono::steady_clock::now();
    return true;
  }
  void start() override {
    running_ = true;
    thread_ = std::thread([this] {
      while (true) {
        {
          std::unique_lock lock(mutex_);
          wake_.wait(lock, [this] { return !running_ || !jobs_.empty(); });
          if (!running_) return;
        }
        step();
      }
    });
  }
  void drain() override {
    const std::lock_guard lock(mutex_);
    draining_ = true;
  }
  bool idle() const override {
    const std::lock_guard lock(mutex_);
    return jobs_.empty();
  }
  void stop() override {
    {
      const std::lock_guard lock(mutex_);
      running_ = false;
      wake_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
    for (auto& [id, job] : std::exchange(jobs_, {})) job.sink->on_end(id, FinishReason::kCancelled, nullptr, {});
  }
  void set_queue(int64_t n, double) override { queue = n; }
  moe::Status has_room() const override {
    const std::lock_guard lock(mutex_);
    if (draining_) return moe::Error{MOE_UNAVAILABLE, "engine: draining"};
    if (static_cast<int64_t>(jobs_.size()) >= queue) return moe::exhausted("queue: full");
    return {};
  }
  moe::Status set_chain(std::shared_ptr<const SamplerChain>) override { return {}; }
  EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    stats.expert_tokens = expert_tokens;
    stats.unassigned.assign(expert_tokens.size(), 0);
    return stats;
  }
  int64_t context() const override { return 4096; }
  int64_t n_vocab() const override { return 1000; }

  Request last;  // as it was submitted

 private:
  struct Job {
    Request request;
    RequestSink* sink;
    int64_t n;
    bool cancelled;
  };

  void advance(uint64_t id, Job& job) {
    const auto& prompt = job.request.prompt;
    if (job.cancelled) return end(id, job, FinishReason::kCancelled, nullptr);
    if (job.n == fail_at) {
      const moe::Error error{MOE_DATA_LOSS, "logits: expected numbers, got NaN"};
      return end(id, job, FinishReason::kFailed, &error);
    }
    if (job.request.max_tokens > 0 && job.n >= job.request.max_tokens)
      return end(id, job, FinishReason::kLength, nullptr);
    const auto n_prompt = static_cast<int64_t>(prompt.size());
    const int32_t next = prompt[static_cast<size_t>(job.n % n_prompt)];
    const auto& stops = job.request.stop_ids;
    const bool over = (!endless && job.n >= n_prompt) || std::find(stops.begin(), stops.end(), next) != stops.end();
    if (over) return end(id, job, FinishReason::kStop, nullptr);
    TokenOut token;
    token.id = next;
    if (job.request.top_logprobs >= 0) {
      token.logprob = -0.5F;
      token.top.assign(static_cast<size_t>(job.request.top_logprobs), {next, -0.5F});
    }
    if (job.request.trace_routing) token.experts = {3, 1, 2, 0};
    {
      const std::lock_guard lock(mutex_);
      ++stats_.tokens_generated;
      ++jobs_.at(id).n;
    }
    job.sink->on_token(id, token);
  }
  void end(uint64_t id, const Job& job, FinishReason reason, const moe::Error* error) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.erase(id);
      stats_.n_running = static_cast<int64_t>(jobs_.size());
    }
    RequestUsage usage;
    usage.n_prompt = static_cast<int64_t>(job.request.prompt.size());
    usage.n_generated = job.n;
    job.sink->on_end(id, reason, error, usage);
  }

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::map<uint64_t, Job> jobs_;
  uint64_t last_id_ = 0;
  bool draining_ = false;
  bool running_ = false;
  EngineStats stats_;
  std::thread thread_;
};

}  // namespace patchbay::testing
