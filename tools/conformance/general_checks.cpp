// What holds for every component, whatever its kind: options, refusals, memory, threads, promises.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "tools/conformance/checks.hpp"
#include "tools/conformance/cuda_stream.hpp"
#include "tools/conformance/subject.hpp"

namespace patchbay::conformance {
namespace {

// A subject with its default instance; null, with the reason found, if there is none.
struct Open {
  std::unique_ptr<Kit> kit;
  std::unique_ptr<Subject> subject;

  Open(const CheckContext& context, Findings& findings, bool create = true) : kit(open_kit(context, findings)) {
    if (kit == nullptr) return;
    if (const std::string why = unable_here(*kit); !why.empty()) {
      findings.skip(why);
      return;
    }
    kit->host().judge();
    auto made = make_subject(*kit);
    if (!made.ok()) {
      findings.fail(made.error());
      return;
    }
    subject = std::move(made).value();
    if (!create) return;
    if (auto s = subject->create(kit->given()); !s.ok()) {
      findings.fail(s.error().in("create with default options"));
      subject.reset();
    }
  }
  explicit operator bool() const { return subject != nullptr; }
  [[nodiscard]] bool claims(uint32_t capability) const { return (kit->header().capabilities & capability) != 0; }
};

// Input `which` through the subject: its bytes, or what went wrong.
moe::Result<std::vector<uint8_t>> answer(Subject& subject, uint32_t which) {
  MOE_TRY(subject.set_input(which));
  MOE_TRY(subject.call());
  return subject.output();
}
// The answer of a new instance that has seen nothing else.
moe::Result<std::vector<uint8_t>> fresh_answer(Kit& kit, uint32_t which) {
  MOE_ASSIGN(auto subject, make_subject(kit));
  MOE_TRY(subject->create(kit.given()));
  return answer(*subject, which);
}

void options_work_as_described(const CheckContext& context, Findings& findings) {
  const Open open(context, findings, false);
  if (!open) return;
  if (auto s = open.subject->create_only(open.kit->given()); !s.ok()) {
    return findings.fail(s.error().in("default options: expected them to work, got"));
  }
  int tried = 0;
  for (const auto& given : option_variants(open.kit->header(), open.kit->given())) {
    ++tried;
    const auto status = open.subject->create_only(given);
    if (status.ok()) continue;
    const moe::Error& e = status.error();
    const std::string where =
        to_text(given) + ": within the table's range: expected it to work or to be refused with MOE_INVALID_ARGUMENT";
    // What this machine cannot do is no mistake of the table's.
    if (e.code != MOE_INVALID_ARGUMENT && e.code != MOE_UNIMPLEMENTED && e.code != MOE_FAILED_PRECONDITION) {
      findings.fail(fmt::format("{}, got status {}: {}", where, e.code, e.message));
      continue;
    }
    bool named = false;
    for (uint32_t i = 0; i < open.kit->header().n_options; ++i)
      named = named || e.message.find(moe::nth(open.kit->header().options, i).key) != std::string::npos;
    if (!named) findings.fail(fmt::format("{} and the option's name, got \"{}\"", where, e.message));
  }
  findings.note(fmt::format("{} sets of options", tried));
}

void refuses_what_it_does_not_understand(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  if (auto s = open.subject->set_input(0); !s.ok()) return findings.fail(s.error());
  for (const auto& [what, call] : open.subject->calls_with_unknown_bits()) {
    const auto status = across(call);
    if (status.ok()) {
      findings.fail(
          fmt::format("{} with an unknown bit in must_understand: expected MOE_UNIMPLEMENTED, got MOE_OK", what));
    } else if (status.error().code != MOE_UNIMPLEMENTED) {
      findings.fail(
          fmt::format("{} with an unknown bit in must_understand: expected MOE_UNIMPLEMENTED, got status {}: {}", what,
                      status.error().code, status.error().message));
    }
  }
}

void says_what_is_wrong(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  if (auto s = open.subject->set_input(0); !s.ok()) return findings.fail(s.error());
  for (const auto& with_unknown : open.subject->calls_with_unknown_bits()) {
    const auto& what = with_unknown.first;
    const auto& call = with_unknown.second;  // clang 14: a lambda takes no structured binding
    for (const uint32_t capacity : {0U, 1U, 8U, 4096U}) {
      std::vector<char> room(capacity + 64, '\x55');
      if (capacity > 0) room[0] = '\0';
      moe_message message{room.data(), capacity, 0};
      if (across([&](moe_message*) { return call(&message); }).ok()) return;  // another rule says so
      for (size_t i = capacity; i < room.size(); ++i) {
        if (room[i] != '\x55')
          return findings.fail(
              fmt::format("{}: message of capacity {}: expected no write beyond it, got one at {}", what, capacity, i));
      }
      if (capacity == 0) continue;
      const auto end = std::find(room.begin(), room.begin() + capacity, '\0');
      if (end == room.begin() + capacity)
        return findings.fail(
            fmt::format("{}: message of capacity {}: expected a NUL at its end, got none", what, capacity));
      if (capacity > 1 && end == room.begin())
        return findings.fail(fmt::format("{}: expected a message with the error, got none", what));
    }
    (void)across([&](moe_message*) { return call(nullptr); });  // wants no text: must not crash
  }
}

void writes_within_the_room_it_is_given(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  if (const std::string wrong = open.subject->wrong_out_structs(); !wrong.empty()) findings.fail(wrong);
}

void stays_in_its_buffers(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  for (uint32_t which = 0; which < 6; ++which) {
    if (auto got = answer(*open.subject, which); !got.ok()) return findings.fail(got.error());
    if (const std::string wrong = open.subject->violations(); !wrong.empty()) return findings.fail(wrong);
  }
}

void keeps_no_pointer(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  for (uint32_t which = 0; which < 3; ++which) {
    auto got = answer(*open.subject, which);
    if (!got.ok()) return findings.fail(got.error());
    auto want = fresh_answer(*open.kit, which);
    if (!want.ok()) return findings.fail(want.error());
    if (open.claims(MOE_CAP_DETERMINISTIC) && *got != *want)
      return findings.fail(
          "call after a call: expected the answer of a new instance, got another (it may read memory of an earlier "
          "call)");
    open.subject->retire_memory();
  }
  if (const std::string wrong = open.subject->writes_to_retired(); !wrong.empty()) findings.fail(wrong);
}

// Counts what the hot calls of a new instance do; the process has warmed up with another one. A link of the sampler
// chain may allocate in a state's first call.
bool count_hot_calls(const CheckContext& context, Findings& findings, patchbay_hook_counts& counts) {
  if (hooks() == nullptr) {
    findings.skip("nothing is counted under sanitizers");
    return false;
  }
  const Open open(context, findings);
  if (!open) return false;
  for (uint32_t which = 0; which < 3; ++which) {
    if (auto got = answer(*open.subject, which); !got.ok()) return findings.fail(got.error()), false;
  }
  auto other = make_subject(*open.kit);
  if (!other.ok()) return findings.fail(other.error()), false;
  if (auto s = (*other)->create(open.kit->given()); !s.ok()) return findings.fail(s.error()), false;
  counts = {};
  for (uint32_t which = 0; which < 3; ++which) {
    if (auto s = (*other)->set_input(which); !s.ok()) return findings.fail(s.error()), false;
    hooks()->begin();
    const auto status = (*other)->call();
    const patchbay_hook_counts c = hooks()->end();
    if (!status.ok()) return findings.fail(status.error()), false;
    if (which == 0 && open.kit->kind() == "sampler") continue;
    counts.allocations += c.allocations;
    counts.frees += c.frees;
    counts.waits += c.waits;
    counts.files += c.files;
    counts.threads += c.threads;
    if (counts.first == nullptr) counts.first = c.first;
  }
  return true;
}

void hot_call_allocates_nothing(const CheckContext& context, Findings& findings) {
  patchbay_hook_counts c{};
  if (!count_hot_calls(context, findings, c)) return;
  if (c.allocations + c.frees > 0) {
    findings.fail(fmt::format("3 hot calls: expected no allocation, got {} and {} frees (first {})", c.allocations,
                              c.frees, c.first == nullptr ? "?" : c.first));
  }
}

void hot_call_never_waits(const CheckContext& context, Findings& findings) {
  patchbay_hook_counts c{};
  if (!count_hot_calls(context, findings, c)) return;
  if (c.waits + c.files + c.threads > 0) {
    findings.fail(
        fmt::format("3 hot calls: expected no waiting, got {} waits, {} opened files and {} started threads (first {})",
                    c.waits, c.files, c.threads, c.first == nullptr ? "?" : c.first));
  }
}

void hot_call_only_enqueues(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  if (open.subject->stream() == nullptr) return findings.skip("it runs on the host");
  if (open.claims(MOE_CAP_HOST_SYNC)) return findings.skip("MOE_CAP_HOST_SYNC is declared");
  const auto stream = CudaStream::of(open.subject->stream());
  if (stream == nullptr) return findings.skip("no CUDA driver");
  for (uint32_t which = 0; which < 3; ++which) {  // the first call may load kernels
    if (auto got = answer(*open.subject, which); !got.ok()) return findings.fail(got.error());
  }
  if (auto s = open.subject->set_input(0); !s.ok()) return findings.fail(s.error());
  if (auto s = stream->close_gate(); !s.ok()) return findings.fail(s.error());
  const auto status = open.subject->call();
  if (!stream->open_gate())
    findings.fail(fmt::format(
        "hot call on a stream that is held back: expected it to return, got one that waited {} ms for the stream",
        CudaStream::kPatienceMs));
  if (!status.ok()) findings.fail(status.error());
}

void graph_replays_with_other_inputs(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  if (open.subject->stream() == nullptr) return findings.skip("it runs on the host");
  if (!open.claims(MOE_CAP_GRAPH_SAFE)) return findings.skip("MOE_CAP_GRAPH_SAFE is not claimed");
  const auto stream = CudaStream::of(open.subject->stream());
  if (stream == nullptr) return findings.skip("no CUDA driver");
  auto want = fresh_answer(*open.kit, 3);
  if (!want.ok()) return findings.fail(want.error());
  if (auto got = answer(*open.subject, 0); !got.ok()) return findings.fail(got.error());
  if (auto s = open.subject->set_input(0); !s.ok()) return findings.fail(s.error());
  if (auto s = stream->begin_capture(); !s.ok()) return findings.fail(s.error());
  const auto status = open.subject->call();
  const auto captured = stream->end_capture();
  if (!status.ok()) return findings.fail(status.error().in("hot call while it is captured"));
  if (!captured.ok())
    return findings.fail(captured.error().in("MOE_CAP_GRAPH_SAFE: expected a call that can be captured"));
  if (auto s = open.subject->refill(3); !s.ok()) return findings.fail(s.error());
  if (auto s = stream->replay(); !s.ok()) return findings.fail(s.error());
  if (open.claims(MOE_CAP_DETERMINISTIC) && open.subject->output() != *want)
    findings.fail("a graph of the call, replayed with other inputs: expected the bits of a direct call, got others");
}

void same_input_same_bits(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  if (!open.claims(MOE_CAP_DETERMINISTIC)) return findings.skip("MOE_CAP_DETERMINISTIC is not claimed");
  for (const uint32_t which : {0U, 1U}) {
    auto first = fresh_answer(*open.kit, which);
    if (!first.ok()) return findings.fail(first.error());
    auto second = fresh_answer(*open.kit, which);
    open.kit->host().limit_threads(1);
    auto on_one_thread = fresh_answer(*open.kit, which);
    open.kit->host().limit_threads(Kit::kThreads);
    if (!second.ok() || *second != *first)
      return findings.fail("the same call again: expected the same bits, got others");
    if (!on_one_thread.ok() || *on_one_thread != *first)
      return findings.fail(
          fmt::format("the same call on 1 thread instead of {}: expected the same bits, got others", Kit::kThreads));
  }
}

void instances_share_nothing(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  if (!open.claims(MOE_CAP_DETERMINISTIC)) return findings.skip("MOE_CAP_DETERMINISTIC is not claimed");
  constexpr uint32_t kCalls = 4;
  std::vector<std::vector<uint8_t>> want;
  for (uint32_t which = 0; which < kCalls; ++which) {
    auto got = fresh_answer(*open.kit, which);
    if (!got.ok()) return findings.fail(got.error());
    want.push_back(std::move(got).value());
  }
  auto made = make_subject(*open.kit);
  if (!made.ok()) return findings.fail(made.error());
  Subject& other = **made;
  if (auto s = other.create(open.kit->given()); !s.ok()) return findings.fail(s.error().in("a second instance"));
  for (uint32_t which = 0; which < kCalls; ++which) {
    auto a = answer(*open.subject, which);
    auto b = answer(other, kCalls - 1 - which);
    if (!a.ok() || *a != want[which] || !b.ok() || *b != want[kCalls - 1 - which])
      return findings.fail("two instances in turn: expected the answers of each alone, got others");
  }
  if (!open.claims(MOE_CAP_REENTRANT)) return;
  bool right[2] = {true, true};
  const auto repeat = [&](Subject& subject, bool& good) {
    const HostCode mine;
    for (uint32_t i = 0; i < 50 && good; ++i) {
      auto got = answer(subject, i % kCalls);
      good = got.ok() && *got == want[i % kCalls];
    }
  };
  std::thread second([&] { repeat(other, right[1]); });
  repeat(*open.subject, right[0]);
  second.join();
  if (!right[0] || !right[1])
    findings.fail("two instances at the same time (MOE_CAP_REENTRANT): expected the answers of each alone, got others");
}

void frees_what_it_allocates(const CheckContext& context, Findings& findings) {
  if (hooks() == nullptr) return findings.skip("the sanitizers find leaks");
  const Open open(context, findings, false);
  if (!open) return;
  int64_t before = 0;
  constexpr int kWarm = 3;
  constexpr int kCycles = 20;
  for (int i = 0; i < kWarm + kCycles; ++i) {
    if (i == kWarm) before = hooks()->live_blocks();
    open.kit->close_compute();
    if (auto got = fresh_answer(*open.kit, 0); !got.ok()) return findings.fail(got.error());
    open.kit->close_compute();
  }
  const int64_t left = hooks()->live_blocks() - before;
  if (left >= kCycles)
    findings.fail(fmt::format("{} times create, call, destroy: expected nothing to be left, got {} blocks of memory",
                              kCycles, left));
}

void out_of_memory_becomes_a_status(const CheckContext& context, Findings& findings) {
  if (hooks() == nullptr) return findings.skip("allocations cannot be made to fail under sanitizers");
  const Open open(context, findings, false);
  if (!open) return;
  if (auto s = open.subject->create_only(open.kit->given()); !s.ok()) return findings.fail(s.error());
  constexpr int64_t kMost = 500;
  int64_t n = 0;
  for (; n < kMost; ++n) {
    hooks()->begin();
    hooks()->fail_allocation(n);
    const auto status = open.subject->create_only(open.kit->given());
    hooks()->fail_allocation(-1);
    if (hooks()->end().allocations <= n) break;  // it needs no more than n
    if (!status.ok() && status.error().code != MOE_RESOURCE_EXHAUSTED) {
      return findings.fail(
          fmt::format("create, allocation {} fails: expected MOE_RESOURCE_EXHAUSTED, got status {}: {}", n,
                      status.error().code, status.error().message));
    }
  }
  findings.note(fmt::format("{} allocations in create", n));
}

size_t n_threads() {
  size_t n = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) n += task.is_directory() ? 1 : 0;
  return n;
}

// Threads that creating a subject and calling it once leave or start.
moe::Result<int64_t> threads_started(const Open& open) {
  const auto before = static_cast<int64_t>(n_threads());
  if (hooks() != nullptr) hooks()->begin();
  moe::Status status = open.subject->create(open.kit->given());
  if (status.ok()) status = open.subject->set_input(0);
  if (status.ok()) status = open.subject->call();
  const int64_t started = hooks() != nullptr ? hooks()->end().threads : 0;
  if (!status.ok()) return status.error();
  return std::max(started, static_cast<int64_t>(n_threads()) - before);
}

void starts_no_threads(const CheckContext& context, Findings& findings) {
  const Open open(context, findings, false);
  if (!open) return;
  auto started = threads_started(open);
  // With the first kernel a device's driver starts threads of its own: then the second time counts.
  if (started.ok() && open.subject->stream() != nullptr) {
    open.subject->destroy();
    started = threads_started(open);
  }
  if (!started.ok()) return findings.fail(started.error());
  if (open.kit->kind() == "backend") return findings.skip("a device's driver may have threads of its own");
  if (*started > 0) {
    findings.fail(fmt::format("create and call: expected no thread of its own (moe_host.parallel_for has them), got {}",
                              *started));
  }
}

void calls_the_host_by_its_rules(const CheckContext& context, Findings& findings) {
  const Open open(context, findings);
  if (!open) return;
  for (uint32_t which = 0; which < 3; ++which) {
    if (auto got = answer(*open.subject, which); !got.ok()) return findings.fail(got.error());
  }
  open.subject->destroy();
  for (const auto& violation : open.kit->host().violations()) findings.fail(violation);
}

}  // namespace

