// Each test in a process of its own: `program plugins check-one LIBRARY KIND COMPONENT RULE`, with the hooks loaded
// first, its outputs caught, a time limit, and what it found on a pipe.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "core/model/json/json.hpp"
#include "core/plugin/elf.hpp"
#include "core/plugin/probe.hpp"
#include "tools/conformance/checks.hpp"
#include "tools/conformance/compute.hpp"
#include "tools/conformance/perf.hpp"

extern char** environ;

namespace patchbay::conformance {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

std::string hooks_file(const std::filesystem::path& program) {
  const auto file = program.parent_path().parent_path() / "lib/patchbay/conformance_hooks.so";
  return std::filesystem::exists(file) ? file.string() : "";  // not there in a build with sanitizers
}

std::vector<std::string> child_arguments(const CheckOptions& o, const std::filesystem::path& program,
                                         const std::string& kind, const std::string& component,
                                         const std::string& rule) {
  std::vector<std::string> a = {program.string(), "plugins", "check-one", o.library.string(), kind, component, rule};
  a.insert(a.end(), {"--plugins", o.plugins.string(), "--backend", o.backend});
  if (!o.golden.empty()) a.insert(a.end(), {"--golden", o.golden.string()});
  if (!o.client.empty()) a.insert(a.end(), {"--client", o.client});
  for (const auto& [key, value] : o.sets) a.insert(a.end(), {"--set", key + "=" + value});
  return a;
}

// What a child left behind.
struct Ended {
  bool started = false;
  bool timed_out = false;
  int status = 0;
  std::string result;   // what it wrote to kResultFd
  std::string printed;  // to stdout and stderr
};

std::string all_of(int fd) {
  std::string out;
  char buffer[4096];
  lseek(fd, 0, SEEK_SET);
  for (ssize_t n = read(fd, buffer, sizeof(buffer)); n > 0 && out.size() < (size_t{1} << 16);
       n = read(fd, buffer, sizeof(buffer)))
    out.append(buffer, static_cast<size_t>(n));
  return out;
}

// Waits for the child, at most so long; then it and what it started is killed.
void wait_for(pid_t pid, int timeout_ms, Ended& ended) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  auto nap = std::chrono::microseconds(200);
  while (waitpid(pid, &ended.status, WNOHANG) == 0) {
    if (Clock::now() > deadline) {
      ended.timed_out = true;
      kill(-pid, SIGKILL);
      waitpid(pid, &ended.status, 0);
      return;
    }
    usleep(static_cast<useconds_t>(nap.count()));
    nap = std::min(nap * 2, std::chrono::microseconds(5000));
  }
}

Ended run_child(std::vector<std::string> arguments, const std::string& preload, int timeout_ms) {
  Ended ended;
  const int result = memfd_create("result", MFD_CLOEXEC);
  const int printed = memfd_create("printed", MFD_CLOEXEC);
  if (result < 0 || printed < 0) return ended;
  std::vector<char*> argv;
  for (auto& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (char** e = environ; *e != nullptr; ++e) {
    if (std::strncmp(*e, "LD_PRELOAD=", 11) != 0 || preload.empty()) variables.emplace_back(*e);
  }
  if (!preload.empty()) variables.push_back("LD_PRELOAD=" + preload);
  std::vector<char*> envp;
  for (auto& v : variables) envp.push_back(v.data());
  envp.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, printed, 1);
  posix_spawn_file_actions_adddup2(&actions, printed, 2);
  posix_spawn_file_actions_adddup2(&actions, result, kResultFd);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  pid_t pid = 0;
  ended.started = posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), envp.data()) == 0;
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (ended.started) wait_for(pid, timeout_ms, ended);
  ended.result = all_of(result);
  ended.printed = all_of(printed);
  close(result);
  close(printed);
  return ended;
}

bool wanted(const CheckOptions& options, const std::string& name) {
  const auto has = [&](const std::string& part) { return name.find(part) != std::string::npos; };
  return options.only.empty() || std::any_of(options.only.begin(), options.only.end(), has);
}

// Findings that are no one test's: what was printed, what came across the boundary as an exception.
struct Overall {
  std::string printed;
  std::string escaped;
};

CheckResult judge(const Ended& ended, const Check& check, const std::string& kind, const std::string& component,
                  int timeout_ms, Overall& overall) {
  CheckResult r{CheckResult::kFailed, kind, component, check.rule, check.claim, "", 0};
  auto doc = parse_json(ended.result);
  const bool reported = doc.ok() && doc->is_object() && doc->contains("failures");
  if (!ended.started) {
    r.text = "the test could not be started";
  } else if (ended.timed_out) {
    r.text = fmt::format("did not end within {} ms", timeout_ms);
  } else if (WIFSIGNALED(ended.status)) {
    r.text = fmt::format("crashed ({})", strsignal(WTERMSIG(ended.status)));
  } else if (!reported) {
    r.text = fmt::format("ended the process (exit code {})", WEXITSTATUS(ended.status));
  } else {
    const auto failures = (*doc)["failures"].get<std::vector<std::string>>();
    const auto n = (*doc)["n_failures"].get<size_t>();
    for (const auto& f : failures) {
      if (overall.escaped.empty() && f.find(kEscaped) != std::string::npos)
        overall.escaped = fmt::format("{}.{}: {}", kind, check.rule, f);
    }
    r.verdict = n > 0 ? CheckResult::kFailed : CheckResult::kPassed;
    r.text = n > 0 ? failures.front() : (*doc)["note"].get<std::string>();
    if (n > 1) r.text += fmt::format(" (and {} more)", n - 1);
    if (n == 0 && !(*doc)["skipped"].get<std::string>().empty()) {
      r.verdict = CheckResult::kSkipped;
      r.text = (*doc)["skipped"].get<std::string>();
    }
  }
  if (!ended.printed.empty() && overall.printed.empty())
    overall.printed = fmt::format("{}.{}: \"{}\"", kind, check.rule, ended.printed.substr(0, ended.printed.find('\n')));
  if (!reported && !ended.printed.empty()) r.text += ": " + ended.printed.substr(0, 300);
  return r;
}

}  // namespace

