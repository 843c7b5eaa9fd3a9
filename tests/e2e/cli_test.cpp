// The command line: one clear line for whatever is wrong, the promised exit codes, and the model that comes with
// Patchbay.
#include <gtest/gtest.h>

#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;

const std::string kQuickstart = PATCHBAY_SOURCE_DIR "/configs/quickstart/model";

// `run` of a golden checkpoint with more flags.
ProgramResult run_model(const std::string& model, std::vector<std::string> flags = {}) {
  std::vector<std::string> arguments = {
      "run", "--quiet", "--model", model, "--backend", "cpu", "--max-tokens", "2", "--prompt-ids=[5,6,7]"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  return run_program(arguments);
}

TEST(Faults, a_model_that_is_missing_is_named) {
  expect_one_clear_error(run_model("/nowhere/at/all"), {"/nowhere/at/all", "got nothing"});
}

TEST(Faults, a_plugin_that_is_missing_is_named_with_the_nearest_and_the_paths_searched) {
  expect_one_clear_error(
      run_model(fixture_dir("mixtral"), {"--set", "router.plugin=\"tpok\""}),
      {"router \"tpok\"", "did you mean \"topk\"?", "searched " PATCHBAY_BINARY_DIR "/lib/patchbay/plugins"});
}

TEST(Faults, a_wrong_key_is_reported_with_line_and_column_and_the_nearest_right_one) {
  const ScratchDir dir;
  write_text(dir / "c.toml", "[model]\npath = \"x\"\n[engine]\n  batch_sise = 3\n");
  expect_one_clear_error(run_program({"run", "--config", dir / "c.toml", "--prompt-ids=[1]"}),
                         {dir / "c.toml", "line 4, column ", "\"batch_sise\"", "did you mean \"batch_size\"?"});
}

TEST(Faults, an_option_beside_the_flag_for_the_backend_reaches_that_backend) {
  expect_one_clear_error(run_model(fixture_dir("mixtral"), {"--set", "backend.simd=\"avx3\""}), {"simd", "got \"avx3\""});
}

TEST(Faults, more_experts_a_token_than_there_are_is_refused) {
  expect_one_clear_error(run_model(fixture_dir("mixtral"), {"--set", "router.k=9"}),
                         {"k: expected at most 8", "got 9"});
}

TEST(Faults, a_checkpoint_cut_off_anywhere_is_refused) {
  const ScratchDir dir;
  const std::string whole = read_text(fixture_dir("mixtral") / "model.safetensors");
  fs::copy_file(fixture_dir("mixtral") / "config.json", dir / "config.json");
  ASSERT_GT(whole.size(), 100'000U);
  for (const size_t n :
       {size_t{0}, size_t{7}, size_t{8}, size_t{100}, size_t{20'000}, whole.size() / 2, whole.size() - 1}) {
    write_text(dir / "model.safetensors", whole.substr(0, n));
    SCOPED_TRACE(n);
    expect_one_clear_error(run_model(dir.path()), {dir / "model.safetensors", "expected"});
  }
}

TEST(Faults, nonsense_in_config_json_is_refused_by_name) {
  struct Edit {
    const char* from;
    const char* to;
    const char* part;
  };
  const ScratchDir dir;
  fs::copy_file(fixture_dir("mixtral") / "model.safetensors", dir / "model.safetensors");
  const std::string config = read_text(fixture_dir("mixtral") / "config.json");
  for (const Edit& e :
       {Edit{"\"hidden_size\": 64", "\"hidden_size\": NaN", "line 11, column "},
        Edit{"\"num_local_experts\": 8", "\"num_local_experts\": 0", "n_experts: expected at least 1, got 0"},
        Edit{"\"num_local_experts\": 8", "\"num_local_experts\": 1e300", "n_experts"},
        Edit{"\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 9", "k: expected at most 8"},
        Edit{"\"num_hidden_layers\": 3", "\"num_hidden_layers\": -3", "n_layers"},
        Edit{"\"hidden_size\": 64", "\"hidden_size\": 128", "expected [320, 128]"}}) {
    SCOPED_TRACE(e.to);
    const size_t at = config.find(e.from);
    ASSERT_NE(at, std::string::npos);
    std::string edited = config;
    write_text(dir / "config.json", edited.replace(at, std::string(e.from).size(), e.to));
    expect_one_clear_error(run_model(dir.path()), {e.part});
  }
}

TEST(Usage, wrong_flags_end_with_exit_code_2) {
  for (const std::vector<std::string>& wrong : {std::vector<std::string>{},
                                                {"rnu"},
                                                {"run", "--modle", "x"},
                                                {"run", "--max-tokens", "many"},
                                                {"logits"},
                                                {"plugins"}}) {
    const auto result = run_program(wrong);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_NE(result.err, "");
  }
  EXPECT_EQ(run_program({"--help"}).exit_code, 0);
}

TEST(Signals, an_interrupt_ends_a_run_with_exit_code_0) {
  RunningProgram program(
      {"run", "--model", kQuickstart, "--backend", "reference", "--chat", "Add up 1, 3, 44, 51, 45.", "--ignore-end"});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (program.out().empty() && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ASSERT_NE(program.out(), "") << program.err();
  program.signal(SIGINT);
  EXPECT_EQ(program.wait(std::chrono::seconds(20)).exit_code, 0);
}

class Quickstart : public ::testing::TestWithParam<const char*> {
 protected:
#ifdef PATCHBAY_SANITIZED
  static constexpr int kProblems = 2;  // minutes each with plain loops under a sanitizer
#else
  static constexpr int kProblems = 20;
#endif
  static nlohmann::json eval(std::vector<std::string> flags) {
    std::vector<std::string> arguments = {"eval",
                                          "--model",
                                          kQuickstart,
                                          "--problems",
                                          kQuickstart + "/problems.jsonl",
                                          "--limit",
                                          std::to_string(kProblems),
                                          "--json",
                                          "--backend",
                                          GetParam()};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const auto result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    auto doc = parse_json(result.out);
    EXPECT_TRUE(doc.ok()) << result.out;
    return doc.ok() ? *doc : nlohmann::json{};
  }
};

TEST_P(Quickstart, answers_nine_of_ten_problems_right) {
  const auto doc = eval({});
  ASSERT_EQ(doc.value("total", 0), kProblems);
  EXPECT_GE(doc.value("accuracy", 0.0), 0.9);
}

// Counts decisions, not only answers: in that layer a token has 2 experts, in every other one 4.
TEST_P(Quickstart, one_layer_can_be_given_another_k) {
  const auto doc = eval({"--set", "layer=[{match=\"3\",router={k=2}}]"});
  ASSERT_EQ(doc.value("total", 0), kProblems);
  const auto sum = [&](size_t layer) {
    uint64_t n = 0;
    for (const auto& count : doc.at("expert_tokens").at(layer)) n += count.get<uint64_t>();
    return n;
  };
  EXPECT_GT(sum(2), 0U);
  EXPECT_EQ(2 * sum(2), sum(1));  // the first layer is dense
  EXPECT_EQ(sum(3), sum(1));
}

INSTANTIATE_TEST_SUITE_P(Backends, Quickstart, ::testing::Values("reference", "cpu"),
                         [](const auto& test) { return std::string(test.param); });

TEST(TestRouters, give_any_model_a_load_that_is_known_beforehand) {
  const auto result = run_model(fixture_dir("mixtral"), {"--json", "--set", "router={plugin=\"pattern\",k=2}", "--set",
                                                         "router.pattern=\"fixed\"", "--set", "router.experts=[6,1]"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  ASSERT_TRUE(doc.ok()) << result.out;
  ASSERT_EQ(doc->at("expert_tokens").size(), 3U);
  for (const auto& layer : doc->at("expert_tokens")) {
    ASSERT_EQ(layer.size(), 8U);
    EXPECT_GE(layer[1], 3) << layer;
    for (size_t e = 0; e < 8; ++e) EXPECT_EQ(layer[e], e == 1 || e == 6 ? layer[1] : nlohmann::json(0)) << layer;
  }
}

}  // namespace
}  // namespace patchbay::e2e
