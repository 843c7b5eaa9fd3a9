// patchbay bench: how fast a model runs here, against what the machine can do, and where a step's time goes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "tools/patchbay/bandwidth.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/session.hpp"
#include "tools/patchbay/shapes.hpp"
#include "tools/patchbay/speed.hpp"

namespace patchbay {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchFlags {
  CommonFlags common;
  std::vector<int64_t> batch = {1};
  SpeedOptions speed;
  std::string like;
  std::string type = "bf16";
};

struct Breakdown {
  double step_us = 0;
  double ops_us = 0;
  double other_us = 0;  // everything that is not inside an operation
  nlohmann::json ops = nlohmann::json::object();
};

// The engine's steps until `done`, operation by operation. Timing each launch costs time itself, which is measured and taken off.
template <typename Done>
Breakdown break_down(Session& session, Done done) {
  for (Device* d : session.model->devices()) {
    d->profile(true);
    d->reset_profile();
  }
  std::vector<double> others, steps, inside;
  while (!done()) {
    uint64_t before = 0;
    for (Device* d : session.model->devices()) before += d->profiled_ns();
    const auto at = Clock::now();
    if (!session.engine->step()) break;
    const double step = seconds_of(Clock::now() - at) * 1e6;
    uint64_t after = 0;
    for (Device* d : session.model->devices()) after += d->profiled_ns();
    const double ops = static_cast<double>(after - before) / 1e3;
    steps.push_back(step);
    inside.push_back(ops);
    others.push_back(step - ops);
  }
  Breakdown out;
  out.step_us = median(steps);
  out.ops_us = median(inside);
  uint64_t launches = 0;
  const auto n_steps = static_cast<double>(std::max<size_t>(1, steps.size()));
  for (Device* d : session.model->devices()) {
    for (const auto& [id, time] : d->profile_times()) {
      launches += time.launches;
      out.ops[id + " (" + d->name() + ", " + time.implementation + ")"] = {{"launches_per_step", static_cast<double>(time.launches) / n_steps},
                                                 {"us_per_step", static_cast<double>(time.nanoseconds) / 1e3 / n_steps}};
    }
    d->profile(false);
  }
  // Two clock readings a launch, of which about one falls outside the measured interval.
  constexpr int kReadings = 10000;
  const auto start = Clock::now();
  for (int i = 0; i < kReadings; ++i) (void)Clock::now();
  const double reading_us = seconds_of(Clock::now() - start) * 1e6 / kReadings;
  out.other_us = median(others) - reading_us * static_cast<double>(launches) / n_steps;
  return out;
}

struct Breakdowns {
  Breakdown prefill;      // a step of it: a long prompt takes several
  Breakdown decode;       // a step at batch 1
  double allowed_us = 0;  // in a decode step outside of operations: 15 + 2 a layer
};
Breakdowns break_down_request(Session& session, const BenchFlags& flags) {
  Counter counter;
  Request request;
  request.prompt = some_ids(flags.speed.n_prompt, session.engine->n_vocab(), 1);
  request.max_tokens = flags.speed.n_decode + 1;
  request.sampling.push_back({"temperature", 0.0});
  value_or_fail(session.engine->submit(std::move(request), &counter));
  Breakdowns out;
  out.prefill = break_down(session, [&] { return counter.n_tokens > 0 || counter.n_ended > 0; });
  out.decode = break_down(session, [&] { return counter.n_ended > 0; });
  out.allowed_us = 15 + 2 * static_cast<double>(session.model->layers().size());
  return out;
}

// Of the bandwidth, that the median decode step takes: weights, each chosen expert's once a step, and keys and values. Not the mean step: the bandwidth is
// that of moments in which nobody else had the processors, and tokens a second say what there was of the others.
double share_of(const SpeedMeasurement& m, double bandwidth) {
  return m.step_us > 0 ? m.step_bytes / (m.step_us * 1e-6) / bandwidth : 0;
}

// Processor time since the machine began, in ticks, and how much of it a host gave to other machines; zeros where the system does not tell.
struct Ticks {
  uint64_t all = 0;
  uint64_t taken = 0;
};
Ticks processor_ticks() {
  std::ifstream file("/proc/stat");
  std::string cpu;
  std::array<uint64_t, 8> n{};  // user, nice, system, idle, iowait, irq, softirq, steal
  file >> cpu;
  for (uint64_t& ticks : n) file >> ticks;
  if (!file) return {};
  return {std::accumulate(n.begin(), n.end(), uint64_t{0}), n[7]};
}

void print_operations(const Breakdown& b) {
  for (const auto& [name, op] : b.ops.items()) {
    fmt::print("  {:<52} {:>6.1f} launches {:>9.1f} us\n", name, op["launches_per_step"].get<double>(), op["us_per_step"].get<double>());
  }
}

void print_table(const Session& session, const std::vector<SpeedMeasurement>& all, const Breakdowns& b, double before, double after) {
  const ModelBytes& bytes = session.model->bytes();
  const bool measured = before > 0;
  if (measured) fmt::print("memory reads {:.1f} GB/s before, {:.1f} GB/s after; ", before / 1e9, after / 1e9);
  fmt::print("{:.2f} MB of weights a token at batch 1{}, {} threads\n", static_cast<double>(bytes.read_per_token) / 1e6,
             measured ? "" : " from a device's memory, whose speed is not measured", session.host->pool().n_threads());
  fmt::print("{:>6} {:>16} {:>15} {:>9} {:>9} {:>12} {:>12}\n", "batch", "prefill tok/s", "decode tok/s", "MB a step", "share", "step p50 us", "step p99 us");
  for (const auto& m : all) {
    const std::string share = measured ? fmt::format("{:.0f} %", share_of(m, std::max(before, after)) * 100) : "-";
    const std::string megabytes = m.step_bytes > 0 ? fmt::format("{:.1f}", m.step_bytes / 1e6) : "-";
    fmt::print("{:>6} {:>16.0f} {:>15.1f} {:>9} {:>9} {:>12.0f} {:>12.0f}\n", m.batch, m.prefill_tokens_per_s, m.decode_tokens_per_s, megabytes, share, m.step_us,
               m.p99_step_us);
  }
  fmt::print("\na prefill step: {:.0f} us, of which {:.0f} us in operations\n", b.prefill.step_us, b.prefill.ops_us);
  print_operations(b.prefill);
  fmt::print("\na decode step at batch 1: {:.0f} us, of which {:.0f} us in operations and {:.1f} us in everything else (at most {:.0f} us is the aim)\n",
             b.decode.step_us, b.decode.ops_us, b.decode.other_us, b.allowed_us);
  print_operations(b.decode);
}

void bench(const BenchFlags& flags) {
  SessionNeeds needs;
  needs.text = false;
  const int64_t largest = *std::max_element(flags.batch.begin(), flags.batch.end());
  needs.defaults = [&](Settings& s) {
    const int64_t context = flags.speed.n_prompt + flags.speed.n_decode + 2;
    s.engine.batch_size = std::max<int64_t>(largest, 1);
    s.engine.prefix_cache = false;  // a prompt is to be computed as often as it is measured
    if (s.engine.cache_tokens == 0) s.engine.cache_tokens = (context + s.engine.page_tokens) * largest;
  };
  if (!flags.like.empty()) {
    needs.files = [&](const Session& s) -> moe::Result<std::unique_ptr<ModelFiles>> {
      MOE_ASSIGN(const ModelShape shape, load_shape(flags.like, shape_folders()));
      MOE_ASSIGN(const ModelOutline outline, outline_of_shape(s.settings, shape, "", s.registry, *s.host));
      return random_model_files(shape, outline, flags.type);
    };
  }
  Session session = value_or_fail(open_session(flags.common, needs));
  if (flags.speed.n_prompt + flags.speed.n_decode + 1 > session.model->context()) {
    fail(moe::invalid(fmt::format("--prompt-tokens and --decode-tokens: expected at most {} together (the context), got {}", session.model->context() - 1,
                                  flags.speed.n_prompt + flags.speed.n_decode)));
  }
  constexpr uint64_t kProbeBytes = uint64_t{4} << 30;
  const double before = measure_weights_bandwidth(*session.host, *session.model, 0.5, kProbeBytes);
  std::vector<SpeedMeasurement> all;
  const Ticks at_start = processor_ticks();
  for (const int64_t batch : flags.batch) all.push_back(value_or_fail(measure_speed(session, flags.speed, batch)));
  const Ticks at_end = processor_ticks();
  const bool tells = at_end.all > at_start.all;
  const double taken = tells ? static_cast<double>(at_end.taken - at_start.taken) / static_cast<double>(at_end.all - at_start.all) : 0;
  const Breakdowns breakdown = break_down_request(session, flags);
  const double after = measure_weights_bandwidth(*session.host, *session.model, 0.5, kProbeBytes);
  if (!flags.common.json) {
    print_table(session, all, breakdown, before, after);
    if (taken >= 0.005 && !flags.common.quiet) fmt::print(stderr, "note: the host of this machine took {:.1f} % of its processors' time meanwhile\n", taken * 100);
    return;
  }
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& m : all) {
    rows.push_back({{"batch", m.batch}, {"prefill_tokens_per_second", m.prefill_tokens_per_s}, {"decode_tokens_per_second", m.decode_tokens_per_s},
                    {"step_us_p50", m.step_us}, {"step_us_p99", m.p99_step_us}, {"share_of_bandwidth", before > 0 ? nlohmann::json(share_of(m, std::max(before, after))) : nlohmann::json()},
                    {"bytes_per_step", m.step_bytes > 0 ? nlohmann::json(m.step_bytes) : nlohmann::json()}});
  }
  const nlohmann::json doc = {{"bandwidth_gb_per_second", {before / 1e9, after / 1e9}},
                              {"threads", session.host->pool().n_threads()},
                              {"taken_by_host", taken},
                              {"bytes_per_token", session.model->bytes().read_per_token},
                              {"rows", rows},
                              {"prefill_step", {{"us", breakdown.prefill.step_us}, {"operations_us", breakdown.prefill.ops_us}, {"operations", breakdown.prefill.ops}}},
                              {"step", {{"us", breakdown.decode.step_us}, {"operations_us", breakdown.decode.ops_us}, {"other_us", breakdown.decode.other_us}, {"other_us_aim", breakdown.allowed_us}, {"operations", breakdown.decode.ops}}}};
  fmt::print("{}\n", doc.dump(2));
}

}  // namespace

void add_bench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand("bench", "Measure prefill and decoding against what the machine can do");
  add_common_flags(*command, flags->common);
  command->add_option("--batch", flags->batch, "numbers of requests side by side")->delimiter(',')->check(CLI::Range(1, 4096))->type_name("N,...");
  command->add_option("--prompt-tokens", flags->speed.n_prompt, "length of each prompt")->check(CLI::Range(1, 1 << 20))->type_name("N");
  command->add_option("--decode-tokens", flags->speed.n_decode, "tokens that each request generates")->check(CLI::Range(1, 1 << 20))->type_name("N");
  command->add_option("--like", flags->like, "random weights in the shape of a known model (see `model make-random --help`) or of a config.json, instead of --model")->type_name("NAME");
  command->add_option("--type", flags->type, "how these are stored before model.precision is applied: f32 | f16 | bf16 | mxfp4")->type_name("NAME");
  command->add_option("--rounds", flags->speed.rounds, "medians are over so many")->check(CLI::Range(1, 1000))->type_name("N");
  command->callback([flags] { bench(*flags); });
}

}  // namespace patchbay
