// Every planted fault is reported by the rule that it breaks, and the program survives those that do not take the
// process down.
#include <gtest/gtest.h>

#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {
namespace {

struct Fault {
  const char* name;
  const char* rule;  // of the conformance kit
  const char* says;  // what its text says
  bool deadly;       // takes the process down, or spoils memory that is not its own
};
void PrintTo(const Fault& fault, std::ostream* out) { *out << fault.name; }
const Fault kFaults[] = {
#include "planted_faults.inc"
};

std::string library_of(const Fault& fault) {
  return std::string(PATCHBAY_BINARY_DIR "/tests/faults/") + fault.name + ".so";
}

// What the kit found, by rule.
std::map<std::string, nlohmann::json> check(const Fault& fault, const ScratchDir& dir) {
  std::vector<std::string> arguments = {"plugins",   "check", library_of(fault), "--json",
                                        "--timeout", "3",     "--only",          fault.rule};
  const std::string rule = fault.rule;
  if (rule == "library.prints_nothing" || rule == "library.stops_exceptions")
    arguments.insert(arguments.end(), {"--only", "router.plan_is_legal"});
  if (rule.rfind("transport.", 0) == 0) arguments.insert(arguments.end(), {"--set", "path=" + (dir / "socket")});
  const ProgramResult result = run_program(arguments);
  EXPECT_EQ(result.exit_code, 1) << result.out << result.err;
  std::map<std::string, nlohmann::json> found;
  const auto doc = parse_json(result.out);
  EXPECT_TRUE(doc.ok()) << result.out;
  if (!doc.ok()) return found;
  for (const auto& r : doc->at("results")) found[r.at("rule").get<std::string>()] = r;
  return found;
}

class PlantedFault : public ::testing::TestWithParam<Fault> {
 protected:
  ScratchDir dir_;
};

TEST_P(PlantedFault, is_caught_by_name) {
  const auto found = check(GetParam(), dir_);
  const auto it = found.find(GetParam().rule);
  ASSERT_NE(it, found.end()) << "the kit has not run " << GetParam().rule;
  EXPECT_EQ(it->second.at("verdict"), "failed") << it->second.dump();
  const auto text = it->second.at("text").get<std::string>();
  EXPECT_NE(text.find(GetParam().says), std::string::npos) << text;
}

// A model with the broken plugin in it: the host neither crashes nor hangs, and an error names who it was.
TEST_P(PlantedFault, does_not_take_the_host_down) {
  const std::string rule = GetParam().rule;
  const std::string kind = rule.substr(0, rule.find('.'));
  if (GetParam().deadly) GTEST_SKIP() << "takes the process with it";
  if (kind == "transport" || std::string(GetParam().name) == "draws_askew") GTEST_SKIP() << "not part of a model";
  std::filesystem::copy_file(library_of(GetParam()), dir_ / "plugin.so");
  const std::string part = kind == "library" ? "router" : kind;
  const std::string name = "my_" + part;
  std::vector<std::string> arguments = {"run",
                                        "--quiet",
                                        "--json",
                                        "--model",
                                        fixture_dir("mixtral").string(),
                                        "--max-tokens",
                                        "3",
                                        "--ignore-end",
                                        "--prompt-ids=[5,6,7]",
                                        "--set",
                                        "plugins.paths=[\"" + dir_.path().string() + "\"]"};
  if (part == "sampler") {
    arguments.insert(arguments.end(), {"--set", "sampler=[{plugin=\"my_sampler\"}, {plugin=\"pick\"}]"});
  } else {
    arguments.insert(arguments.end(), {"--set", part + ".plugin=\"" + name + "\""});
  }
  if (part != "backend") arguments.insert(arguments.end(), {"--backend", "cpu"});
  const ProgramResult result = run_program(arguments);
  EXPECT_TRUE(result.exit_code == 0 || result.exit_code == 1) << "exit code " << result.exit_code << ": " << result.err;
  if (result.exit_code == 1) {
    EXPECT_TRUE(result.err.find(name) != std::string::npos || result.out.find(name) != std::string::npos)
        << result.out << result.err;
  }
}

const auto kByName = [](const auto& test) { return std::string(test.param.name); };
INSTANTIATE_TEST_SUITE_P(Conformance, PlantedFault, ::testing::ValuesIn(kFaults), kByName);

TEST(PlantedFaults, are_enough_and_of_every_kind) {
  std::map<std::string, int> by_kind;
  for (const auto& f : kFaults) ++by_kind[std::string(f.rule).substr(0, std::string(f.rule).find('.'))];
  EXPECT_GE(std::size(kFaults), 20U);
  for (const char* kind : {"library", "router", "expert", "sampler", "backend", "transport"})
    EXPECT_GT(by_kind[kind], 0) << kind;
}

}  // namespace
}  // namespace patchbay::e2e
