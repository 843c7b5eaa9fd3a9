// What a GGUF file says besides its weights.
#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "core/model/checkpoint/gguf_writer.hpp"
#include "core/model/files/model_files.hpp"
#include "core/model/json/json.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kTiny = fs::path(PATCHBAY_SOURCE_DIR) / "tests/data/gguf/tiny.gguf";

class GgufFilesTest : public ::testing::Test {
 protected:
  GgufFilesTest() {
    std::string name = ::testing::TempDir() + "gguf_files_XXXXXX";
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  ~GgufFilesTest() override { fs::remove_all(dir_); }

  // A file with these metadata and one tensor; null (and a failure) if it does not open.
  std::unique_ptr<ModelFiles> with(const GgufWriter::Metadata& metadata) {
    auto writer = GgufWriter::create(dir_ / "m.gguf", metadata, {{"token_embd.weight", "f32", {4, 2}}});
    EXPECT_TRUE(writer.ok()) << writer.error().message;
    const std::vector<float> values(8, 1.0F);
    EXPECT_TRUE(writer->write("token_embd.weight", std::as_bytes(std::span(values))).ok() && writer->finish().ok());
    auto files = ModelFiles::open(dir_ / "m.gguf");
    EXPECT_TRUE(files.ok()) << files.error().message;
    return files.ok() ? std::move(*files) : nullptr;
  }
  std::string description_error(const GgufWriter::Metadata& metadata) {
    const auto files = with(metadata);
    const auto description = files->describe();
    return description.ok() ? "" : description.error().message;
  }
  std::string tokenizer_error(const GgufWriter::Metadata& metadata) {
    const auto files = with(metadata);
    const auto tokenizer = files->tokenizer();
    return tokenizer.ok() ? "" : tokenizer.error().message;
  }

  fs::path dir_;
};

const std::pair<std::string, GgufWriterValue> kName = {"general.architecture", std::string("x")};

TEST_F(GgufFilesTest, the_metadata_of_the_architecture_become_values_without_its_prefix) {
  const auto files = with({kName,
                           {"x.block_count", uint32_t{3}},
                           {"x.attention.head_count", uint32_t{4}},
                           {"x.rope.freq_base", 1.5F},
                           {"x.flags", std::vector<int32_t>{1, -2}},
                           {"y.block_count", uint32_t{9}}});
  const auto description = files->describe();
  ASSERT_TRUE(description.ok()) << description.error().message;
  EXPECT_EQ(description->format, "gguf");
  EXPECT_EQ(description->names, std::vector<std::string>{"x"});
  const json want = {{"block_count", 3}, {"attention", {{"head_count", 4}}},           {"rope", {{"freq_base", 1.5}}},
                     {"flags", {1, -2}}, {"tensors", {{"token_embd.weight", {4, 2}}}}, {"vectors", json::object()}};
  EXPECT_EQ(description->values, want);
}

TEST_F(GgufFilesTest, metadata_that_cannot_become_values_are_typed_errors) {
  EXPECT_NE(description_error({}).find("m.gguf: metadata \"general.architecture\": expected a name, got none"),
            std::string::npos);
  EXPECT_NE(description_error({{"general.architecture", uint32_t{1}}}).find("got another type"), std::string::npos);
  EXPECT_NE(description_error({kName, {"x.a", uint32_t{1}}, {"x.a.b", uint32_t{1}}})
                .find("expected a value or values below it, got both"),
            std::string::npos);
  EXPECT_NE(description_error({kName, {"x.eps", std::numeric_limits<float>::quiet_NaN()}})
                .find("\"x.eps\": expected a finite number"),
            std::string::npos);
  EXPECT_NE(description_error({kName, {"x.eps", std::vector<float>{1, std::numeric_limits<float>::infinity()}}})
                .find("expected a finite number"),
            std::string::npos);
  EXPECT_NE(description_error({kName, {"x.many", std::vector<int32_t>(5000)}})
                .find("expected at most 4096 elements, got 5000"),
            std::string::npos);
  std::string deep = "x";
  for (int i = 0; i < 10'000; ++i) deep += ".a";
  EXPECT_NE(description_error({kName, {deep, uint32_t{1}}}).find("expected a key of at most"), std::string::npos);
}

TEST_F(GgufFilesTest, a_file_of_the_package_gives_tokenizer_template_and_stop_ids) {
  const auto files = ModelFiles::open(kTiny);
  ASSERT_TRUE(files.ok()) << files.error().message;
  const auto expected = parse_json_file(kTiny.parent_path() / "tiny.json");
  ASSERT_TRUE(expected.ok());
  const auto tokenizer = (*files)->tokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  ASSERT_NE(*tokenizer, nullptr);
  for (const json& line : expected->at("texts")) {
    EXPECT_EQ(*(*tokenizer)->encode(line.at("text").get<std::string>(), false),
              line.at("ids").get<std::vector<int32_t>>())
        << line;
    EXPECT_EQ((*tokenizer)->decode(line.at("ids").get<std::vector<int32_t>>(), false),
              line.at("text").get<std::string>());
  }
  EXPECT_EQ((*tokenizer)->encode("the", true)->front(), 262) << "add_bos_token";
  const auto chat = (*files)->chat_format();
  ASSERT_TRUE(chat.ok() && *chat != nullptr);
  const auto text = (*chat)->render(expected->at("chat").at("messages"));
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_EQ(*text, "<bos><user>the expert<assistant>");
  EXPECT_EQ(*(*tokenizer)->encode(*text, false), expected->at("chat").at("ids").get<std::vector<int32_t>>());
  EXPECT_EQ(*(*files)->stop_ids(), std::vector<int32_t>{263});
}

TEST_F(GgufFilesTest, a_sentencepiece_vocabulary_begins_with_bos_where_the_file_does_not_say) {
  GgufWriter::Metadata metadata = {
      {"tokenizer.ggml.model", std::string("llama")},
      {"tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "\u2581", "a", "\u2581a"}},
      {"tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -1, -2, -3}},
      {"tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 1, 1, 1}},
      {"tokenizer.ggml.bos_token_id", uint32_t{1}},
      {"tokenizer.ggml.eos_token_id", uint32_t{2}},
      {"tokenizer.ggml.eot_token_id", uint32_t{5}},
      {"tokenizer.ggml.unknown_token_id", uint32_t{0}}};
  auto files = with(metadata);
  auto tokenizer = files->tokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ(*(*tokenizer)->encode("a", true), (std::vector<int32_t>{1, 5}));
  EXPECT_EQ(*files->stop_ids(), (std::vector<int32_t>{2, 5}));
  metadata.emplace_back("tokenizer.ggml.add_bos_token", false);
  metadata.emplace_back("tokenizer.ggml.add_space_prefix", false);
  files = with(metadata);
  tokenizer = files->tokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ(*(*tokenizer)->encode("a", true), (std::vector<int32_t>{4}));
}

TEST_F(GgufFilesTest, no_vocabulary_is_no_tokenizer_and_a_wrong_one_an_error) {
  EXPECT_EQ(*with({kName})->tokenizer(), nullptr);
  EXPECT_EQ(*with({{"tokenizer.ggml.model", std::string("no_vocab")}})->tokenizer(), nullptr);
  EXPECT_EQ(*with({kName})->chat_format(), nullptr);
  const std::pair<std::string, GgufWriterValue> gpt2 = {"tokenizer.ggml.model", std::string("gpt2")};
  const std::pair<std::string, GgufWriterValue> tokens = {"tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"}};
  EXPECT_NE(
      tokenizer_error({{"tokenizer.ggml.model", std::string("bert")}}).find("expected gpt2 or llama, got \"bert\""),
      std::string::npos);
  EXPECT_NE(tokenizer_error({gpt2}).find("tokens: expected 1 to 2^31 - 1, got 0"), std::string::npos);
  EXPECT_NE(tokenizer_error({gpt2, tokens, {"tokenizer.ggml.pre", std::string("who")}}).find("got \"who\""),
            std::string::npos);
  EXPECT_NE(tokenizer_error({gpt2, tokens, {"tokenizer.ggml.bos_token_id", uint32_t{7}}})
                .find("expected an id from 0 to 1, got 7"),
            std::string::npos);
  EXPECT_NE(tokenizer_error({gpt2, tokens, {"tokenizer.ggml.bos_token_id", int32_t{-1}}})
                .find("expected a token id below 2^31"),
            std::string::npos);
  EXPECT_NE(
      tokenizer_error({gpt2, tokens, {"tokenizer.ggml.merges", uint32_t{1}}}).find("expected an array of strings"),
      std::string::npos);
  EXPECT_NE(tokenizer_error({gpt2, tokens, {"tokenizer.ggml.token_type", std::vector<float>{1, 2}}})
                .find("expected an array of 32-bit integers"),
            std::string::npos);
  EXPECT_NE(tokenizer_error({gpt2, tokens, {"tokenizer.ggml.add_bos_token", uint32_t{1}}}).find("expected a bool"),
            std::string::npos);
}

TEST_F(GgufFilesTest, a_wrong_template_is_an_error_that_names_the_file) {
  const auto files = with({{"tokenizer.chat_template", std::string("{% if %}")}});
  const auto chat = files->chat_format();
  ASSERT_FALSE(chat.ok());
  EXPECT_NE(chat.error().message.find("m.gguf: chat template"), std::string::npos) << chat.error().message;
}

}  // namespace
}  // namespace patchbay
