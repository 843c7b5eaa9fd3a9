// Every supported architecture against the reference implementation, on every backend, through the program.
#include <gtest/gtest.h>

#include "core/model/checkpoint/checkpoint.hpp"
#include "core/model/checkpoint/safetensors_writer.hpp"
#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Golden : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  void SetUp() override {
    if (const std::string reason = why_unusable(backend_); !reason.empty()) GTEST_SKIP() << reason;
  }
  const std::string fixture_ = std::get<0>(GetParam());
  const std::string backend_ = std::get<1>(GetParam());
  const fs::path dir_ = fixture_dir(fixture_);
  const json expected_ = json_file(dir_ / "expected.json");
};

TEST_P(Golden, logits_and_routes_are_those_of_the_reference_implementation) {
  const LogitsRun run = run_logits(dir_, expected_.at("input_ids"), {"--backend", backend_});
  EXPECT_TRUE(logits_agree(run.logits, read_npy(dir_ / "expected_logits.npy")));
  expect_routes(run.routes, expected_.at("routes"));
}

TEST_P(Golden, greedy_text_is_that_of_the_reference_implementation) {
  const auto result =
      run_program({"run", "--quiet", "--json", "--backend", backend_, "--model", dir_.string(), "--temperature", "0",
                   "--ignore-end", "--max-tokens", "24", "--prompt-ids=" + expected_.at("input_ids").dump()});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  ASSERT_TRUE(doc.ok()) << result.out;
  EXPECT_EQ(doc->at("ids"), expected_.at("greedy"));
  EXPECT_EQ(doc->at("finish_reason"), "length");
}

const auto kFixtures = ::testing::Values("deepseek_v2", "deepseek_v2_grouped", "deepseek_v3", "gpt_oss", "mixtral",
                                         "olmoe", "qwen2_moe", "qwen3_moe");

INSTANTIATE_TEST_SUITE_P(Architectures, Golden,
                         ::testing::Combine(kFixtures, ::testing::Values("reference", "cpu", "cuda")),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" + std::get<1>(test.param);
                         });

// The fixture's tensors again, in files of at most `max_shard_bytes`.
void reshard(const fs::path& from, const fs::path& to, uint64_t max_shard_bytes) {
  const auto checkpoint = open_checkpoint(from);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  std::vector<TensorDeclaration> declarations;
  for (const auto& t : (*checkpoint)->tensors()) {
    declarations.push_back({std::string(t.name), std::string(t.encoding), {t.shape.begin(), t.shape.end()}});
  }
  SafetensorsWriterOptions options;
  options.max_shard_bytes = max_shard_bytes;
  auto writer = SafetensorsWriter::create(to, declarations, options);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  for (const auto& t : (*checkpoint)->tensors()) ASSERT_TRUE(writer->write(t.name, {t.data, t.bytes}).ok()) << t.name;
  ASSERT_TRUE(writer->finish().ok());
  fs::copy_file(from / "config.json", to / "config.json");
}

class Sharded : public ::testing::TestWithParam<const char*> {};

TEST_P(Sharded, a_checkpoint_in_many_shards_gives_the_same_bits) {
  const fs::path dir = fixture_dir(GetParam());
  const json ids = json_file(dir / "expected.json").at("input_ids");
  const ScratchDir sharded;
  reshard(dir, sharded.path(), 100'000);
  ASSERT_TRUE(fs::exists(sharded / "model.safetensors.index.json"));
  ASSERT_FALSE(fs::exists(sharded / "model.safetensors"));
  const LogitsRun whole = run_logits(dir, ids, {"--backend", "cpu"});
  const LogitsRun shards = run_logits(sharded.path(), ids, {"--backend", "cpu"});
  ASSERT_FALSE(whole.logits.empty());
  EXPECT_EQ(whole.logits, shards.logits);
  EXPECT_EQ(whole.routes, shards.routes);
}

INSTANTIATE_TEST_SUITE_P(Architectures, Sharded, kFixtures, [](const auto& test) { return std::string(test.param); });

class MixedPlacement : public ::testing::TestWithParam<const char*> {};

TEST_P(MixedPlacement, attention_and_experts_on_different_backends_give_the_reference_logits) {
  const fs::path dir = fixture_dir(GetParam());
  const json expected = json_file(dir / "expected.json");
  for (const auto& [attention, experts] : {std::pair{"cpu", "reference"}, std::pair{"reference", "cpu"}}) {
    const std::string set =
        "layer=[{match=\"all\",backend={attention=\"" + std::string(attention) + "\",experts=\"" + experts + "\"}}]";
    const LogitsRun run = run_logits(dir, expected.at("input_ids"), {"--set", set});
    EXPECT_TRUE(logits_agree(run.logits, read_npy(dir / "expected_logits.npy"))) << set;
    expect_routes(run.routes, expected.at("routes"));
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, MixedPlacement, ::testing::Values("deepseek_v3", "mixtral"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Threads, one_and_two_threads_give_the_same_bits) {
  for (const char* name : {"deepseek_v3", "gpt_oss", "mixtral"}) {
    const fs::path dir = fixture_dir(name);
    const json ids = json_file(dir / "expected.json").at("input_ids");
    const LogitsRun one = run_logits(dir, ids, {"--backend", "cpu", "--threads", "1"});
    const LogitsRun two = run_logits(dir, ids, {"--backend", "cpu", "--threads", "2"});
    ASSERT_FALSE(one.logits.empty());
    ASSERT_EQ(one.logits.size(), two.logits.size());
    EXPECT_EQ(std::memcmp(one.logits.data(), two.logits.data(), one.logits.size() * sizeof(float)), 0) << name;
  }
}

}  // namespace
}  // namespace patchbay::e2e
