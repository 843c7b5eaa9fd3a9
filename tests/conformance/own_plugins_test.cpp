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

TEST(Check, a_missing_library_is_named) {
  expect_one_clear_error(run_program({"plugins", "check", "/nowhere/x.so"}), {"/nowhere/x.so"});
}

}  // namespace
}  // namespace patchbay::e2e
