// All of our own plugins, and the templates that authors start from, pass the conformance kit.
#include <gtest/gtest.h>

#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> built_plugins() {
  std::vector<std::string> all;
  for (const auto& e : fs::directory_iterator(PATCHBAY_BINARY_DIR "/lib/patchbay/plugins")) {
    if (e.path().extension() == ".so") all.push_back(e.path().stem().string());
  }
  std::sort(all.begin(), all.end());
  return all;
}

class OwnPlugin : public ::testing::TestWithParam<std::string> {};

TEST_P(OwnPlugin, passes_the_conformance_kit) {
  const ScratchDir dir;
  std::vector<std::string> arguments = {"plugins", "check",
                                        PATCHBAY_BINARY_DIR "/lib/patchbay/plugins/" + GetParam() + ".so", "--quiet"};
  if (GetParam().rfind("router_", 0) == 0)
    arguments.insert(arguments.end(), {"--golden", PATCHBAY_SOURCE_DIR "/tests/data/routers/golden.json"});
  if (GetParam() == "transport_zeromq") arguments.insert(arguments.end(), {"--set", "bind=tcp://127.0.0.1:*"});
  if (GetParam() == "transport_http") arguments.insert(arguments.end(), {"--set", "bind=127.0.0.1:0"});
  const ProgramResult result = RunningProgram(arguments).wait(std::chrono::seconds(250));
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
}

class OwnRouter : public ::testing::TestWithParam<const char*> {};

TEST_P(OwnRouter, with_weights_or_a_state_of_its_own_decides_as_its_formula) {
  const ProgramResult result = run_program(
      {"plugins", "check", PATCHBAY_BINARY_DIR "/lib/patchbay/plugins/router_" + std::string(GetParam()) + ".so",
       "--json", "--golden", PATCHBAY_SOURCE_DIR "/tests/data/routers/levels.json", "--only",
       "matches_its_golden_vectors"});
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
  const auto doc = parse_json(result.out);
  ASSERT_TRUE(doc.ok()) << result.out;
  EXPECT_EQ(doc->at("passed"), 1) << result.out;
}

INSTANTIATE_TEST_SUITE_P(Conformance, OwnRouter,
                         ::testing::Values("attention", "context", "cosine", "expert_attention", "hash", "top_any"),
                         [](const auto& test) { return std::string(test.param); });

INSTANTIATE_TEST_SUITE_P(Conformance, OwnPlugin, ::testing::ValuesIn(built_plugins()),
                         [](const auto& test) { return test.param; });

TEST(OwnPlugins, are_found) { EXPECT_GE(built_plugins().size(), 15U); }

TEST(Check, says_what_passed_in_json) {
  const ProgramResult result =
      run_program({"plugins", "check", PATCHBAY_BINARY_DIR "/lib/patchbay/plugins/router_topk.so", "--json", "--only",
                   "plan_is_legal"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  ASSERT_TRUE(doc.ok()) << result.out;
  EXPECT_EQ(doc->at("passed"), 1);
  EXPECT_EQ(doc->at("failed"), 0);
  EXPECT_EQ(doc->at("results")[0].at("rule"), "router.plan_is_legal");
  EXPECT_EQ(doc->at("results")[0].at("component"), "topk");
}

// Every operation of the ABI, by its name in the header.
std::vector<std::string> operations() {
  const std::string text = read_text(PATCHBAY_SOURCE_DIR "/sdk/include/moe/abi/ops.h");
  const std::string before = "\"moe.op.";
  std::vector<std::string> all;
  for (size_t at = text.find(before); at != std::string::npos; at = text.find(before, at + 1)) {
    const size_t begin = at + before.size();
    all.push_back(text.substr(begin, text.find('/', begin) - begin));
  }
  return all;
}

TEST(Check, perf_gives_the_share_of_the_measured_ceiling_for_every_operation_of_a_backend) {
  const ProgramResult result = run_program({"plugins", "check", PATCHBAY_BINARY_DIR "/lib/patchbay/plugins/cpu.so",
                                            "--perf", "--json", "--only", "declares_itself"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  ASSERT_TRUE(doc.ok()) << result.out;
  const nlohmann::json& perf = doc->at("perf").at(0).at("report");
  EXPECT_NE(perf.at("ceilings").get<std::string>().find("memory reads"), std::string::npos) << perf.dump();
  std::map<std::string, int> measured;
  for (const auto& row : perf.at("rows")) {
    const auto what = row.at("what").get<std::string>();
    ++measured[what.substr(0, what.find(':'))];
    EXPECT_GT(row.at("us").get<double>(), 0) << what;
    EXPECT_GT(row.at("gb_per_second").get<double>(), 0) << what;
    EXPECT_NE(row.at("implementation"), "") << what;
    ASSERT_TRUE(row.at("share").is_number()) << what;
    EXPECT_GT(row.at("share").get<double>(), 0) << what;
  }
  const auto all = operations();
  EXPECT_GE(all.size(), 16U);
  for (const auto& op : all) EXPECT_TRUE(measured.contains(op)) << op;
}

TEST(Check, a_missing_library_is_named) {
  expect_one_clear_error(run_program({"plugins", "check", "/nowhere/x.so"}), {"/nowhere/x.so"});
}

}  // namespace
}  // namespace patchbay::e2e
