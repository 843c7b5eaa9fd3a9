// `patchbay model` and `bench --like`, as a user runs them.
#include <gtest/gtest.h>

#include "core/model/checkpoint/checkpoint.hpp"
#include "core/model/checkpoint/gguf_writer.hpp"
#include "core/model/checkpoint/safetensors_writer.hpp"
#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kFixtures[] = {"deepseek_v2", "deepseek_v2_grouped", "deepseek_v3", "gpt_oss", "mixtral",
                                     "olmoe",       "qwen2_moe",           "qwen3_moe"};
// As small as a model can be whose rows are whole blocks of every encoding.
constexpr const char* kShape = R"(
[config]
architectures = ["Qwen3MoeForCausalLM"]
hidden_act = "silu"
hidden_size = 256
intermediate_size = 256
moe_intermediate_size = 256
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 64
num_experts = 4
num_experts_per_tok = 2
norm_topk_prob = true
max_position_embeddings = 64
vocab_size = 96
tie_word_embeddings = false
[gguf]
general.architecture = "qwen3moe"
[gguf.qwen3moe]
block_count = 2
context_length = 64
embedding_length = 256
feed_forward_length = 256
expert_feed_forward_length = 256
attention.head_count = 4
attention.head_count_kv = 2
attention.key_length = 64
attention.layer_norm_rms_epsilon = 1e-6
rope.freq_base = 10000.0
expert_count = 4
expert_used_count = 2
)";

