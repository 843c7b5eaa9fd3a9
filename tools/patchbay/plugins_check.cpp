// patchbay plugins check: the conformance kit for people and for scripts.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/plugin/registry.hpp"
#include "tools/conformance/check.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

using conformance::CheckOptions;
using conformance::CheckResult;
using nlohmann::json;

struct CheckFlags {
  std::string library;
  std::string plugins;
  std::string backend = "reference";
  std::string golden;
  std::string client;
  std::vector<std::string> only;
  std::vector<std::string> sets;
  int timeout_s = 60;
  bool json = false;
  bool quiet = false;
  bool perf = false;
  // Of check-one.
  std::string kind, component, rule;
};

CheckOptions options_of(const CheckFlags& flags) {
  CheckOptions o;
  std::error_code ec;
  o.library = std::filesystem::canonical(flags.library, ec);
  if (ec) fail(moe::not_found(fmt::format("{}: expected a library, got {}", flags.library, ec.message())));
  o.plugins = flags.plugins.empty() ? default_plugin_dir() : std::filesystem::absolute(flags.plugins, ec);
  o.backend = flags.backend;
  if (!flags.golden.empty()) o.golden = std::filesystem::absolute(flags.golden, ec);
  o.client = flags.client;
  o.only = flags.only;
  o.timeout_ms = flags.timeout_s * 1000;
  for (const auto& set : flags.sets) {
    const size_t equals = set.find('=');
    if (equals == std::string::npos) fail(moe::invalid(fmt::format("--set: expected KEY=VALUE, got \"{}\"", set)));
    o.sets.emplace_back(set.substr(0, equals), set.substr(equals + 1));
  }
  return o;
}

json to_json(const CheckResult& r) {
  constexpr const char* kVerdicts[] = {"passed", "failed", "skipped"};
  return {{"rule", r.kind + "." + r.rule},
          {"component", r.component},
          {"verdict", kVerdicts[r.verdict]},
          {"claim", r.claim},
          {"text", r.text},
          {"seconds", r.seconds}};
}

// One line a rule, under a heading for each component.
class Printer {
 public:
  explicit Printer(bool failures_only) : failures_only_(failures_only) {}
  void operator()(const CheckResult& r) {
    if (failures_only_ && r.verdict != CheckResult::kFailed) return;
    const std::string heading = r.component.empty() ? r.kind : r.kind + " " + r.component;
    if (heading != heading_) fmt::print("{}\n", heading_ = heading);
    constexpr const char* kMarks[] = {"ok     ", "FAILED ", "-      "};
    fmt::print("  {}{:<40} {}\n", kMarks[r.verdict], r.rule, r.claim);
    if (r.verdict != CheckResult::kPassed || !r.text.empty()) fmt::print("  {:<47} {}\n", "", r.text);
    std::fflush(stdout);
  }

 private:
  bool failures_only_;
  std::string heading_;
};

void check(const CheckFlags& flags) {
  const CheckOptions options = options_of(flags);
  Printer print(flags.quiet);
  const auto results = conformance::run_checks(options, program_path(), [&](const CheckResult& r) {
    if (!flags.json) print(r);
  });
  size_t n[3] = {};
  json all = json::array();
  for (const auto& r : results) {
    ++n[r.verdict];
    all.push_back(to_json(r));
  }
  const std::string perf = flags.perf ? conformance::run_perf(options, program_path(), flags.json) : "";
  if (flags.json) {
    json doc = {
        {"library", options.library.string()}, {"passed", n[0]}, {"failed", n[1]}, {"skipped", n[2]}, {"results", all}};
    if (flags.perf) doc["perf"] = json::parse(perf);
    fmt::print("{}\n", doc.dump(2));
  } else {
    fmt::print("{}: {} passed, {} failed, {} do not apply\n{}", options.library.filename().string(), n[0], n[1], n[2],
               perf);
  }
  if (n[1] > 0) throw CLI::RuntimeError(1);
}

void add_shared(CLI::App& command, CheckFlags& flags) {
  command.add_option("--plugins", flags.plugins, "folder of the backends to run on; by default the built-in plugins")
      ->type_name("DIR");
  command.add_option("--backend", flags.backend, "backend that routers and experts run on")->type_name("NAME");
  command.add_option("--golden", flags.golden, "vectors that a router must reproduce")->type_name("FILE");
  command
      .add_option("--client", flags.client, "command of a client of the transport: messages on its stdin and stdout")
      ->type_name("COMMAND");
  command.add_option("--set", flags.sets, "an option of the plugin")->type_name("KEY=VALUE")->allow_extra_args(false);
}

}  // namespace

void add_plugins_check(CLI::App& plugins) {
  auto flags = std::make_shared<CheckFlags>();
  CLI::App* command = plugins.add_subcommand(
      "check", "Run the conformance kit on a library: what every plugin must do, a process for each test");
  command->add_option("file", flags->library, "the library")->required();
  add_shared(*command, *flags);
  command->add_option("--only", flags->only, "rules whose name contains this")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command->add_option("--timeout", flags->timeout_s, "of one test")->check(CLI::Range(1, 3600))->type_name("SECONDS");
  command->add_flag("--json", flags->json, "machine-readable output");
  command->add_flag("--perf", flags->perf,
                    "then measure it: of a backend's operations the share of what the machine can do");
  command->add_flag("--quiet", flags->quiet, "failures only");
  command->callback([flags] { check(*flags); });

  auto one = std::make_shared<CheckFlags>();
  CLI::App* child = plugins.add_subcommand("check-one", "One test, in this process (what `check` starts)");
  child->group("");  // not for people
  child->add_option("file", one->library)->required();
  child->add_option("kind", one->kind)->required();
  child->add_option("component", one->component)->required();
  child->add_option("rule", one->rule)->required();
  add_shared(*child, *one);
  child->callback([one] {
    const CheckOptions options = options_of(*one);
    const int code = conformance::run_one_check(options, one->kind, one->component, one->rule);
    if (code != 0) throw CLI::RuntimeError(code);
  });
}

}  // namespace patchbay