std::unique_ptr<Kit> open_kit(const CheckContext& context, Findings& findings) {
  auto kit = Kit::open(context);
  if (kit.ok()) return std::move(kit).value();
  findings.fail(kit.error());
  return nullptr;
}

std::string unable_here(const Kit& kit) {
  if (kit.kind() != "backend" || kit.header().get_extension == nullptr) return "";
  const auto* score = static_cast<const moe_backend_score*>(kit.header().get_extension(MOE_BACKEND_SCORE_ID));
  moe::MessageBuffer why;
  if (score == nullptr || score->score(why.get()) != 0) return "";
  return "it cannot run on this machine: " + why.text();
}

moe::Result<std::unique_ptr<Subject>> make_subject(Kit& kit) {
  if (kit.kind() == "router") return make_router_subject(kit);
  if (kit.kind() == "expert") return make_expert_subject(kit);
  if (kit.kind() == "sampler") return make_sampler_subject(kit);
  if (kit.kind() == "backend") return make_backend_subject(kit);
  return make_transport_subject(kit);
}

void append_lifecycle_checks(std::vector<Check>& checks) {
  checks.insert(checks.end(),
                {{"options_work_as_described", "every value that the option table allows works or is refused by name",
                  options_work_as_described},
                 {"refuses_what_it_does_not_understand", "an unknown bit of must_understand is refused, never ignored",
                  refuses_what_it_does_not_understand},
                 {"says_what_is_wrong", "every refusal has a message, within the room for it", says_what_is_wrong},
                 {"out_of_memory_becomes_a_status", "no allocation that fails crosses the boundary as an exception",
                  out_of_memory_becomes_a_status}});
}

