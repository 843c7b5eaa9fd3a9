// Metrics: named counters and gauges, from the host and from plugins (moe_host.metric_add and metric_set).
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/engine/duration_histogram.hpp"

namespace patchbay {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

struct MetricSample {
  std::string name;
  double value = 0;
  bool counter = false;     // only grows
  MetricLabels labels{};    // which one of several of that name
  std::string histogram{};  // its name, where this is a part of one
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
  // Adds a duration in seconds to a histogram; the same rules. Its name is no counter's or gauge's.
  void observe(std::string_view name, double seconds);
  // All of them, sorted by name; histograms as Prometheus has them, NAME_bucket, NAME_count and NAME_sum.
  [[nodiscard]] std::vector<MetricSample> snapshot() const;

 private:
  struct Cell {
    double value = 0;
    bool counter = false;
  };
  Cell* cell(std::string_view name, double value);

  mutable std::mutex mutex_;
  std::map<std::string, Cell, std::less<>> cells_;
  std::map<std::string, DurationHistogram, std::less<>> histograms_;
  double n_refused_ = 0;
};

// Appends a histogram's samples.
void write_histogram(const std::string& name, const DurationHistogram& histogram, std::vector<MetricSample>* out);

}  // namespace patchbay
