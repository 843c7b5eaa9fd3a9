// Metrics: named counters and gauges, from the host and from plugins (moe_host.metric_add and metric_set).
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace patchbay {

struct MetricSample {
  std::string name;
  double value = 0;
  bool counter = false;  // only grows
};

// [thread-safe]
class Metrics {
 public:
  static constexpr size_t kMaxNames = 4096;  // a plugin that makes up names does not fill the memory

  // Adds to a counter, or sets a gauge. Names are those of Prometheus, [a-z_][a-z0-9_]*, 128 bytes at most. A wrong
  // name, one too many, or a value that is not finite (a counter's: or is negative) is left out and counted in
  // "patchbay_metrics_refused_total".
  void add(std::string_view name, double value);
  void set(std::string_view name, double value);
  // All of them, sorted by name.
  [[nodiscard]] std::vector<MetricSample> snapshot() const;

 private:
  struct Cell {
    double value = 0;
    bool counter = false;
  };
  Cell* cell(std::string_view name, double value);

  mutable std::mutex mutex_;
  std::map<std::string, Cell, std::less<>> cells_;
  double n_refused_ = 0;
};

}  // namespace patchbay
