#include "core/service/metrics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace patchbay {

namespace {

constexpr std::string_view kRefused = "patchbay_metrics_refused_total";

bool is_name(std::string_view name) {
  if (name.empty() || name.size() > 128 || (name[0] >= '0' && name[0] <= '9')) return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; });
}

}  // namespace

Metrics::Cell* Metrics::cell(std::string_view name, double value) {
  const auto found = cells_.find(name);
  if (found != cells_.end() && std::isfinite(value)) return &found->second;
  const bool taken = name == kRefused || histograms_.contains(name);
  if (!std::isfinite(value) || !is_name(name) || taken || cells_.size() >= kMaxNames) {
    n_refused_ += 1;
    return nullptr;
  }
  return &cells_.emplace(name, Cell{}).first->second;
}

void Metrics::add(std::string_view name, double value) {
  const std::lock_guard lock(mutex_);
  if (value < 0) {
    n_refused_ += 1;
  } else if (Cell* c = cell(name, value)) {
    c->value += value;
    c->counter = true;
  }
}

void Metrics::set(std::string_view name, double value) {
  const std::lock_guard lock(mutex_);
  if (Cell* c = cell(name, value)) *c = {value, false};
}

void Metrics::observe(std::string_view name, double seconds) {
  const std::lock_guard lock(mutex_);
  const auto found = histograms_.find(name);
  const bool can_add = is_name(name) && !cells_.contains(name) && histograms_.size() < kMaxNames;
  if (!std::isfinite(seconds) || seconds < 0 || (found == histograms_.end() && !can_add)) {
    n_refused_ += 1;
    return;
  }
  (found != histograms_.end() ? found : histograms_.emplace(name, DurationHistogram{}).first)->second.add(seconds);
}

void write_histogram(const std::string& name, const DurationHistogram& histogram, std::vector<MetricSample>* out) {
  uint64_t n = 0;
  for (size_t b = 0; b <= DurationHistogram::kBuckets; ++b) {
    n += histogram.count(b);
    const bool last = b == DurationHistogram::kBuckets;
    const std::string bound = last ? "+Inf" : fmt::format("{:g}", DurationHistogram::bound(b));
    out->push_back({name + "_bucket", static_cast<double>(n), true, {{"le", bound}}, name});
  }
  out->push_back({name + "_count", static_cast<double>(n), true, {}, name});
  out->push_back({name + "_sum", histogram.sum(), true, {}, name});
}

std::vector<MetricSample> Metrics::snapshot() const {
  const std::lock_guard lock(mutex_);
  std::vector<MetricSample> samples;
  samples.reserve(cells_.size() + 1);
  for (const auto& [name, c] : cells_) samples.push_back({name, c.value, c.counter});
  for (const auto& [name, h] : histograms_) write_histogram(name, h, &samples);
  if (n_refused_ > 0) samples.push_back({std::string(kRefused), n_refused_, true});
  std::stable_sort(samples.begin(), samples.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return samples;
}

}  // namespace patchbay
