// Small checkpoints of every architecture in awkward shapes (tests/data/models) against the reference implementation.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>

#include "core/model/architecture/architecture.hpp"
#include "core/model/checkpoint/assemble.hpp"
#include "core/model/checkpoint/checkpoint.hpp"
#include "core/model/checkpoint/safetensors_writer.hpp"
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

// The largest difference as a share of the largest of `want`; NaN and another size give 1.
float share(const std::vector<float>& got, const std::vector<float>& want) {
  if (want.empty() || got.size() != want.size()) return 1;
  float largest = 0;
  float difference = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    largest = std::max(largest, std::abs(want[i]));
    difference = std::max(difference, std::isnan(got[i]) ? INFINITY : std::abs(got[i] - want[i]));
  }
  return std::min(difference / largest, 1.0F);
}

// A checkpoint with scales of blocks beside its weights, as f32.
void write_without_blocks(const fs::path& from, const fs::path& to) {
  const auto checkpoint = open_checkpoint(from);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  std::vector<TensorDeclaration> declarations;
  std::vector<std::vector<float>> values;
  for (const auto& t : (*checkpoint)->tensors()) {
    if (t.name.ends_with("_scale_inv")) continue;
    const TensorInfo* scales = (*checkpoint)->find(std::string(t.name) + "_scale_inv");
    const auto source = scales == nullptr ? TensorSource::plain(t) : TensorSource::block_scaled(t, *scales);
    ASSERT_TRUE(source.ok()) << source.error().message;
    declarations.push_back({std::string(t.name), "f32", {t.shape.begin(), t.shape.end()}});
    source->read_f32(0, source->n_rows(), values.emplace_back(static_cast<size_t>(element_count(t.shape))).data());
  }
  auto writer = SafetensorsWriter::create(to, declarations);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_TRUE(writer->write(declarations[i].name, std::as_bytes(std::span(values[i]))).ok()) << declarations[i].name;
  ASSERT_TRUE(writer->finish().ok());
  fs::copy_file(from / "config.json", to / "config.json");
}

class Fp8 : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_unusable(GetParam()); !reason.empty()) GTEST_SKIP() << reason;
  }
  static std::vector<float> logits(const fs::path& model, const char* backend) {
    const json ids = json_file(model_dir("deepseek_v3_fp8") / "expected.json").at("input_ids");
    return run_logits(model, ids, {"--backend", backend, "--precision", "fp8"}).logits;
  }
  const fs::path dir_ = model_dir("deepseek_v3_fp8");
};

// Its head is bf16 on disk and fp8 here, which costs the most of it (5 %).
TEST_P(Fp8, a_checkpoint_of_blocks_stays_near_what_the_reference_implementation_computes) {
  EXPECT_LT(share(logits(dir_, GetParam()), read_npy(dir_ / "expected_logits.npy")), 0.08F);
}

class Fp8BesideReference : public Fp8 {};

TEST_P(Fp8BesideReference, computes_with_the_same_weights) {
  EXPECT_LT(share(logits(dir_, GetParam()), logits(dir_, "reference")), 0.02F);
}

// Blocks that are taken over and those that are made of the same numbers are the same, but for a scale's last bit.
TEST_P(Fp8, quantising_what_blocks_hold_comes_to_the_same) {
  const ScratchDir plain;
  write_without_blocks(dir_, plain.path());
  EXPECT_LT(share(logits(plain.path(), GetParam()), logits(dir_, GetParam())), 0.004F);
}

INSTANTIATE_TEST_SUITE_P(SmallModels, Fp8, ::testing::Values("reference", "cpu", "cuda"),
                         [](const auto& test) { return std::string(test.param); });
INSTANTIATE_TEST_SUITE_P(SmallModels, Fp8BesideReference, ::testing::Values("cpu", "cuda"),
                         [](const auto& test) { return std::string(test.param); });

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
