// The allow list of plugins: `plugins lock` writes it, and what it does not hold is not loaded.
#include <gtest/gtest.h>

#include "core/plugin/host.hpp"
#include "core/plugin/lock.hpp"
#include "core/plugin/registry.hpp"
#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;

// A configuration whose own folder of plugins holds one router, under another file name than the built-in one.
class Lock : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(dir_.path() / "plugins");
    fs::copy_file(PATCHBAY_BINARY_DIR "/tests/e2e_working/inputs_router.so", router_);
    write_text(config_, "[plugins]\npaths = [\"plugins\"]\nlock = \"plugins.lock\"\n[model]\npath = \"" +
                            fixture_dir("mixtral").string() + "\"\n[router]\nplugin = \"inputs\"\n");
  }
  ProgramResult lock() { return run_program({"plugins", "lock", "--config", config_}); }
  ProgramResult run() {
    return run_program({"run", "--quiet", "--config", config_, "--backend", "reference", "--max-tokens", "2",
                        "--ignore-end", "--prompt-ids=[5,6,7]"});
  }
  // Another file of the same meaning: the loader does not look behind the last section.
  static void append_byte(const std::string& file) { std::ofstream(file, std::ios::binary | std::ios::app) << '!'; }

  ScratchDir dir_;
  const std::string router_ = dir_ / "plugins/mine.so";
  const std::string config_ = dir_ / "run.toml";
  const std::string lock_ = dir_ / "plugins.lock";
};

TEST_F(Lock, what_it_lists_runs) {
  const auto locked = lock();
  ASSERT_EQ(locked.exit_code, 0) << locked.err;
  const std::string text = read_text(lock_);
  EXPECT_NE(text.find("path = \"plugins/mine.so\"\nsha256 = \"" + sha256_of(router_) + "\""), std::string::npos)
      << text;
  EXPECT_NE(text.find("router_topk.so"), std::string::npos) << "the built-in ones are locked too";
  const auto result = run();
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(Lock, without_the_file_nothing_runs) {
  expect_one_clear_error(run(), {lock_, "expected the lock file that plugins.lock names", "patchbay plugins lock"});
}

TEST_F(Lock, a_changed_library_is_refused_with_both_sums) {
  ASSERT_EQ(lock().exit_code, 0);
  const std::string before = sha256_of(router_);
  append_byte(router_);
  expect_one_clear_error(
      run(), {router_, "has changed since it was locked", "expected sha256 " + before, "got " + sha256_of(router_)});
  const auto listed = run_program({"plugins", "list", "--config", config_});
  EXPECT_NE(listed.out.find("refused: " + router_), std::string::npos) << listed.out;
  ASSERT_EQ(lock().exit_code, 0) << "locked again, it runs again";
  EXPECT_EQ(run().exit_code, 0);
}

TEST_F(Lock, a_library_that_came_later_is_refused) {
  fs::rename(router_, dir_ / "later.so");
  ASSERT_EQ(lock().exit_code, 0);
  fs::rename(dir_ / "later.so", router_);
  expect_one_clear_error(run(), {router_, "is not in " + lock_, "plugins lock"});
}

TEST_F(Lock, the_content_counts_not_the_place) {
  ASSERT_EQ(lock().exit_code, 0);
  fs::rename(router_, dir_ / "plugins/other_name.so");
  const auto result = run();
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(Lock, a_library_replaced_after_it_was_looked_at_is_not_loaded) {
  Host host;
  RegistryOptions options;
  options.search_paths = {dir_.path() / "plugins"};
  options.probe_program = PATCHBAY_BINARY_DIR "/bin/patchbay";
  options.lock = PluginLock(lock_, {{router_, sha256_of(router_), "", ""}});
  const auto registry = PluginRegistry::scan(options, host);
  ASSERT_EQ(registry->names("router").size(), 1U);
  append_byte(router_);
  const auto loaded = registry->router("inputs");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, MOE_PERMISSION_DENIED);
  EXPECT_NE(loaded.error().message.find("has changed since it was locked"), std::string::npos)
      << loaded.error().message;
}

TEST_F(Lock, a_file_that_is_none_is_refused_by_line) {
  const std::string sum(64, 'a');
  for (const auto& [text, said] : std::vector<std::pair<std::string, std::string>>{
           {"[[library]]\npath = \"x\"\nsha256 = \"abc\"\n", "expected 64 hexadecimal digits, got \"abc\""},
           {"[[library]]\npath = \"x\"\nsha256 = \"" + sum + "\"\nsize = 3\n", "size"},
           {"[[library]]\nsha256 = 7\n", "sha256"},
           {"library = \"x\"\n", "library"},
           {"[[library\n", "line 1"}}) {
    write_text(lock_, text);
    expect_one_clear_error(run(), {lock_, said});
  }
}

}  // namespace
}  // namespace patchbay::e2e
