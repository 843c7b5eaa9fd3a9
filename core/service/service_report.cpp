// What the service says about itself: health, metrics and telemetry.
#include <algorithm>

#include "core/service/load_balance.hpp"
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

void Service::write_engine_metrics(std::vector<MetricSample>* out) const {
  const EngineStats s = engine_.stats();
  const auto counter = [&](const char* name, auto value) { out->push_back({name, static_cast<double>(value), true}); };
  const auto gauge = [&](const char* name, auto value) { out->push_back({name, static_cast<double>(value), false}); };
  gauge("patchbay_engine_running", s.n_running);
  gauge("patchbay_engine_waiting", s.n_waiting);
  gauge("patchbay_engine_cache_pages", s.cache_pages);
  gauge("patchbay_engine_cache_pages_used", s.cache_pages_used);
  gauge("patchbay_engine_cache_pages_idle", s.cache_pages_idle);
  counter("patchbay_engine_tokens_reused_total", s.tokens_reused);
  gauge("patchbay_engine_page_tokens", s.page_tokens);
  counter("patchbay_engine_steps_total", s.steps);
  counter("patchbay_engine_step_seconds_total", s.step_seconds);
  counter("patchbay_engine_tokens_prefilled_total", s.tokens_prefilled);
  counter("patchbay_engine_tokens_generated_total", s.tokens_generated);
  counter("patchbay_engine_requests_done_total", s.requests_done);
  counter("patchbay_engine_requests_cancelled_total", s.requests_cancelled);
  counter("patchbay_engine_requests_failed_total", s.requests_failed);
  counter("patchbay_engine_preemptions_total", s.preemptions);
  write_histogram("patchbay_engine_step_seconds", s.step_times, out);
  for (size_t l = 0; l < s.expert_tokens.size(); ++l) {
    const std::string layer = std::to_string(layer_index(l));
    const LoadBalance balance = load_balance(s.expert_tokens[l]);
    out->push_back({"patchbay_layer_load_max_over_mean", balance.max_over_mean, false, {{"layer", layer}}});
    out->push_back({"patchbay_layer_load_variation", balance.variation, false, {{"layer", layer}}});
    out->push_back({"patchbay_layer_load_entropy", balance.entropy, false, {{"layer", layer}}});
    if (l < s.unassigned.size()) {
      out->push_back(
          {"patchbay_layer_unassigned_total", static_cast<double>(s.unassigned[l]), true, {{"layer", layer}}});
    }
    for (size_t e = 0; e < s.expert_tokens[l].size(); ++e) {
      out->push_back({"patchbay_expert_tokens_total",
                      static_cast<double>(s.expert_tokens[l][e]),
                      true,
                      {{"layer", layer}, {"expert", std::to_string(e)}}});
    }
  }
}

// Of the l-th MoE layer; where nobody said which layers there are, l itself.
int32_t Service::layer_index(size_t l) const {
  return l < moe_layers_.size() ? moe_layers_[l] : static_cast<int32_t>(l);
}

v1::Telemetry Service::telemetry() const {
  const EngineStats s = engine_.stats();
  v1::Telemetry out;
  out.set_time_s(std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count());
  *out.mutable_health() = health();
  out.set_cache_pages(s.cache_pages);
  out.set_cache_pages_used(s.cache_pages_used);
  out.set_page_tokens(s.page_tokens);
  out.set_steps(s.steps);
  out.set_stepping_s(s.step_seconds);
  out.set_tokens_prefilled(s.tokens_prefilled);
  out.set_tokens_reused(s.tokens_reused);
  out.set_cache_pages_idle(s.cache_pages_idle);
  out.set_tokens_generated(s.tokens_generated);
  out.set_requests_done(s.requests_done);
  out.set_requests_cancelled(s.requests_cancelled);
  out.set_requests_failed(s.requests_failed);
  out.set_preemptions(s.preemptions);
  for (size_t l = 0; l < s.expert_tokens.size(); ++l) {
    const LoadBalance balance = load_balance(s.expert_tokens[l]);
    v1::LayerLoad* layer = out.add_layers();
    layer->set_index(layer_index(l));
    layer->mutable_tokens()->Add(s.expert_tokens[l].begin(), s.expert_tokens[l].end());
    if (l < s.unassigned.size()) layer->set_unassigned(s.unassigned[l]);
    layer->set_max_over_mean(balance.max_over_mean);
    layer->set_variation(balance.variation);
    layer->set_entropy(balance.entropy);
  }
  return out;
}

v1::Metrics Service::metrics() const {
  std::vector<MetricSample> all = metrics_.snapshot();
  write_engine_metrics(&all);
  if (options_.more_metrics) {
    for (const auto& [name, value] : options_.more_metrics()) all.push_back({name, value, name.ends_with("_total")});
  }
  {
    const std::lock_guard lock(mutex_);
    all.push_back({"patchbay_connections", static_cast<double>(connections_.size()), false});
    all.push_back({"patchbay_streams", static_cast<double>(running_.size()), false});
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  v1::Metrics out;
  for (const MetricSample& m : all) wire::write_metric(m, &out);
  return out;
}

}  // namespace patchbay
