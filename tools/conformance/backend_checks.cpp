// What holds for every backend: its operations are the SDK's loops within the error of f32, row by row, and its memory
// is as promised.
#include <fmt/format.h>

#include <cstring>
#include <deque>

#include "moe/sdk/loops.hpp"
#include "tools/conformance/checks.hpp"
#include "tools/conformance/ops/op_run.hpp"

namespace patchbay::conformance {
namespace {

// The backend, opened; null, with the reason found or skipped, if it is not there or cannot run on this machine.
struct OpenBackend {
  OpenBackend(const CheckContext& context, Findings& findings) : kit(open_kit(context, findings)) {
    if (kit == nullptr) return;
    if (const std::string why = unable_here(*kit); !why.empty()) {
      findings.skip(why);
    } else {
      open(findings);
    }
  }
  void open(Findings& findings) {
    auto opened = BackendUnderTest::open(*kit->component<moe_backend>().table, kit->host().get(), kit->given());
    if (!opened.ok()) return findings.fail(opened.error());
    backend = std::move(opened).value();
  }
  explicit operator bool() const { return backend != nullptr; }
  [[nodiscard]] bool claims(uint32_t capability) const { return (kit->header().capabilities & capability) != 0; }
  [[nodiscard]] const moe_backend& table() const { return *kit->component<moe_backend>().table; }

