// What a directory in Hugging Face's layout says besides its weights, and which path is which kind of model.
#include <gtest/gtest.h>

#include <fstream>

#include "core/model/files/model_files.hpp"

namespace patchbay {
namespace {

struct ModelDir : ::testing::Test {
  void SetUp() override {
    std::string name = ::testing::TempDir() + "model_files_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir); }
  void write(const char* name, std::string_view text) const { std::ofstream(dir / name) << text; }
  moe::Result<std::vector<int32_t>> stops() const {
    MOE_ASSIGN(const auto files, ModelFiles::open(dir));
    return files->stop_ids();
  }
  std::filesystem::path dir;
};

TEST_F(ModelDir, stop_ids_are_a_number_or_a_list) {
  write("generation_config.json", R"({"eos_token_id": 7})");
  EXPECT_EQ(*stops(), std::vector<int32_t>{7});
  write("generation_config.json", R"({"eos_token_id": [7, 9]})");
  EXPECT_EQ(*stops(), (std::vector<int32_t>{7, 9}));
}

TEST_F(ModelDir, generation_config_wins_over_config) {
  EXPECT_TRUE(stops()->empty());
  write("config.json", R"({"eos_token_id": 1})");
  EXPECT_EQ(*stops(), std::vector<int32_t>{1});
  write("generation_config.json", R"({"eos_token_id": null})");
  EXPECT_EQ(*stops(), std::vector<int32_t>{1});
  write("generation_config.json", R"({"eos_token_id": 2})");
  EXPECT_EQ(*stops(), std::vector<int32_t>{2});
}

TEST_F(ModelDir, wrong_stop_ids_are_errors_that_name_the_file) {
  for (const char* text : {R"({"eos_token_id": -1})", R"({"eos_token_id": "x"})", R"({"eos_token_id": [1, 1.5]})",
                           R"({"eos_token_id": 2147483648})", R"([])", R"({)"}) {
    write("generation_config.json", text);
    const auto result = stops();
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_NE(result.error().message.find("generation_config.json"), std::string::npos) << result.error().message;
  }
}

TEST_F(ModelDir, a_folder_with_one_gguf_model_is_that_model) {
  write("config.json", "{}");
  write("a.gguf", "");
  EXPECT_EQ((*ModelFiles::open(dir))->format(), "Hugging Face") << "config.json decides";
  std::filesystem::remove(dir / "config.json");
  std::filesystem::copy_file(PATCHBAY_SOURCE_DIR "/tests/data/gguf/tiny.gguf", dir / "a.gguf",
                             std::filesystem::copy_options::overwrite_existing);
  auto files = ModelFiles::open(dir);
  ASSERT_TRUE(files.ok()) << files.error().message;
  EXPECT_EQ((*files)->format(), "GGUF");
  write("b.gguf", "");
  EXPECT_NE(ModelFiles::open(dir).error().message.find("expected one model, got a.gguf, b.gguf"), std::string::npos);
  for (const char* part : {"b-00001-of-00002.gguf", "b-00002-of-00002.gguf"}) {
    std::filesystem::remove(dir / "a.gguf");
    std::filesystem::remove(dir / "b.gguf");
    write(part, "");
  }
  EXPECT_NE(ModelFiles::open(dir).error().message.find("b-00001-of-00002.gguf"), std::string::npos)
      << "parts are one model";
}

TEST_F(ModelDir, what_is_no_model_is_an_error_that_names_the_path) {
  EXPECT_EQ(ModelFiles::open(dir / "nowhere").error().code, MOE_NOT_FOUND);
  write("notes.txt", "not a model");
  const auto file = ModelFiles::open(dir / "notes.txt");
  ASSERT_FALSE(file.ok());
  EXPECT_NE(file.error().message.find("notes.txt: magic: expected \"GGUF\""), std::string::npos)
      << file.error().message;
  auto empty = ModelFiles::open(dir);
  ASSERT_TRUE(empty.ok());
  EXPECT_FALSE((*empty)->describe().ok());
  EXPECT_FALSE((*empty)->checkpoint().ok());
  EXPECT_EQ(*(*empty)->tokenizer(), nullptr);
}

}  // namespace
}  // namespace patchbay