json inspect(const std::string& path) {
  const auto result = run_program({"model", "inspect", path, "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  EXPECT_TRUE(doc.ok()) << result.out;
  return doc.ok() ? *doc : json();
}

// The fixture's tensors but those that `leave_out` names, and its config.json as `change` leaves it.
template <typename LeaveOut, typename Change>
void copy_fixture(const std::string& fixture, const fs::path& to, LeaveOut leave_out, Change change) {
  const auto checkpoint = open_checkpoint(fixture_dir(fixture));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  std::vector<TensorDeclaration> declarations;
  for (const auto& t : (*checkpoint)->tensors()) {
    if (!leave_out(t.name))
      declarations.push_back({std::string(t.name), std::string(t.encoding), {t.shape.begin(), t.shape.end()}});
  }
  auto writer = SafetensorsWriter::create(to, declarations);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  for (const auto& t : (*checkpoint)->tensors()) {
    if (leave_out(t.name)) continue;
    ASSERT_TRUE(writer->write(t.name, {t.data, t.bytes}).ok());
  }
  ASSERT_TRUE(writer->finish().ok());
  json config = json_file(fixture_dir(fixture) / "config.json");
  change(config);
  write_text(to / "config.json", config.dump());
}
const auto kNothing = [](std::string_view) { return false; };
const auto kAsItIs = [](json&) {};

// Small checkpoints of every architecture, by path, whose tensors all belong to the model.
std::vector<std::string> all_models() {
  std::vector<std::string> out;
  for (const char* name : kFixtures) out.push_back(fixture_dir(name).string());
  for (const auto& entry : fs::directory_iterator(PATCHBAY_SOURCE_DIR "/tests/data/models")) {
    if (fs::exists(entry.path() / "expected.json")) out.push_back(entry.path().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}
std::string test_name(const ::testing::TestParamInfo<std::string>& test) {
  return fs::path(test.param).filename().string();
}

class Inspect : public ::testing::TestWithParam<std::string> {};

TEST_P(Inspect, finds_every_weight_of_a_checkpoint_and_nothing_wrong) {
  const json report = inspect(GetParam());
  EXPECT_EQ(report.at("runs"), true) << report.at("problems");
  EXPECT_TRUE(report.at("notes").empty()) << report.at("notes");
  const double total = report.at("parameters").at("total").get<double>();
  double parts = 0;
  double stored = 0;
  for (const auto& [name, part] : report.at("parts").items()) {
    parts += part.at("parameters").get<double>();
    stored += part.at("stored_bytes").get<double>();
    EXPECT_LE(part.at("active").get<double>(), part.at("parameters").get<double>()) << name;
  }
  EXPECT_EQ(parts, total);
  EXPECT_LE(report.at("parameters").at("active").get<double>(), total);
  const auto checkpoint = open_checkpoint(GetParam());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  double bytes = 0;
  double elements = 0;
  for (const auto& t : (*checkpoint)->tensors()) {
    bytes += static_cast<double>(t.bytes);
    elements += static_cast<double>(element_count(t.shape));
  }
  // What is skipped (multi-token prediction) is stored and no parameter.
  EXPECT_LE(stored, bytes + 1);
  if (GetParam().find("/golden/") == std::string::npos) return;
  EXPECT_EQ(total, elements);
  EXPECT_NEAR(stored, bytes, 1.0);
}
INSTANTIATE_TEST_SUITE_P(Architectures, Inspect, ::testing::ValuesIn(all_models()), test_name);

TEST(InspectFigures, parameters_parts_and_memory_are_those_of_the_formula) {
  const json report = inspect(fixture_dir("mixtral").string());
  const json config = json_file(fixture_dir("mixtral") / "config.json");
  const auto n = [&](const char* key) { return config.at(key).get<double>(); };
  const double experts =
      n("num_hidden_layers") * n("num_local_experts") * 3 * n("hidden_size") * n("intermediate_size");
  EXPECT_EQ(report.at("parts").at("experts").at("parameters").get<double>(), experts);
  EXPECT_EQ(report.at("parts").at("experts").at("active").get<double>(),
            experts * n("num_experts_per_tok") / n("num_local_experts"));
  EXPECT_EQ(report.at("parts").at("embedding").at("parameters").get<double>(), n("vocab_size") * n("hidden_size"));
  EXPECT_EQ(report.at("layers")[0].at("router").at("plugin"), "topk");
  EXPECT_EQ(report.at("layers")[0].at("router").at("options").at("k"), 2);
  const json& memory = report.at("memory");
  const auto row = [&](const char* name) {
    for (const json& m : memory) {
      if (m.at("precision") == name) return m;
    }
    return json();
  };
  const double cache =
      1000 * n("num_hidden_layers") * 2 * n("hidden_size") / n("num_attention_heads") * n("num_key_value_heads");
  EXPECT_EQ(row("fp32").at("cache_bytes_per_1000_tokens").get<double>(), cache * 4);
  EXPECT_EQ(row("int8").at("cache_bytes_per_1000_tokens").get<double>(), cache * 2);
  // What follows the precision, at half and a bit of 16 bits.
  const double narrow = row("bf16, fp16").at("weight_bytes").get<double>();
  EXPECT_LT(row("int8").at("weight_bytes").get<double>(), narrow);
  EXPECT_LT(row("int4").at("weight_bytes").get<double>(), row("int8").at("weight_bytes").get<double>());
  EXPECT_LT(row("fp8").at("weight_bytes").get<double>(), row("int8").at("weight_bytes").get<double>());
  EXPECT_GT(row("fp8").at("weight_bytes").get<double>(), row("int4").at("weight_bytes").get<double>());
  EXPECT_GT(row("fp32").at("weight_bytes").get<double>(), narrow);
}

TEST(InspectFigures, the_text_says_the_same_for_people) {
  const auto result = run_program({"model", "inspect", fixture_dir("deepseek_v3").string()});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* part : {"deepseek_v3, 3 layers", "latent: 4 heads", "grouped", "16 of width 32, shared 32 wide",
                           "(layers 1-2)", "width 96  (layer 0)", "It would run."}) {
    EXPECT_NE(result.out.find(part), std::string::npos) << part << "\n" << result.out;
  }
}

TEST(InspectProblems, a_missing_tensor_is_named_and_the_rest_is_still_counted) {
  const ScratchDir dir;
  copy_fixture(
      "olmoe", dir.path(), [](std::string_view name) { return name == "model.layers.1.self_attn.k_norm.weight"; },
      kAsItIs);
  const json report = inspect(dir.path().string());
  EXPECT_EQ(report.at("runs"), false);
  ASSERT_EQ(report.at("problems").size(), 1U) << report.at("problems");
  EXPECT_NE(report.at("problems")[0].get<std::string>().find(
                "tensor model.layers.1.self_attn.k_norm.weight: expected it in the checkpoint"),
            std::string::npos);
  EXPECT_EQ(report.at("parameters").at("total"), inspect(fixture_dir("olmoe").string()).at("parameters").at("total"));
}

TEST(InspectProblems, wrong_shapes_and_an_unknown_architecture_are_problems_and_no_failure) {
  const ScratchDir dir;
  copy_fixture("mixtral", dir.path(), kNothing, [](json& config) { config["vocab_size"] = 321; });
  const json shapes = inspect(dir.path().string());
  EXPECT_EQ(shapes.at("runs"), false);
  EXPECT_NE(shapes.at("problems").dump().find("expected [321, 64]"), std::string::npos) << shapes.at("problems");
  copy_fixture("mixtral", dir.path(), kNothing, [](json& config) { config["architectures"] = {"MixtrlForCausalLM"}; });
  const json unknown = inspect(dir.path().string());
  EXPECT_EQ(unknown.at("runs"), false);
  EXPECT_NE(unknown.at("problems").dump().find("did you mean \\\"MixtralForCausalLM\\\"?"), std::string::npos)
      << unknown.at("problems");
  EXPECT_GT(unknown.at("tensors"), 0);
}

TEST(InspectProblems, an_encoding_without_a_codec_and_more_experts_chosen_than_there_are) {
  const ScratchDir dir;
  write_text(dir / "tiny.toml", kShape);
  ASSERT_EQ(run_program(
                {"model", "make-random", "--quiet", "--like", dir / "tiny.toml", "--out", dir / "m", "--type", "bf16"})
                .exit_code,
            0);
  json config = json_file(dir / "m/config.json");
  config["num_experts_per_tok"] = 5;
  write_text(dir / "m/config.json", config.dump());
  const json too_many = inspect(dir / "m");
  EXPECT_NE(too_many.at("problems").dump().find("k: expected at most 4"), std::string::npos) << too_many.at("problems");
  EXPECT_TRUE(too_many.at("notes").empty()) << too_many.at("notes");
  // A .gguf whose one matrix is q2_k.
  auto writer = GgufWriter::create(dir / "q.gguf", {{"general.architecture", std::string("qwen3moe")}},
                                   {{"token_embd.weight", "q2_k", {96, 256}}});
  ASSERT_TRUE(writer.ok());
  const std::vector<std::byte> bytes(96 * 84);
  ASSERT_TRUE(writer->write("token_embd.weight", bytes).ok() && writer->finish().ok());
  const json quantised = inspect(dir / "q.gguf");
  EXPECT_EQ(quantised.at("runs"), false);
  EXPECT_EQ(quantised.at("bytes_by_encoding").at("q2_k"), bytes.size());
}

TEST(InspectProblems, what_is_no_model_is_an_error) {
  const ScratchDir dir;
  const auto nothing = run_program({"model", "inspect", dir / "nowhere"});
  EXPECT_EQ(nothing.exit_code, 1);
  EXPECT_NE(nothing.err.find("nowhere: expected a model's directory or a .gguf file, got nothing"), std::string::npos)
      << nothing.err;
  EXPECT_EQ(run_program({"model", "inspect", dir.path().string()}).exit_code, 1);
}

// Runs the model on a few tokens; all logits must be finite.
void expect_runs(const std::string& model, int64_t n_vocab) {
  const LogitsRun run = run_logits(model, json::array({1, 2, 3, 4, 5, 6, 7}), {});
  ASSERT_EQ(run.logits.size(), static_cast<size_t>(7 * n_vocab)) << model;
  for (const float x : run.logits) ASSERT_TRUE(std::isfinite(x)) << model;
}

class MakeRandom : public ::testing::TestWithParam<std::string> {};

TEST_P(MakeRandom, writes_a_model_that_is_whole_and_runs) {
  const ScratchDir dir;
  const auto made = run_program({"model", "make-random", "--quiet", "--like", GetParam(), "--out", dir / "m"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const json report = inspect(dir / "m");
  EXPECT_EQ(report.at("runs"), true) << report.at("problems");
  EXPECT_TRUE(report.at("notes").empty()) << report.at("notes");
  // A bias that the architecture names and a checkpoint may lack is made.
  const double original = inspect(GetParam()).at("parameters").at("total");
  const double total = report.at("parameters").at("total");
  EXPECT_GE(total, original);
  EXPECT_LE(total, original * 1.01);
  expect_runs(dir / "m", report.at("n_vocab"));
}
INSTANTIATE_TEST_SUITE_P(Architectures, MakeRandom, ::testing::ValuesIn(all_models()), test_name);

TEST(MakeRandomTypes, every_type_of_gguf_loads_and_runs) {
  const ScratchDir dir;
  write_text(dir / "tiny.toml", kShape);
  for (const char* type :
       {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "mxfp4"}) {
    const std::string file = dir / (std::string(type) + ".gguf");
    const auto made = run_program({"model", "make-random", "--quiet", "--like", dir / "tiny.toml", "--format", "gguf",
                                   "--type", type, "--out", file});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    const json report = inspect(file);
    EXPECT_EQ(report.at("runs"), true) << type << report.at("problems");
    EXPECT_TRUE(report.at("notes").empty()) << report.at("notes");
    EXPECT_TRUE(report.at("bytes_by_encoding").contains(type)) << type;
    expect_runs(file, 96);
  }
}

TEST(MakeRandomTypes, mxfp4_is_blocks_and_scales_where_the_architecture_has_them_and_refused_elsewhere) {
  const ScratchDir dir;
  const auto made = run_program({"model", "make-random", "--quiet", "--like", fixture_dir("gpt_oss").string(), "--out",
                                 dir / "m", "--type", "mxfp4"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto checkpoint = open_checkpoint(dir / "m");
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_NE((*checkpoint)->find("model.layers.0.mlp.experts.gate_up_proj_blocks"), nullptr);
  EXPECT_NE((*checkpoint)->find("model.layers.0.mlp.experts.gate_up_proj_scales"), nullptr);
  expect_runs(dir / "m", 320);
  const auto refused = run_program(
      {"model", "make-random", "--like", fixture_dir("mixtral").string(), "--out", dir / "n", "--type", "mxfp4"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find("has no tensors for MXFP4"), std::string::npos) << refused.err;
}

TEST(MakeRandomFiles, the_same_seed_gives_the_same_bytes_and_another_seed_others) {
  const ScratchDir dir;
  const std::string like = fixture_dir("qwen3_moe").string();
  for (const auto& [name, seed] : {std::pair{"a", "7"}, std::pair{"b", "7"}, std::pair{"c", "8"}}) {
    ASSERT_EQ(
        run_program({"model", "make-random", "--quiet", "--like", like, "--out", dir / name, "--seed", seed}).exit_code,
        0);
  }
  const std::string a = read_text(dir / "a/model.safetensors");
  ASSERT_FALSE(a.empty());
  EXPECT_EQ(a, read_text(dir / "b/model.safetensors"));
  EXPECT_NE(a, read_text(dir / "c/model.safetensors"));
}

TEST(MakeRandomFiles, what_is_there_stays_and_wrong_use_is_told) {
  const ScratchDir dir;
  const std::string like = fixture_dir("mixtral").string();
  ASSERT_EQ(run_program({"model", "make-random", "--quiet", "--like", like, "--out", dir / "m"}).exit_code, 0);
  const std::string before = read_text(dir / "m/config.json");
  const auto again = run_program({"model", "make-random", "--like", like, "--out", dir / "m", "--seed", "3"});
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_NE(again.err.find("config.json: expected nothing there yet"), std::string::npos) << again.err;
  EXPECT_EQ(read_text(dir / "m/config.json"), before);
  const auto gguf = run_program({"model", "make-random", "--like", like, "--format", "gguf", "--out", dir / "m.gguf"});
  EXPECT_EQ(gguf.exit_code, 1);
  EXPECT_NE(gguf.err.find("expected a table [gguf]"), std::string::npos) << gguf.err;
  EXPECT_FALSE(fs::exists(dir / "m.gguf"));
  const auto type = run_program({"model", "make-random", "--like", like, "--out", dir / "t", "--type", "q4_k"});
  EXPECT_EQ(type.exit_code, 1);
  EXPECT_NE(type.err.find("type: expected f32, f16, bf16 or mxfp4, got \"q4_k\""), std::string::npos) << type.err;
  EXPECT_EQ(run_program({"model", "make-random", "--like", like}).exit_code, 2);
  EXPECT_EQ(run_program({"model", "make-random", "--like", like, "--out", dir / "u", "--format", "onnx"}).exit_code, 2);
}

TEST(BenchLike, measures_a_shape_without_a_file) {
  const auto result = run_program({"bench", "--like", fixture_dir("deepseek_v3").string(), "--prompt-tokens", "8",
                                   "--decode-tokens", "8", "--rounds", "1", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto doc = parse_json(result.out);
  ASSERT_TRUE(doc.ok());
  EXPECT_GT(doc->at("rows")[0].at("decode_tokens_per_second"), 0);
  const auto unknown = run_program({"bench", "--like", "olmoe-1b-7"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_NE(unknown.err.find("did you mean \"olmoe-1b-7b\"?"), std::string::npos) << unknown.err;
}

}  // namespace
}  // namespace patchbay::e2e