  std::unique_ptr<Kit> kit;
  std::unique_ptr<BackendUnderTest> backend;
};

// All cases of an operation, weights kept as `wanted`. Returns how many the backend ran.
int64_t compare(OpenBackend& open, const char* op, uint64_t seeds, const char* wanted, Findings& findings) {
  int64_t ran = 0;
  const CheckHost::ComputeScope scope;
  for (const OpCase& c : all_cases(op, seeds)) {
    const Outcome outcome = CaseRun(*open.backend, c, wanted).compare();
    ran += outcome.kind == Outcome::kRefused ? 0 : 1;
    if (outcome.kind == Outcome::kWrong)
      findings.fail(fmt::format("{} (weights {}): {}", c.text, wanted, outcome.text));
  }
  return ran;
}

void operation_agrees(const char* op, const CheckContext& context, Findings& findings) {
  OpenBackend open(context, findings);
  if (!open) return;
  const int64_t ran = compare(open, op, 25, "f32", findings);
  const bool weights = std::strcmp(op, MOE_OP_EMBED) == 0 || std::strcmp(op, MOE_OP_MATMUL) == 0 ||
                       std::strcmp(op, MOE_OP_GROUPED_MATMUL) == 0 || std::strcmp(op, MOE_OP_FFN) == 0;
  int64_t encoded = 0;
  if (weights && open.backend->rows() != nullptr) {  // it must multiply as the rows that it gives back say
    for (const char* wanted : {"auto", "bf16", "f16", "int8", "int4", "fp8"})
      encoded += compare(open, op, 2, wanted, findings);
  }
  if (ran + encoded == 0) return findings.skip("it leaves this operation to the SDK's loops");
  findings.note(encoded == 0 ? fmt::format("{} cases", ran)
                             : fmt::format("{} cases, and {} with weights in other encodings", ran, encoded));
}

void backend_rows_do_not_depend_on_each_other(const CheckContext& context, Findings& findings) {
  OpenBackend open(context, findings);
  if (!open) return;
  if (!open.claims(MOE_CAP_BATCH_INVARIANT)) return findings.skip("MOE_CAP_BATCH_INVARIANT is not claimed");
  const CheckHost::ComputeScope scope;
  for (const OpCase& c : all_cases("", 2)) {
    if (c.n_rows < 2) continue;
    const Outcome all = CaseRun(*open.backend, c, "f32").run();
    if (all.kind != Outcome::kSame) continue;
    for (const int64_t n : {int64_t{1}, c.n_rows / 2}) {
      const Outcome some = CaseRun(*open.backend, c, "f32").run(n);
      if (some.kind != Outcome::kSame) return findings.fail(fmt::format("{} ({}): {}", c.op, c.text, some.text));
      for (const auto& slot : c.slots) {
        if (!slot.rows || !c.arrays[slot.array].output) continue;
        const auto& tensor =
            *reinterpret_cast<const moe_tensor*>(reinterpret_cast<const char*>(c.args.data()) + slot.offset);
        const auto n_bytes = static_cast<size_t>((n * tensor.strides[0] + slot.first) * dtype_bytes(tensor.dtype));
        if (std::memcmp(all.got[slot.array].words.data(), some.got[slot.array].words.data(), n_bytes) != 0)
          findings.fail(fmt::format("{} ({}): {} of {} rows: expected the same bits as in the whole call, got others",
                                    c.op, c.text, n, c.n_rows));
      }
    }
  }
}

void threads_change_no_bit(const CheckContext& context, Findings& findings) {
  OpenBackend many(context, findings);
  if (!many) return;
  if (!many.claims(MOE_CAP_DETERMINISTIC)) return findings.skip("MOE_CAP_DETERMINISTIC is not claimed");
  auto& host = many.kit->host();
  host.limit_threads(1);
  auto alone = BackendUnderTest::open(many.table(), host.get(), many.kit->given());
  host.limit_threads(Kit::kThreads);
  if (!alone.ok()) return findings.fail(alone.error());
  const CheckHost::ComputeScope scope;
  for (const OpCase& c : all_cases("", 2)) {
    const Outcome a = CaseRun(*many.backend, c, "f32").run();
    host.limit_threads(1);
    const Outcome b = CaseRun(**alone, c, "f32").run();
    host.limit_threads(Kit::kThreads);
    if (a.kind != b.kind) return findings.fail(fmt::format("{} ({}): {}{}", c.op, c.text, a.text, b.text));
    for (size_t i = 0; i < a.got.size(); ++i) {
      if (a.got[i].words != b.got[i].words)
        findings.fail(fmt::format("{} ({}): expected the same bits on 1 thread and on {}, got others", c.op, c.text,
                                  Kit::kThreads));
    }
  }
}

void memory_is_zeroed_and_aligned(const CheckContext& context, Findings& findings) {
  OpenBackend open(context, findings);
  if (!open) return;
  const auto& table = open.table();
  void* stream = open.backend->description().stream;
  for (const uint64_t n : {uint64_t{0}, uint64_t{1}, uint64_t{1000}}) {
    auto buffer = moe::make<moe_buffer>();
    auto status =
        across([&](moe_message* m) { return table.alloc(open.backend->instance(), n, MOE_MEMORY_DEVICE, &buffer, m); });
    if (!status.ok()) return findings.fail(status.error().in(fmt::format("alloc of {} bytes", n)));
    std::vector<uint8_t> bytes(n, 1);
    if (n > 0) {
      status = across([&](moe_message* m) {
        return table.copy(open.backend->instance(), bytes.data(), buffer.data, n, MOE_COPY_TO_HOST, stream, m);
      });
      if (status.ok()) status = across([&](moe_message* m) { return table.sync(open.backend->instance(), stream, m); });
      if (!status.ok()) findings.fail(status.error());
    }
    if (reinterpret_cast<uintptr_t>(buffer.data) % 64 != 0)
      findings.fail("alloc: expected memory aligned to 64 bytes, got less");
    if (bytes != std::vector<uint8_t>(n, 0))
      findings.fail(fmt::format("alloc of {} bytes: expected zeros, got other bytes", n));
    if (buffer.n_bytes != n) findings.fail(fmt::format("alloc of {} bytes: n_bytes: got {}", n, buffer.n_bytes));
    if (buffer.release == nullptr) return findings.fail("alloc: expected a release function, got null");
    buffer.release(&buffer);
  }
}

void refuses_by_name(const CheckContext& context, Findings& findings) {
  OpenBackend open(context, findings);
  if (!open) return;
  const auto& table = open.table();
  auto buffer = moe::make<moe_buffer>();
  constexpr uint64_t kTooMuch = uint64_t{1} << 62;
  auto status = across(
      [&](moe_message* m) { return table.alloc(open.backend->instance(), kTooMuch, MOE_MEMORY_DEVICE, &buffer, m); });
  if (status.ok() || status.error().code != MOE_RESOURCE_EXHAUSTED ||
      status.error().message.find(std::to_string(kTooMuch)) == std::string::npos)
    findings.fail(fmt::format("alloc of 2^62 bytes: expected MOE_RESOURCE_EXHAUSTED and how much was asked for, got {}",
                              status.ok() ? "MOE_OK" : status.error().message));
  auto args = moe::op_args<moe_add_args>();
  auto info = moe::make<moe_op_info>();
  status = across([&](moe_message* m) {
    return table.find_op(open.backend->instance(), "moe.op.nothing/1", &args.header, &info, m);
  });
  if (status.ok() || status.error().code != MOE_UNIMPLEMENTED ||
      status.error().message.find("moe.op.nothing/1") == std::string::npos)
    findings.fail(fmt::format("find_op(\"moe.op.nothing/1\"): expected MOE_UNIMPLEMENTED and its name, got {}",
                              status.ok() ? "MOE_OK" : status.error().message));
}

void describes_itself(const CheckContext& context, Findings& findings) {
  OpenBackend open(context, findings);
  if (!open) return;
  const auto& d = open.backend->description();
  if (d.device.kind != MOE_DEVICE_HOST && d.device.kind != MOE_DEVICE_CUDA)
    findings.fail(fmt::format("device: expected a kind of MOE_DEVICE_*, got {}", d.device.kind));
  if (d.device_name == nullptr || d.device_name[0] == '\0') findings.fail("device_name: expected a name, got none");
  if (d.device.kind == MOE_DEVICE_HOST && d.stream != nullptr)
    findings.fail("stream: expected null on the host, got one");
  if (d.device_name != nullptr) findings.note(d.device_name);
}

}  // namespace

const std::vector<Check>& backend_checks() {
  static const std::vector<Check> checks = [] {
    std::vector<Check> all = {{"describes_itself", "device, name and stream are there", describes_itself}};
    static std::deque<std::string> names;
    for (const auto& op : moe::loops::kOps) {
      const std::string id = op.id;  // "moe.op.matmul/1"
      const std::string word = id.substr(7, id.find('/') - 7);
      const char* rule = names.emplace_back(word + "_agrees_with_the_loops").c_str();
      const char* claim =
          names
              .emplace_back(word +
                            " over random shapes, types and encodings is the SDK's loop, within the error of f32")
              .c_str();
      const char* op_id = op.id;
      all.push_back({rule, claim, [op_id](const CheckContext& c, Findings& f) { operation_agrees(op_id, c, f); }});
    }
    all.insert(all.end(), {{"rows_do_not_depend_on_each_other", "a row is the same bits in any call",
                            backend_rows_do_not_depend_on_each_other},
                           {"threads_change_no_bit", "every operation gives the same bits on any number of threads",
                            threads_change_no_bit},
                           {"memory_is_zeroed_and_aligned", "memory is zero and aligned to 64 bytes",
                            memory_is_zeroed_and_aligned},
                           {"refuses_by_name", "what it does not have is refused by name", refuses_by_name}});
    append_general_checks(all);
    return all;
  }();
  return checks;
}

}  // namespace patchbay::conformance
