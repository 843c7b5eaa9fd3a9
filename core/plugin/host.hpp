// moe.host/1 as Patchbay gives it to plugins: log, metrics, compute threads.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/plugin/thread_pool.hpp"
#include "moe/abi/host.h"

namespace patchbay {

class Host {
 public:
  // n_threads: compute threads, the caller's included; 0: usable_cores().
  explicit Host(int32_t n_threads = 0);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  [[nodiscard]] const moe_host* abi() const { return &abi_; }
  ThreadPool& pool() { return pool_; }

  // Plugins' metrics by name, as they stand. [thread-safe]
  [[nodiscard]] std::map<std::string, double> metrics() const;
  void metric_add(const std::string& name, double value);
  void metric_set(const std::string& name, double value);

 private:
  ThreadPool pool_;
  mutable std::mutex mutex_;
  std::map<std::string, double> metrics_;
  moe_host abi_{};
};

// Where log lines go: stderr, from `level` (MOE_LOG_*) up, as text or as one JSON object a line.
void set_log(int32_t level, bool json);
void set_log(const std::string& level, const std::string& format);  // as LogSettings spells them
void log_line(int32_t level, std::string_view source, std::string_view text);

}  // namespace patchbay
