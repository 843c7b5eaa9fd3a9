// Small checkpoints of every architecture in awkward shapes (tests/data/models) against the reference implementation.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>

#include "core/model/architecture/architecture.hpp"
#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(PATCHBAY_SOURCE_DIR "/tests/data/models")) {
    if (entry.is_directory() && fs::exists(entry.path() / "expected.json")) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}
fs::path model_dir(const std::string& name) { return fs::path(PATCHBAY_SOURCE_DIR "/tests/data/models") / name; }

class SmallModel : public ::testing::TestWithParam<std::tuple<std::string, const char*>> {};

TEST_P(SmallModel, computes_what_the_reference_implementation_does) {
  const auto& [name, backend] = GetParam();
  const fs::path dir = model_dir(name);
  const json expected = json_file(dir / "expected.json");
  const LogitsRun run = run_logits(dir, expected.at("input_ids"), {"--backend", backend});
  EXPECT_TRUE(logits_agree(run.logits, read_npy(dir / "expected_logits.npy")));
  expect_routes(run.routes, expected.at("routes"));
  const json& greedy = expected.at("greedy");
  const auto result = run_program({"run", "--quiet", "--json", "--backend", backend, "--model", dir.string(),
                                   "--temperature", "0", "--ignore-end", "--max-tokens", std::to_string(greedy.size()),
                                   "--prompt-ids=" + expected.at("input_ids").dump()});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  ASSERT_TRUE(doc.ok()) << result.out;
  EXPECT_EQ(doc->at("ids"), greedy);
}

INSTANTIATE_TEST_SUITE_P(Architectures, SmallModel,
                         ::testing::Combine(::testing::ValuesIn(model_names()), ::testing::Values("reference", "cpu")),
                         [](const auto& test) { return std::get<0>(test.param) + "_" + std::get<1>(test.param); });

std::vector<std::string> run_one_token(const fs::path& dir) {
  return {"run", "--backend", "reference", "--model", dir.string(), "--max-tokens", "1", "--prompt-ids=[2,3]"};
}

TEST(SmallModels, layers_that_predict_further_tokens_are_skipped_with_a_note) {
  const auto result = run_program(run_one_token(model_dir("deepseek_v3_fp8")));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("2 tensors under model.layers.1. are skipped"), std::string::npos) << result.err;
}

TEST(SmallModels, fp8_without_its_scales_is_refused) {
  const fs::path dir = fs::path(::testing::TempDir()) / "fp8_without_scales";
  fs::remove_all(dir);
  fs::copy(model_dir("deepseek_v3_fp8"), dir);
  std::ifstream in(dir / "model.safetensors", std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  for (size_t at = bytes.find("_scale_inv"); at != std::string::npos; at = bytes.find("_scale_inv", at))
    bytes.replace(at, 10, "_scale_xyz");
  std::ofstream(dir / "model.safetensors", std::ios::binary) << bytes;
  const auto result = run_program(run_one_token(dir));
  EXPECT_EQ(result.exit_code, 1) << result.out;
  EXPECT_NE(result.err.find("_scale_inv beside f8_e4m3, got none"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("model.safetensors: tensor"), std::string::npos) << result.err;
  fs::remove_all(dir);
}

TEST(SmallModels, there_is_one_of_every_architecture_file) {
  const auto library = ArchitectureLibrary::open({PATCHBAY_SOURCE_DIR "/configs/architectures"});
  ASSERT_TRUE(library.ok()) << library.error().message;
  std::set<std::string> covered;
  for (const auto& name : model_names()) {
    const auto spec = library->describe(json_file(model_dir(name) / "config.json"));
    ASSERT_TRUE(spec.ok()) << name << ": " << spec.error().message;
    covered.insert(spec->architecture);
  }
  for (const auto& name : library->names()) EXPECT_TRUE(covered.contains(name)) << name;
}

}  // namespace
}  // namespace patchbay::e2e
