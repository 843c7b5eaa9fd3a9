// Libraries that cannot be plugins: refused by name and reason, and the host goes on.
#include <gtest/gtest.h>

#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;

const fs::path kBuilt = PATCHBAY_BINARY_DIR "/tests/e2e_plugins";

struct Broken {
  const char* name;
  const char* reason;  // what the message must say
};

class BrokenPlugin : public ::testing::TestWithParam<Broken> {
 protected:
  // A folder with that one library in it.
  void SetUp() override {
    const std::string name = GetParam().name;
    library_ = dir_ / (name + ".so");
    if (name == "text_file") {
      write_text(library_, "this is no library\n");
    } else if (name ==
               "cut_off") {  // one page: the loader maps what is not there, an error or a bus error, in the child
      const std::string whole = read_text(PATCHBAY_BINARY_DIR "/lib/patchbay/plugins/router_topk.so");
      ASSERT_GT(whole.size(), 4096U);
      write_text(library_, whole.substr(0, 4096));
    } else {
      fs::copy_file(kBuilt / (name + ".so"), library_);
    }
  }
  [[nodiscard]] std::string paths() const { return "plugins.paths=[\"" + dir_.path().string() + "\"]"; }

  ScratchDir dir_;
  std::string library_;
};

TEST_P(BrokenPlugin, is_listed_as_refused_with_the_reason) {
  const auto result = run_program({"plugins", "list", "--set", paths()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const size_t at = result.out.find("refused: " + library_);
  ASSERT_NE(at, std::string::npos) << result.out;
  const std::string line = result.out.substr(at, result.out.find('\n', at) - at);
  EXPECT_NE(line.find(GetParam().reason), std::string::npos) << line;
  EXPECT_NE(result.out.find("topk"), std::string::npos) << "the good ones are listed too";
}

TEST_P(BrokenPlugin, beside_a_good_router_harms_nobody) {
  const auto result = run_program({"run", "--quiet", "--json", "--backend", "cpu", "--model",
                                   fixture_dir("mixtral").string(), "--max-tokens", "3", "--ignore-end",
                                   "--prompt-ids=[5,6,7]", "--set", paths(), "--set", "router.plugin=\"topk\""});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  ASSERT_TRUE(doc.ok()) << result.out;
  EXPECT_EQ(doc->at("ids").size(), 3U);
}

TEST_P(BrokenPlugin, when_named_is_fatal_by_name_with_the_reason) {
  const std::string quoted = std::string("\"").append(GetParam().name).append("\"");
  const auto result =
      run_program({"run", "--quiet", "--backend", "cpu", "--model", fixture_dir("mixtral").string(), "--max-tokens",
                   "3", "--prompt-ids=[5,6,7]", "--set", paths(), "--set", "router.plugin=" + quoted});
  expect_one_clear_error(result, {quoted, library_, GetParam().reason, dir_.path().string()});
}

const auto kByName = [](const auto& test) { return std::string(test.param.name); };

INSTANTIATE_TEST_SUITE_P(Kinds, BrokenPlugin,
                         ::testing::Values(Broken{"text_file", "cannot be loaded"}, Broken{"cut_off", "loaded"},
                                           Broken{"no_symbol", "symbol moe_plugin_v1: expected it to be exported"},
                                           Broken{"next_major", "expected major version 1, got 2"},
                                           Broken{"abi_major_2", "expected major version 1, got 2"},
                                           Broken{"crashes", "crashed while it was loaded"},
                                           Broken{"hangs", "did not load within"}),
                         kByName);

}  // namespace
}  // namespace patchbay::e2e
