#include "live.hpp"

namespace httpd {

namespace v1 = patchbay::v1;

namespace {

const char* state_name(v1::Health::State state) {
  switch (state) {
    case v1::Health::STATE_SERVING:
      return "serving";
    case v1::Health::STATE_DRAINING:
      return "draining";
    case v1::Health::STATE_STALLED:
      return "stalled";
    default:
      return "unknown";
  }
}

}  // namespace

Json health_json(const v1::Health& health, bool closing) {
  const bool serving = health.state() == v1::Health::STATE_SERVING;
  return {{"healthy", serving && !closing},
          {"state", serving && closing ? "draining" : state_name(health.state())},
          {"running", health.n_running()},
          {"waiting", health.n_waiting()},
          {"seconds_since_progress", health.seconds_since_progress()}};
}

Json info_json(const v1::Info& info) {
  Json layers = Json::array();
  for (const v1::Layer& l : info.layers()) {
    layers.push_back({{"index", l.index()},
                      {"backend", l.backend()},
                      {"router", l.router()},
                      {"expert", l.expert()},
                      {"n_experts", l.n_experts()},
                      {"top_k", l.top_k()}});
  }
  Json plugins = Json::array();
  for (const v1::Plugin& p : info.plugins()) {
    plugins.push_back({{"kind", p.kind()}, {"name", p.name()}, {"version", p.version()}});
  }
  Json sampling = Json::array();
  for (const std::string& s : info.sampling()) sampling.push_back(s);
  return {{"server", info.server()},     {"model", info.model()},     {"architecture", info.architecture()},
          {"context", info.context()},   {"n_vocab", info.n_vocab()}, {"has_text", info.has_text()},
          {"has_chat", info.has_chat()}, {"layers", layers},          {"plugins", plugins},
          {"sampling", sampling}};
}

Json telemetry_json(const v1::Telemetry& t) {
  Json out = health_json(t.health(), false);
  out["time_s"] = t.time_s();
  out["cache_pages"] = t.cache_pages();
  out["cache_pages_used"] = t.cache_pages_used();
  out["page_tokens"] = t.page_tokens();
  out["steps"] = t.steps();
  out["stepping_s"] = t.stepping_s();
  out["tokens_prefilled"] = t.tokens_prefilled();
  out["tokens_reused"] = t.tokens_reused();
  out["cache_pages_idle"] = t.cache_pages_idle();
  out["tokens_generated"] = t.tokens_generated();
  out["requests_done"] = t.requests_done();
  out["requests_cancelled"] = t.requests_cancelled();
  out["requests_failed"] = t.requests_failed();
  out["preemptions"] = t.preemptions();
  out["layers"] = Json::array();
  for (const v1::LayerLoad& l : t.layers()) {
    Json tokens = Json::array();
    for (const uint64_t n : l.tokens()) tokens.push_back(n);
    out["layers"].push_back({{"index", l.index()},
                             {"tokens", tokens},
                             {"unassigned", l.unassigned()},
                             {"max_over_mean", l.max_over_mean()},
                             {"variation", l.variation()},
                             {"entropy", l.entropy()}});
  }
  return out;
}

}  // namespace httpd