void append_general_checks(std::vector<Check>& checks) {
  append_lifecycle_checks(checks);
  checks.insert(
      checks.end(),
      {{"writes_within_the_room_it_is_given", "structs that it fills are no larger than the host's",
        writes_within_the_room_it_is_given},
       {"stays_in_its_buffers", "nothing is written beside the outputs, and no input changes", stays_in_its_buffers},
       {"keeps_no_pointer", "memory of one call is not used by the next", keeps_no_pointer},
       {"hot_call_allocates_nothing", "the hot call allocates and frees nothing", hot_call_allocates_nothing},
       {"hot_call_never_waits", "the hot call waits for nothing, opens no file, starts no thread",
        hot_call_never_waits},
       {"hot_call_only_enqueues", "on a device the hot call does not wait for the stream", hot_call_only_enqueues},
       {"graph_replays_with_other_inputs", "a graph of the hot call gives the same bits as the call",
        graph_replays_with_other_inputs},
       {"same_input_same_bits", "deterministic, if it says so, on any number of threads", same_input_same_bits},
       {"instances_share_nothing", "two instances do not disturb each other, at the same time if it says so",
        instances_share_nothing},
       {"frees_what_it_allocates", "create, call and destroy leave nothing behind", frees_what_it_allocates},
       {"starts_no_threads", "it computes on the host's threads", starts_no_threads},
       {"calls_the_host_by_its_rules", "parallel_for is called from compute threads only",
        calls_the_host_by_its_rules}});
}

}  // namespace patchbay::conformance
