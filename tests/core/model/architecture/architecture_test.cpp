#include "core/model/architecture/architecture.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

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

TEST(Architecture, a_model_with_two_rotary_regimes_is_short_unless_a_longer_context_is_asked_for) {
  nlohmann::json config = config_of("mixtral");
  config["max_position_embeddings"] = 4096;
  config["original_max_position_embeddings"] = 512;
  const auto half = static_cast<size_t>(library().describe(config)->layers[0].attention.rope.n_rot / 2);
  config["rope_parameters"] = {{"rope_type", "longrope"},
                               {"rope_theta", 10000.0},
                               {"short_factor", std::vector<double>(half, 1.0)},
                               {"long_factor", std::vector<double>(half, 2.0)}};
  const auto usual = library().describe(config);
  ASSERT_TRUE(usual.ok()) << usual.error().message;
  EXPECT_EQ(usual->original_context, 512);
  EXPECT_EQ(usual->layers[0].attention.rope.inv_freq[0], 1.0F);
  EXPECT_EQ(library().describe(config, "", 513)->layers[0].attention.rope.inv_freq[0], 0.5F);
}

TEST(Architecture, latent_attention_turns_all_of_its_rotary_part_or_is_refused) {
  const auto text = [](const char* n_rot) {
    return std::string("base = \"deepseek_v3\"\nmatch = \"Other\"\n[rope]\nn_rot = ") + n_rot + "\n";
  };
  const auto folder = std::filesystem::path(testing::TempDir()) / "patchbay_architectures";
  std::filesystem::create_directories(folder);
  for (const char* n_rot : {"2", "8"}) {
    std::ofstream(folder / "other.toml") << text(n_rot);
    const auto other = ArchitectureLibrary::open({folder, PATCHBAY_SOURCE_DIR "/configs/architectures"});
    ASSERT_TRUE(other.ok()) << other.error().message;
    nlohmann::json config = config_of("deepseek_v3");
    const bool whole = config["qk_rope_head_dim"] == std::stoi(n_rot);
    const auto spec = other->describe(config, "other");
    EXPECT_EQ(spec.ok(), whole) << n_rot;
    if (!whole) {
      EXPECT_NE(spec.error().message.find("rope.n_rot: expected 8 (attention.rope_dim)"), std::string::npos)
          << spec.error().message;
    }
  }
}

TEST(Architecture, the_language_model_of_a_model_of_several_parts_is_read_where_it_lies) {
  auto config = parse_json_file(PATCHBAY_SOURCE_DIR "/tests/data/models/llama4/config.json");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const nlohmann::json whole = {{"architectures", {"Llama4ForConditionalGeneration"}}, {"text_config", *config}};
  const auto spec = library().describe(whole);
  ASSERT_TRUE(spec.ok()) << spec.error().message;
  EXPECT_EQ(spec->architecture, "llama4");
  EXPECT_EQ(spec->layers[0].attention.chunk, 7);
  EXPECT_EQ(spec->layers[2].attention.chunk, 0) << "every third layer is global";
  EXPECT_EQ(spec->layers[2].attention.rope.n_rot, 0);
  EXPECT_GT(spec->layers[2].attention.temperature.strength, 0);
}

nlohmann::json small_config(const std::string& model) {
  auto config = parse_json_file(PATCHBAY_SOURCE_DIR "/tests/data/models/" + model + "/config.json");
  EXPECT_TRUE(config.ok()) << config.error().message;
  return *config;
}

TEST(Architecture, a_name_that_checkpoints_were_published_under_is_known_beside_the_librarys) {
  nlohmann::json config = small_config("phimoe");
  config["architectures"] = {"PhiMoEForCausalLM"};
  EXPECT_EQ(error_of(config), "");
}

TEST(Architecture, the_temperature_of_long_texts_is_switched_by_a_truth_value_or_a_number) {
  nlohmann::json config = small_config("llama4");
  for (const nlohmann::json& value :
       {nlohmann::json(true), nlohmann::json(4), nlohmann::json(false), nlohmann::json(0)}) {
    config["attn_temperature_tuning"] = value;
    const auto spec = library().describe(config);
    ASSERT_TRUE(spec.ok()) << spec.error().message;
    const bool on = value == true || value == 4;
    EXPECT_EQ(spec->layers[2].attention.temperature.strength > 0, on) << value << ": a layer without rotary embedding";
    EXPECT_EQ(spec->layers[0].attention.temperature.strength, 0) << value << ": a layer with it";
  }
}

TEST(Architecture, blocks_of_fp8_are_as_large_as_the_config_says) {
  nlohmann::json config = small_config("deepseek_v3_fp8");
  config["quantization_config"]["weight_block_size"] = {32, 64};
  const auto spec = library().describe(config);
  ASSERT_TRUE(spec.ok()) << spec.error().message;
  const TensorPattern& gate = spec->expert_tensors.at("gate").front();
  EXPECT_EQ(gate.scale_rows, 32);
  EXPECT_EQ(gate.scale_cols, 64);
  config["quantization_config"]["weight_block_size"] = {0, 64};
  EXPECT_NE(error_of(config).find("tensors.scales.rows"), std::string::npos) << error_of(config);
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
  EXPECT_FALSE(rope_table(scaling, -1).ok());
}

TEST(Rope, an_odd_number_of_dimensions_turns_one_more) {
  const auto table = rope_table({}, 5);
  ASSERT_TRUE(table.ok());
  ASSERT_EQ(table->inv_freq.size(), 3U);
  EXPECT_FLOAT_EQ(table->inv_freq[2], std::pow(10000.0F, -4.0F / 5.0F));
}

TEST(Rope, longrope_takes_the_factors_of_the_context_in_use) {
  RopeScaling scaling;
  scaling.type = "longrope";
  scaling.original_context = 64;
  scaling.short_factors = {1, 2};
  scaling.long_factors = {4, 8};
  scaling.short_attention_factor = 1.5;
  for (const int64_t context : {64, 65}) {
    scaling.context = context;
    const auto table = rope_table(scaling, 4);
    ASSERT_TRUE(table.ok());
    EXPECT_FLOAT_EQ(table->inv_freq[0], context == 64 ? 1.0F : 0.25F);
    EXPECT_DOUBLE_EQ(table->attention_factor, context == 64 ? 1.5 : 1.0) << "factor is 1";
  }
}

TEST(Rope, ntk_stretches_the_slowest_pair_by_its_factor) {
  RopeScaling scaling;
  const auto plain = rope_table(scaling, 16);
  scaling.type = "ntk";
  scaling.factor = 50;
  const auto stretched = rope_table(scaling, 16);
  ASSERT_TRUE(plain.ok() && stretched.ok());
  EXPECT_EQ(stretched->inv_freq.front(), 1.0F);
  EXPECT_NEAR(stretched->inv_freq.back() * 50, plain->inv_freq.back(), 1e-6);
}

}  // namespace
}  // namespace patchbay
