// patchbay top: what a server's engine and experts do, look after look.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "tools/patchbay/client_flags.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/report.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

struct TopFlags {
  ServerFlags server;
  double interval_s = 1;
  int64_t looks = 0;
  bool json = false;
};

const char* state_name(const v1::Health& health) {
  switch (health.state()) {
    case v1::Health::STATE_SERVING:
      return "serving";
    case v1::Health::STATE_DRAINING:
      return "draining";
    default:
      return "STALLED";
  }
}

// What happened between two looks.
struct Rates {
  double seconds = 0;
  double decoded = 0;    // tokens a second
  double prefilled = 0;  // tokens a second
  double step_ms = 0;    // of a step, on average
  double busy = 0;       // share of the time that was spent in steps
};

Rates rates_of(const v1::Telemetry& before, const v1::Telemetry& now) {
  Rates r;
  r.seconds = now.time_s() - before.time_s();
  if (r.seconds <= 0) return r;
  const auto rate = [&](uint64_t a, uint64_t b) { return static_cast<double>(b - a) / r.seconds; };
  r.decoded = rate(before.tokens_generated(), now.tokens_generated());
  r.prefilled = rate(before.tokens_prefilled(), now.tokens_prefilled());
  r.busy = (now.stepping_s() - before.stepping_s()) / r.seconds;
  const auto steps = static_cast<double>(now.steps() - before.steps());
  if (steps > 0) r.step_ms = (now.stepping_s() - before.stepping_s()) / steps * 1e3;
  return r;
}

// The load of the last interval, or since the server's start where nothing came in it.
std::vector<HeatRow> rows_of(const v1::Info& info, const v1::Telemetry& before, const v1::Telemetry& now) {
  const bool moved = now.steps() > before.steps() && before.layers_size() == now.layers_size();
  std::vector<HeatRow> rows;
  for (int l = 0; l < now.layers_size(); ++l) {
    const v1::LayerLoad& layer = now.layers(l);
    HeatRow row{layer.index(), "", 0, {layer.tokens().begin(), layer.tokens().end()}};
    for (const v1::Layer& i : info.layers()) {
      if (i.index() == layer.index()) row.router = i.router(), row.k = i.top_k();
    }
    for (int e = 0; moved && e < before.layers(l).tokens_size() && e < layer.tokens_size(); ++e) {
      row.tokens[static_cast<size_t>(e)] -= before.layers(l).tokens(e);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

void show(const v1::Info& info, const v1::Telemetry& before, const v1::Telemetry& now, bool terminal) {
  const Rates r = rates_of(before, now);
  const v1::Health& h = now.health();
  const double used =
      100.0 * static_cast<double>(now.cache_pages_used()) / std::max(1.0, static_cast<double>(now.cache_pages()));
  std::string text =
      fmt::format("{} ({}) on {}: {}\n", info.model(), info.architecture(), info.server(), state_name(h));
  text += fmt::format("{:.0f} tokens/s decoded, {:.0f} prefilled; {} running, {} waiting; cache {:.0f} %\n", r.decoded,
                      r.prefilled, h.n_running(), h.n_waiting(), used);
  text += fmt::format("step {:.1f} ms, {:.0f} % of the time in steps; done {}, cancelled {}, failed {}, preempted {}\n",
                      r.step_ms, 100 * r.busy, now.requests_done(), now.requests_cancelled(), now.requests_failed(),
                      now.preemptions());
  text += heat_map(rows_of(info, before, now), terminal);
  if (terminal) text = "\033[H\033[J" + text;
  fmt::print("{}", text);
  std::fflush(stdout);
}

void show_json(const v1::Telemetry& before, const v1::Telemetry& now) {
  const Rates r = rates_of(before, now);
  nlohmann::json layers = nlohmann::json::array();
  for (const v1::LayerLoad& l : now.layers()) {
    layers.push_back({{"index", l.index()},
                      {"tokens", std::vector<uint64_t>(l.tokens().begin(), l.tokens().end())},
                      {"max_over_mean", l.max_over_mean()},
                      {"variation", l.variation()},
                      {"entropy", l.entropy()}});
  }
  const nlohmann::json line = {{"time_s", now.time_s()},
                               {"state", state_name(now.health())},
                               {"running", now.health().n_running()},
                               {"waiting", now.health().n_waiting()},
                               {"decoded_per_s", r.decoded},
                               {"prefilled_per_s", r.prefilled},
                               {"step_ms", r.step_ms},
                               {"cache_pages", now.cache_pages()},
                               {"cache_pages_used", now.cache_pages_used()},
                               {"layers", layers}};
  fmt::print("{}\n", line.dump());
  std::fflush(stdout);
}

void run_top(const TopFlags& flags) {
  watch_signals();
  const auto server = value_or_fail(connect(flags.server));
  v1::ClientMessage question;
  question.mutable_info();
  const v1::Info info = value_or_fail(server->ask(question)).info();
  question.mutable_telemetry();
  v1::Telemetry before = value_or_fail(server->ask(question)).telemetry();
  const bool terminal = isatty(1) == 1;
  for (int64_t look = 0; (flags.looks == 0 || look < flags.looks) && !interrupted(); ++look) {
    std::this_thread::sleep_for(std::chrono::duration<double>(flags.interval_s));
    const v1::Telemetry now = value_or_fail(server->ask(question)).telemetry();
    if (flags.json) {
      show_json(before, now);
    } else {
      show(info, before, now, terminal);
    }
    before = now;
  }
}

}  // namespace

void add_top(CLI::App& app) {
  auto flags = std::make_shared<TopFlags>();
  CLI::App* command = app.add_subcommand("top", "Watch a server: speed, queue, cache and the load of every expert");
  add_server_flags(*command, flags->server);
  command->add_option("--interval", flags->interval_s, "seconds between looks")
      ->type_name("S")
      ->check(CLI::Range(0.05, 3600.0))
      ->capture_default_str();
  command->add_option("--looks", flags->looks, "end after so many; 0: when interrupted")->type_name("N");
  command->add_flag("--json", flags->json, "one line of JSON a look");
  command->callback([flags] { run_top(*flags); });
}

}  // namespace patchbay
