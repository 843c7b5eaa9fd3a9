#include "core/model/architecture/architecture.hpp"

#include <gtest/gtest.h>

#include "core/model/architecture/rope.hpp"
#include "core/model/json/json.hpp"

namespace patchbay {
namespace {

const ArchitectureLibrary& library() {
  static const auto opened = ArchitectureLibrary::open({PATCHBAY_SOURCE_DIR "/configs/architectures"});
  EXPECT_TRUE(opened.ok()) << opened.error().message;
  return *opened;
}

nlohmann::json config_of(const std::string& fixture) {
  auto config = parse_json_file(PATCHBAY_SOURCE_DIR "/tests/golden/" + fixture + "/config.json");
  EXPECT_TRUE(config.ok()) << config.error().message;
  return *config;
}

std::string error_of(const nlohmann::json& config) {
  const auto spec = library().describe(config);
  return spec.ok() ? "" : spec.error().message;
}

TEST(Architecture, a_config_becomes_the_dimensions_of_every_layer) {
  const auto spec = library().describe(config_of("deepseek_v3"));
  ASSERT_TRUE(spec.ok()) << spec.error().message;
  ASSERT_EQ(spec->layers.size(), 3U);
  EXPECT_EQ(spec->layers[0].ffn.n_experts, 0) << "the first layer is dense";
  EXPECT_EQ(spec->layers[1].ffn.n_experts, 16);
  EXPECT_EQ(spec->layers[1].ffn.router.plugin, "grouped");
  EXPECT_EQ(spec->layers[1].attention.kind, AttentionKind::kLatent);
  EXPECT_EQ(spec->layers[1].attention.k_dim, 24);
}

TEST(Architecture, both_spellings_of_rope_give_the_same_table) {
  nlohmann::json config = config_of("gpt_oss");
  const auto now = library().describe(config);
  nlohmann::json scaling = config["rope_parameters"];
  config["rope_theta"] = scaling["rope_theta"];
  scaling.erase("rope_theta");
  config["rope_scaling"] = scaling;
  config.erase("rope_parameters");
  const auto before = library().describe(config);
  ASSERT_TRUE(now.ok() && before.ok());
  EXPECT_EQ(now->layers[0].attention.rope.inv_freq, before->layers[0].attention.rope.inv_freq);
  EXPECT_EQ(now->layers[0].attention.rope.scale, before->layers[0].attention.rope.scale);
  EXPECT_GT(now->layers[0].attention.rope.scale, 1) << "yarn scales";
}

TEST(Architecture, layers_that_slide_have_a_window_and_the_others_none) {
  const auto spec = library().describe(config_of("gpt_oss"));
  ASSERT_TRUE(spec.ok()) << spec.error().message;
  EXPECT_EQ(spec->layers[0].attention.window, 16);
  EXPECT_EQ(spec->layers[1].attention.window, 0);
}

TEST(Architecture, an_unknown_model_is_refused_with_the_known_ones) {
  EXPECT_NE(error_of({{"architectures", {"LlamaForCausalLM"}}}).find("expected one of"), std::string::npos);
  EXPECT_NE(error_of(nlohmann::json::object()).find("got none"), std::string::npos);
}

TEST(Architecture, impossible_numbers_are_refused_before_anything_is_built) {
  const nlohmann::json good = config_of("mixtral");
  const std::pair<const char*, nlohmann::json> bad[] = {
      {"num_local_experts", 0},       {"num_local_experts", -1}, {"hidden_size", 0},         {"hidden_size", 1LL << 40},
      {"num_hidden_layers", 1 << 30}, {"hidden_size", "wide"},   {"num_attention_heads", 3}, {"vocab_size", nullptr}};
  for (const auto& [key, value] : bad) {
    nlohmann::json config = good;
    config[key] = value;
    EXPECT_FALSE(error_of(config).empty()) << key << " = " << value;
  }
}

TEST(Rope, plain_frequencies_are_powers_of_theta) {
  RopeScaling scaling;
  scaling.theta = 100;
  const auto table = rope_table(scaling, 4);
  ASSERT_TRUE(table.ok());
  EXPECT_FLOAT_EQ(table->inv_freq[0], 1.0F);
  EXPECT_FLOAT_EQ(table->inv_freq[1], 0.1F);
}

TEST(Rope, llama3_keeps_short_waves_and_stretches_long_ones) {
  RopeScaling scaling;
  scaling.type = "llama3";
  scaling.theta = 500000;
  scaling.factor = 8;
  scaling.original_context = 8192;
  const auto scaled = rope_table(scaling, 128);
  scaling.type = "default";
  const auto plain = rope_table(scaling, 128);
  ASSERT_TRUE(scaled.ok() && plain.ok());
  EXPECT_EQ(scaled->inv_freq.front(), plain->inv_freq.front());
  EXPECT_FLOAT_EQ(scaled->inv_freq.back(), plain->inv_freq.back() / 8);
}

TEST(Rope, an_unknown_scaling_or_a_missing_length_is_refused) {
  RopeScaling scaling;
  scaling.type = "spiral";
  EXPECT_FALSE(rope_table(scaling, 8).ok());
  scaling.type = "yarn";
  EXPECT_FALSE(rope_table(scaling, 8).ok());
  scaling.type = "default";
  EXPECT_FALSE(rope_table(scaling, 7).ok());
}

}  // namespace
}  // namespace patchbay
