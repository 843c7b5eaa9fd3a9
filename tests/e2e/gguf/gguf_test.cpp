// Models as GGUF through the program: the golden checkpoints in llama.cpp's layout, and a file that the package gguf
// wrote.
#include <gtest/gtest.h>

#include "tests/e2e/gguf/gguf_layout.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kFixtures[] = {"deepseek_v2", "deepseek_v2_grouped", "deepseek_v3", "gpt_oss", "mixtral",
                                     "olmoe",       "qwen2_moe",           "qwen3_moe"};
const fs::path kTiny = fs::path(PATCHBAY_SOURCE_DIR) / "tests/data/gguf/tiny.gguf";

json greedy_ids(const fs::path& model, const std::string& backend, const json& ids, const std::string& n_tokens) {
  const auto result =
      run_program({"run", "--quiet", "--json", "--backend", backend, "--model", model.string(), "--temperature", "0",
                   "--ignore-end", "--max-tokens", n_tokens, "--prompt-ids=" + ids.dump()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  return doc.ok() ? doc->at("ids") : json();
}

class Gguf : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(Gguf, gives_the_logits_and_the_text_of_the_reference_implementation) {
  const auto& [name, backend] = GetParam();
  const fs::path fixture = fixture_dir(name);
  const json expected = json_file(fixture / "expected.json");
  const ScratchDir dir;
  GgufFromFixture::write(fixture, dir / "model.gguf", {});
  const LogitsRun run = run_logits(dir / "model.gguf", expected.at("input_ids"), {"--backend", backend});
  EXPECT_TRUE(logits_agree(run.logits, read_npy(fixture / "expected_logits.npy")));
  EXPECT_EQ(greedy_ids(dir / "model.gguf", backend, expected.at("input_ids"), "24"), expected.at("greedy"));
}

INSTANTIATE_TEST_SUITE_P(Architectures, Gguf,
                         ::testing::Combine(::testing::ValuesIn(kFixtures), ::testing::Values("reference", "cpu")),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" + std::get<1>(test.param);
                         });

// The golden weights are bf16, so that a file of this type holds the same numbers.
TEST(GgufLayouts, bf16_parts_and_a_whole_kv_b_give_the_same_logits) {
  const std::pair<const char*, GgufLayout> cases[] = {{"deepseek_v3", {"bf16", true, 1}},
                                                      {"deepseek_v2_grouped", {"f32", true, 1}},
                                                      {"mixtral", {"bf16", false, 3}},
                                                      {"gpt_oss", {"bf16", false, 2}}};
  for (const auto& [name, layout] : cases) {
    const fs::path fixture = fixture_dir(name);
    const ScratchDir dir;
    GgufFromFixture::write(fixture, dir / "model.gguf", layout);
    // A folder with one model is that model, also in parts.
    const LogitsRun run =
        run_logits(dir.path(), json_file(fixture / "expected.json").at("input_ids"), {"--backend", "cpu"});
    EXPECT_TRUE(logits_agree(run.logits, read_npy(fixture / "expected_logits.npy"))) << name;
  }
}

TEST(GgufOfThePackage, gives_the_logits_and_the_text_of_the_reference_implementation) {
  const json expected = json_file(kTiny.parent_path() / "tiny.json");
  const auto want = expected.at("last_logits").get<std::vector<float>>();
  for (const char* backend : {"reference", "cpu"}) {
    const LogitsRun run = run_logits(kTiny, expected.at("input_ids"), {"--backend", backend});
    ASSERT_GE(run.logits.size(), want.size());
    EXPECT_TRUE(logits_agree({run.logits.end() - static_cast<std::ptrdiff_t>(want.size()), run.logits.end()}, want))
        << backend;
    EXPECT_EQ(greedy_ids(kTiny, backend, expected.at("input_ids"), "16"), expected.at("greedy")) << backend;
  }
}

// More architectures and rotary scalings: small checkpoints as the package writes them, against what the reference
// implementation made of the checkpoint.
std::vector<std::string> package_models() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kTiny.parent_path() / "models")) names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}

class GgufModel : public ::testing::TestWithParam<std::tuple<std::string, const char*>> {};

TEST_P(GgufModel, of_the_package_gives_the_logits_and_the_text_of_the_reference_implementation) {
  const auto& [name, backend] = GetParam();
  const fs::path file = kTiny.parent_path() / "models" / (name + ".gguf");
  const fs::path checkpoint = fs::path(PATCHBAY_SOURCE_DIR) / "tests/data/models" / name;
  const json expected = json_file(checkpoint / "expected.json");
  const LogitsRun run = run_logits(file, expected.at("input_ids"), {"--backend", backend});
  EXPECT_TRUE(logits_agree(run.logits, read_npy(checkpoint / "expected_logits.npy")));
  const json& greedy = expected.at("greedy");
  EXPECT_EQ(greedy_ids(file, backend, expected.at("input_ids"), std::to_string(greedy.size())), greedy);
}

INSTANTIATE_TEST_SUITE_P(Architectures, GgufModel,
                         ::testing::Combine(::testing::ValuesIn(package_models()),
                                            ::testing::Values("reference", "cpu")),
                         [](const auto& test) { return std::get<0>(test.param) + "_" + std::get<1>(test.param); });

TEST(GgufOfThePackage, its_tokenizer_and_chat_template_are_used) {
  const auto result =
      run_program({"run", "--quiet", "--json", "--model", kTiny.string(), "--max-tokens", "1", "--chat", "the expert"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  ASSERT_TRUE(doc.ok());
  const json expected = json_file(kTiny.parent_path() / "tiny.json");
  EXPECT_EQ(doc->at("prompt_tokens"), expected.at("chat").at("ids").size()) << result.out;
}

TEST(GgufErrors, a_model_that_no_architecture_file_reads_is_named_with_the_nearest) {
  const ScratchDir dir;
  const auto error = [&](const GgufWriter::Metadata& metadata) {
    auto writer = GgufWriter::create(dir / "model.gguf", metadata, {});
    EXPECT_TRUE(writer.ok() && writer->finish().ok());
    return run_program({"run", "--quiet", "--model", dir / "model.gguf", "--prompt-ids=[1]"}).err;
  };
  EXPECT_NE(error({{"general.architecture", std::string("olmo")}}).find("got olmo (did you mean \"olmoe\"?)"),
            std::string::npos);
  EXPECT_NE(
      error({{"general.architecture", std::string("llama")}}).find("mixtral is for those with (expert_count ?? 0) > 0"),
      std::string::npos);
  EXPECT_NE(error({}).find("metadata \"general.architecture\": expected a name, got none"), std::string::npos);
  EXPECT_NE(error({{"general.architecture", std::string("olmoe")}})
                .find("gguf.config.hidden_size: \"embedding_length\": column 1"),
            std::string::npos);
}

}  // namespace
}  // namespace patchbay::e2e
