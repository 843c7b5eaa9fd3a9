// What the service says about itself: health and metrics.
#include <algorithm>

#include "core/service/service.hpp"
#include "core/service/wire.hpp"

namespace patchbay {

v1::Health Service::health() const {
  const EngineStats stats = engine_.stats();
  std::chrono::steady_clock::time_point busy_since;
  bool busy = false;
  {
    const std::lock_guard lock(mutex_);
    busy = !running_.empty();
    busy_since = busy_since_;
  }
  v1::Health health;
  health.set_n_running(stats.n_running);
  health.set_n_waiting(stats.n_waiting);
  // An engine that had nothing to do made no progress either, so the clock starts with the work.
  const auto since = std::chrono::steady_clock::now() - std::max(stats.last_progress, busy_since);
  if (busy) health.set_seconds_since_progress(std::max(0.0, std::chrono::duration<double>(since).count()));
  if (busy && since > options_.stalled_after) {
    health.set_state(v1::Health::STATE_STALLED);
  } else {
    health.set_state(draining_ ? v1::Health::STATE_DRAINING : v1::Health::STATE_SERVING);
  }
  return health;
}

void Service::write_engine_metrics(v1::Metrics* out) const {
  const EngineStats s = engine_.stats();
  const auto counter = [&](std::string_view name, auto value) {
    wire::write_metric(name, static_cast<double>(value), true, out);
  };
  const auto gauge = [&](std::string_view name, auto value) {
    wire::write_metric(name, static_cast<double>(value), false, out);
  };
  gauge("patchbay_engine_running", s.n_running);
  gauge("patchbay_engine_waiting", s.n_waiting);
  gauge("patchbay_engine_cache_pages", s.cache_pages);
  gauge("patchbay_engine_cache_pages_used", s.cache_pages_used);
  gauge("patchbay_engine_page_tokens", s.page_tokens);
  counter("patchbay_engine_steps_total", s.steps);
  counter("patchbay_engine_step_seconds_total", s.step_seconds);
  counter("patchbay_engine_tokens_prefilled_total", s.tokens_prefilled);
  counter("patchbay_engine_tokens_generated_total", s.tokens_generated);
  counter("patchbay_engine_requests_done_total", s.requests_done);
  counter("patchbay_engine_requests_cancelled_total", s.requests_cancelled);
  counter("patchbay_engine_requests_failed_total", s.requests_failed);
  counter("patchbay_engine_preemptions_total", s.preemptions);
}

v1::Metrics Service::metrics() const {
  v1::Metrics out;
  for (const MetricSample& m : metrics_.snapshot()) wire::write_metric(m.name, m.value, m.counter, &out);
  write_engine_metrics(&out);
  if (options_.more_metrics) {
    for (const auto& [name, value] : options_.more_metrics())
      wire::write_metric(name, value, name.ends_with("_total"), &out);
  }
  {
    const std::lock_guard lock(mutex_);
    wire::write_metric("patchbay_connections", static_cast<double>(connections_.size()), false, &out);
    wire::write_metric("patchbay_streams", static_cast<double>(running_.size()), false, &out);
  }
  std::sort(out.mutable_metrics()->begin(), out.mutable_metrics()->end(),
            [](const v1::Metric& a, const v1::Metric& b) { return a.name() < b.name(); });
  return out;
}

}  // namespace patchbay