std::span<const Check> checks_of(const std::string& kind) {
  if (kind == "router") return router_checks();
  if (kind == "expert") return expert_checks();
  if (kind == "sampler") return sampler_checks();
  if (kind == "backend") return backend_checks();
  if (kind == "transport") return transport_checks();
  return library_checks();
}

std::vector<CheckResult> run_checks(const CheckOptions& options, const std::filesystem::path& program,
                                    const std::function<void(const CheckResult&)>& done) {
  std::vector<CheckResult> results;
  Overall overall;
  const auto add = [&](CheckResult r) {
    done(r);
    results.push_back(std::move(r));
  };
  const std::string preload = hooks_file(program);
  const auto run_all = [&](const std::string& kind, const std::string& component) {
    for (const Check& check : checks_of(kind)) {
      const std::string name = kind + "." + check.rule;
      if (!wanted(options, name)) continue;
      const auto start = Clock::now();
      const Ended ended =
          run_child(child_arguments(options, program, kind, component, check.rule), preload, options.timeout_ms);
      CheckResult r = judge(ended, check, kind, component, options.timeout_ms, overall);
      r.seconds = std::chrono::duration<double>(Clock::now() - start).count();
      add(std::move(r));
    }
  };
  run_all("library", "");
  const LibrarySummary summary = probe(options.library, program, options.timeout_ms);
  for (const auto& c : summary.components) run_all(c.kind, c.name);
  const auto overall_result = [&](const char* rule, const char* claim, const std::string& found) {
    if (!wanted(options, std::string("library.") + rule)) return;
    add({found.empty() ? CheckResult::kPassed : CheckResult::kFailed, "library", "", rule, claim, found, 0});
  };
  overall_result("prints_nothing", "nothing is written to stdout or stderr: moe_host.log has a place for it",
                 overall.printed);
  overall_result("stops_exceptions", "no exception comes across the boundary", overall.escaped);
  return results;
}

namespace {

int write_findings(const Findings& findings) {
  const json doc = {{"failures", findings.failures()},
                    {"n_failures", findings.n_failures()},
                    {"skipped", findings.skipped()},
                    {"note", findings.note()}};
  const std::string text = doc.dump(-1, ' ', true, json::error_handler_t::replace);
  return write(kResultFd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1;
}

std::string perf_table(const std::string& title, const PerfReport& report) {
  std::string out = fmt::format("{}: {}\n", title, report.ceilings);
  bool above = false;
  for (const auto& r : report.rows) {
    out += fmt::format("  {:<52} {:<14} {:>10.1f} us", r.what, r.implementation, r.us);
    if (r.gbps > 0)
      out += fmt::format(" {:>8.1f} GB/s {:>9.0f} GFLOP/s  {}", r.gbps, r.gflops,
                         r.share < 0 ? "-" : fmt::format("{:.0f} %", r.share * 100));
    out += "\n";
    above = above || r.share > 1;
  }
  if (above) out += "  above 100 %: what it reads lies in the processor's caches, not in memory\n";
  return out;
}

}  // namespace

std::string run_perf(const CheckOptions& options, const std::filesystem::path& program, bool as_json) {
  std::string out;
  json all = json::array();
  for (const auto& c : probe(options.library, program, options.timeout_ms).components) {
    // Without the hooks: they would be measured too.
    const Ended ended =
        run_child(child_arguments(options, program, c.kind, c.name, "perf"), "", 10 * options.timeout_ms);
    const Check check{"perf", "", {}};
    Overall overall;
    const CheckResult r = judge(ended, check, c.kind, c.name, 10 * options.timeout_ms, overall);
    const std::string title = c.kind + " " + c.name;
    auto report =
        r.verdict == CheckResult::kPassed ? perf_from_json(r.text) : moe::Result<PerfReport>(moe::internal(r.text));
    if (!report.ok()) {
      out += fmt::format("{}: {}\n", title, report.error().message);
      all.push_back({{"kind", c.kind}, {"component", c.name}, {"error", report.error().message}});
      continue;
    }
    out += perf_table(title, *report);
    all.push_back({{"kind", c.kind}, {"component", c.name}, {"report", json::parse(to_json(*report))}});
  }
  return as_json ? all.dump() : out;
}

int run_one_check(const CheckOptions& options, const std::string& kind, const std::string& component,
                  const std::string& rule) {
  const HostCode mine;
  Findings findings;
  const CheckContext context{options, kind, component};
  if (rule == "perf") {
    auto report = measure(context);
    if (report.ok()) findings.note(to_json(*report));
    if (!report.ok()) findings.fail(report.error());
    return write_findings(findings);
  }
  bool known = false;
  for (const Check& check : checks_of(kind)) {
    if (rule != check.rule) continue;
    known = true;
    check.run(context, findings);
  }
  if (!known) findings.fail(fmt::format("{}.{}: expected a rule of that name, got none", kind, rule));
  return write_findings(findings);
}

}  // namespace patchbay::conformance
