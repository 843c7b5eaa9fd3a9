// The conformance kit: what every plugin must do, as a list of rules with a test each. `patchbay plugins check` runs
// them, each in a process of its own with a timeout, so that a plugin that crashes, hangs or ends the process fails one
// test and nothing else.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/plugin/options.hpp"

namespace patchbay::conformance {

// What the person who checks has to say about it.
struct CheckOptions {
  std::filesystem::path library;      // absolute
  std::filesystem::path plugins;      // folder of the backends that routers and experts are run on
  std::string backend = "reference";  // which of them
  std::filesystem::path golden;       // vectors of routers (see router_golden.cpp); empty: none
  std::string client;  // command of a transport's client (see transport_client.hpp); empty: by its address
  std::vector<std::pair<std::string, std::string>>
      sets;                       // options by key, as text: where a table has no default, or for another one
  std::vector<std::string> only;  // rules (kind.rule) that contain one of these; empty: all
  int timeout_ms = 60000;         // of one test
};

// What a test found. A test may fail for several reasons; it goes on as long as that makes sense.
class Findings {
 public:
  // Worded "subject: expected X, got Y". Only the first of many is kept, with how many there were.
  void fail(const std::string& text) {
    if (failures_.size() < kMost) failures_.push_back(text);
    ++n_failures_;
  }
  void fail(const moe::Error& error) { fail(error.message); }
  // The test does not apply, and why.
  void skip(const std::string& why) { skipped_ = why; }
  // What is worth knowing though it is right.
  void note(const std::string& text) { note_ = text; }

  [[nodiscard]] bool failed() const { return n_failures_ > 0; }
  [[nodiscard]] size_t n_failures() const { return n_failures_; }
  [[nodiscard]] const std::vector<std::string>& failures() const { return failures_; }
  [[nodiscard]] const std::string& skipped() const { return skipped_; }
  [[nodiscard]] const std::string& note() const { return note_; }

 private:
  static constexpr size_t kMost = 3;
  std::vector<std::string> failures_;
  size_t n_failures_ = 0;
  std::string skipped_;
  std::string note_;
};

// What a test is given.
struct CheckContext {
  const CheckOptions& options;
  std::string kind;       // "library", "router", ...
  std::string component;  // its name; empty for the library itself
};

struct Check {
  const char* rule;   // unique within its kind: "plan_is_legal"
  const char* claim;  // what holds of a right plugin, for people: "ids are distinct and of the layer's experts, ..."
  std::function<void(const CheckContext&, Findings&)> run;
};

// The tests of a kind ("library", "router", ...), in the order in which they are run.
std::span<const Check> checks_of(const std::string& kind);

struct CheckResult {
  enum Verdict { kPassed, kFailed, kSkipped } verdict = kPassed;
  std::string kind;
  std::string component;
  std::string rule;
  std::string claim;
  std::string text;  // why it failed or was skipped, or what is worth knowing
  double seconds = 0;
};

// The parent's side: runs the tests of a library and of each of its components, and tells of each when it is done.
std::vector<CheckResult> run_checks(const CheckOptions& options, const std::filesystem::path& program,
                                    const std::function<void(const CheckResult&)>& done);

// The same for figures: the hot call of each component, as text for people or JSON.
std::string run_perf(const CheckOptions& options, const std::filesystem::path& program, bool json);

// The child's side: runs one test (or, as rule "perf", the measurement) and writes what it found to file descriptor
// kResultFd.
inline constexpr int kResultFd = 3;
int run_one_check(const CheckOptions& options, const std::string& kind, const std::string& component,
                  const std::string& rule);

}  // namespace patchbay::conformance
