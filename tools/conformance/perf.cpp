#include "tools/conformance/perf.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/model/json/json.hpp"
#include "core/plugin/host.hpp"
#include "tools/conformance/ceilings.hpp"
#include "tools/conformance/ops/op_run.hpp"
#include "tools/conformance/ops/perf_cases.hpp"
#include "tools/conformance/subject.hpp"

namespace patchbay::conformance {
namespace {

using nlohmann::json;

// What the machine, or the backend's device, can do at most; 0: not known.
struct Ceilings {
  double gbps = 0;
  double gflops_f32 = 0;
  double gflops_bf16 = 0;
  std::string text;
};

// Median of at least 0.2 s and, within 2 s, 5 calls, after one that does not count.
template <typename F>
moe::Result<double> median_seconds(F&& call) {
  MOE_TRY(call());
  std::vector<double> all;
  const double begin = bench::now();
  double end = begin;
  do {
    const double start = end;
    MOE_TRY(call());
    end = bench::now();
    all.push_back(end - start);
  } while (end < begin + (all.size() < 5 ? 2 : 0.2) && all.size() < 1000);
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2), all.end());
  return all[all.size() / 2];
}

Ceilings host_ceilings(Host& host) {
  const bench::Probe probe(*host.abi());
  const int32_t n = host.pool().n_threads();
  Ceilings c;
  for (int i = 0; i < 3; ++i) {
    c.gbps = std::max(c.gbps, probe.read_gbps(n));
    c.gflops_f32 = std::max(c.gflops_f32, probe.matrix_gflops(n, bench::Probe::Rate::kF32));
    c.gflops_bf16 = std::max(c.gflops_bf16, probe.matrix_gflops(n, bench::Probe::Rate::kBF16));
  }
  if (c.gflops_bf16 == 0) c.gflops_bf16 = c.gflops_f32;  // no instruction for it
  c.text = fmt::format("memory reads {:.1f} GB/s, products {:.0f} GFLOP/s in f32 and {:.0f} in bf16, {} threads",
                       c.gbps, c.gflops_f32, c.gflops_bf16, n);
  return c;
}

// Copies within the device read and write.
moe::Result<Ceilings> device_ceilings(const BackendUnderTest& backend) {
  constexpr uint64_t kBytes = uint64_t{512} << 20;
  moe_buffer from = moe::make<moe_buffer>(), to = moe::make<moe_buffer>();
  const auto& table = backend.backend();
  void* stream = backend.description().stream;
  MOE_TRY(across([&](moe_message* m) { return table.alloc(backend.instance(), kBytes, MOE_MEMORY_DEVICE, &from, m); }));
  MOE_TRY(across([&](moe_message* m) { return table.alloc(backend.instance(), kBytes, MOE_MEMORY_DEVICE, &to, m); }));
  const auto seconds = median_seconds([&]() -> moe::Status {
    MOE_TRY(across([&](moe_message* m) {
      return table.copy(backend.instance(), to.data, from.data, kBytes, MOE_COPY_ON_DEVICE, stream, m);
    }));
    return across([&](moe_message* m) { return table.sync(backend.instance(), stream, m); });
  });
  from.release(&from);
  to.release(&to);
  if (!seconds.ok()) return seconds.error();
  Ceilings c;
  c.gbps = 2e-9 * static_cast<double>(kBytes) / *seconds;
  c.text = fmt::format("copies within the device {:.0f} GB/s; its rate of products is not known here", c.gbps);
  return c;
}

