#include "core/service/metrics.hpp"

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
  if (!std::isfinite(value) || !is_name(name) || name == kRefused || cells_.size() >= kMaxNames) {
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

std::vector<MetricSample> Metrics::snapshot() const {
  const std::lock_guard lock(mutex_);
  std::vector<MetricSample> samples;
  samples.reserve(cells_.size() + 1);
  for (const auto& [name, c] : cells_) samples.push_back({name, c.value, c.counter});
  if (n_refused_ > 0) {
    const auto at = std::lower_bound(samples.begin(), samples.end(), kRefused,
                                     [](const MetricSample& s, std::string_view name) { return s.name < name; });
    samples.insert(at, {std::string(kRefused), n_refused_, true});
  }
  return samples;
}

}  // namespace patchbay
