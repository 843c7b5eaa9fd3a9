// A directory with tiktoken.model in place of tokenizer.json. The right ids are those of the package `tiktoken`, which
// gives the same for this vocabulary as tests/data/tokenizers/families.json.gz has.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/model/files/model_files.hpp"
#include "core/model/tokenizer/byte_level.hpp"
#include "tests/core/model/tokenizer/support.hpp"

namespace patchbay {
namespace {

using nlohmann::json;

std::string base64(const std::string& bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t j = 0; j < 3; ++j) bits = bits << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0U);
    for (size_t j = 0; j < 4; ++j) out.push_back(i + j > bytes.size() ? '=' : kDigits[bits >> (18 - 6 * j) & 63]);
  }
  return out;
}

struct TiktokenDir : ::testing::Test {
  void SetUp() override {
    std::string name = ::testing::TempDir() + "tiktoken_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir = name;
    file = json::parse(test::read_gzip(test::data_dir() / "families.json.gz")).at("kimi-k2");
    n = file.at("tokens").size();
    std::string ranks;
    for (size_t i = 0; i < n; ++i) {
      ranks +=
          base64(byte_level::bytes_of(file["tokens"][i].get<std::string>()).value()) + " " + std::to_string(i) + "\n";
    }
    write("tiktoken.model", ranks);
    write("tokenizer_config.json", json{{"tokenizer_class", "TikTokenTokenizer"},
                                        {"added_tokens_decoder",
                                         {{std::to_string(n), {{"content", "[BOS]"}, {"special", true}}},
                                          {std::to_string(n + 5), {{"content", "<tool>"}, {"special", false}}}}}}
                                       .dump());
  }
  void TearDown() override { std::filesystem::remove_all(dir); }
  void write(const char* name, std::string_view text) const { std::ofstream(dir / name) << text; }
  moe::Result<std::unique_ptr<Tokenizer>> tokenizer() const {
    MOE_ASSIGN(const auto files, ModelFiles::open(dir));
    return files->tokenizer();
  }
  std::string error() const {
    const auto made = tokenizer();
    return made.ok() ? "" : made.error().message;
  }
  std::filesystem::path dir;
  json file;
  size_t n = 0;
};

TEST_F(TiktokenDir, gives_the_ids_of_tiktoken) {
  const auto made = tokenizer();
  ASSERT_TRUE(made.ok()) << made.error().message;
  ASSERT_NE(*made, nullptr);
  for (const json& line : file.at("lines")) {
    const auto ids = (*made)->encode(line.at("text").get<std::string>(), false);
    ASSERT_TRUE(ids.ok()) << ids.error().message;
    EXPECT_EQ(*ids, line.at("ids").get<std::vector<int32_t>>()) << line.at("text");
  }
}

TEST_F(TiktokenDir, has_the_added_tokens_of_its_configuration) {
  const auto made = tokenizer();
  ASSERT_TRUE(made.ok()) << made.error().message;
  const auto last = static_cast<int32_t>(n);
  EXPECT_EQ(*(*made)->encode("[BOS]<tool>", false), (std::vector<int32_t>{last, last + 5}));
  EXPECT_TRUE((*made)->is_special(last));
  EXPECT_FALSE((*made)->is_special(last + 5));
  EXPECT_EQ((*made)->vocab_size(), n + 6);
  EXPECT_EQ((*made)->decode(std::vector<int32_t>{last, last + 5}, true), "<tool>");
}

TEST_F(TiktokenDir, that_is_wrong_is_a_typed_error) {
  const auto refuses = [this](const char* name, std::string_view text, std::string_view says) {
    write(name, text);
    EXPECT_NE(error().find(says), std::string::npos) << error();
    EXPECT_NE(error().find(name), std::string::npos) << error();
  };
  for (const char* text :
       {"YQ== 1\n", "YQ==\n", "YQ= 0\n", "Y*== 0\n", " 0\n", "YQ== 0\nYg== 2\n", "YQ== 0x\n", "\n"}) {
    refuses("tiktoken.model", text, "expected a token in base64 and its rank");
  }
  refuses("tiktoken.model", "YQ== 0\nYQ== 1\n", "expected one id");
  write("tiktoken.model", "YQ== 0\n");
  refuses("tokenizer_config.json", R"({"tokenizer_class": "Other"})", "expected TikTokenTokenizer");
  refuses("tokenizer_config.json", R"([])", "expected TikTokenTokenizer");
  for (const char* added :
       {"[]", R"({"-1": {"content": "x"}})", R"({"99999999": {"content": "x"}})", R"({"7": "x"})", R"({"7": {}})"}) {
    refuses("tokenizer_config.json",
            fmt::format(R"({{"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": {}}})", added),
            "added_tokens_decoder");
  }
}

}  // namespace
}  // namespace patchbay