moe::Result<PerfReport> measure_backend(const CheckContext& context) {
  Host host;
  MOE_ASSIGN(const auto library, Library::load(context.options.library, host.abi()));
  const moe_backend* table = nullptr;
  for (const moe_component* c : library->components(MOE_BACKEND_ID)) {
    if (context.component == c->name) table = reinterpret_cast<const moe_backend*>(c);
  }
  if (table == nullptr) return moe::not_found(context.component + ": expected it in the library, got none");
  MOE_ASSIGN(const auto backend, BackendUnderTest::open(*table, host.abi()));
  Ceilings ceilings;
  if (backend->description().device.kind == MOE_DEVICE_HOST) {
    ceilings = host_ceilings(host);
  } else {
    MOE_ASSIGN(ceilings, device_ceilings(*backend));
  }
  PerfReport report;
  report.ceilings = ceilings.text;
  for (size_t i = 0; i < kPerfCases; ++i) {
    const PerfCase c = perf_case(i);
    CaseRun run(*backend, c.op_case, "bf16");
    if (auto s = run.prepare(); !s.ok()) {
      if (s.error().code == MOE_UNIMPLEMENTED) continue;  // it leaves the operation, or bf16, to the loops
      return s.error().in(c.op_case.op);
    }
    const auto launch = [&]() -> moe::Status {
      MOE_TRY(run.launch());
      return across([&](moe_message* m) { return table->sync(backend->instance(), backend->description().stream, m); });
    };
    MOE_ASSIGN(const double seconds, median_seconds(launch));
    PerfRow row;
    const std::string& id = c.op_case.op;
    row.what = fmt::format("{}: {}", id.substr(7, id.find('/') - 7), c.what);
    row.implementation = run.info().implementation == nullptr ? "" : run.info().implementation;
    row.us = seconds * 1e6;
    const double bytes = c.bytes + c.weight_elements * run.bytes_per_weight();
    row.gbps = bytes / seconds * 1e-9;
    row.gflops = c.flops / seconds * 1e-9;
    const double by_memory = bytes * 1e-9 / ceilings.gbps;
    const double rate = c.weight_elements > 0 ? ceilings.gflops_bf16 : ceilings.gflops_f32;
    const double by_arithmetic = rate > 0 ? c.flops * 1e-9 / rate : 0;
    const bool unknown = rate == 0 && c.flops > 20 * bytes;  // arithmetic decides, and its ceiling is not known
    if (!unknown) row.share = std::max(by_memory, by_arithmetic) / seconds;
    report.rows.push_back(row);
  }
  return report;
}

moe::Result<PerfReport> measure_hot_call(const CheckContext& context) {
  MOE_ASSIGN(const auto kit, Kit::open(context));
  MOE_ASSIGN(const auto subject, make_subject(*kit));
  MOE_TRY(subject->create(kit->given()));
  MOE_TRY(subject->set_input(0));
  MOE_ASSIGN(const double seconds, median_seconds([&] { return subject->call(); }));
  PerfReport report;
  report.ceilings = fmt::format("on the backend \"{}\"", context.options.backend);
  PerfRow row;
  row.what = context.kind == "sampler" ? "hot call, 3 rows of 300" : "hot call, 17 tokens";
  row.us = seconds * 1e6;
  report.rows.push_back(row);
  return report;
}

}  // namespace

moe::Result<PerfReport> measure(const CheckContext& context) {
  if (context.kind == "backend") return measure_backend(context);
  if (context.kind == "transport") return PerfReport{"transports have no hot call", {}};
  return measure_hot_call(context);
}

std::string to_json(const PerfReport& report) {
  json rows = json::array();
  for (const auto& r : report.rows) {
    rows.push_back({{"what", r.what},
                    {"implementation", r.implementation},
                    {"us", r.us},
                    {"gb_per_second", r.gbps},
                    {"gflops", r.gflops},
                    {"share", r.share < 0 ? json() : json(r.share)}});
  }
  return json{{"ceilings", report.ceilings}, {"rows", rows}}.dump();
}

moe::Result<PerfReport> perf_from_json(std::string_view text) {
  MOE_ASSIGN(const json doc, parse_json(text));
  PerfReport report;
  try {
    report.ceilings = doc.at("ceilings");
    for (const auto& r : doc.at("rows"))
      report.rows.push_back({r.at("what"), r.at("implementation"), r.at("us"), r.at("gb_per_second"), r.at("gflops"),
                             r.at("share").is_null() ? -1.0 : r.at("share").get<double>()});
  } catch (const json::exception& e) {
    return moe::data_loss(std::string("perf: ") + e.what());
  }
  return report;
}

}  // namespace patchbay::conformance
