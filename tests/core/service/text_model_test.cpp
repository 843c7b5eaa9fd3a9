#include "core/service/text_model.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "text_fixture.hpp"

namespace patchbay {
namespace {

struct ModelDir : ::testing::Test {
  void SetUp() override {
    std::string name = ::testing::TempDir() + "text_model_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir); }
  void write(const char* name, std::string_view text) const { std::ofstream(dir / name) << text; }
  std::filesystem::path dir;
};

TEST_F(ModelDir, a_model_without_tokenizer_and_template_loads_and_speaks_ids) {
  const auto model = TextModel::load(dir);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*model)->tokenizer(), nullptr);
  EXPECT_EQ((*model)->chat(), nullptr);
  EXPECT_EQ(*(*model)->prompt_ids(std::vector<int32_t>{3, 4}, 10), (std::vector<int32_t>{3, 4}));
  EXPECT_EQ((*model)->prompt_ids(std::string("x"), 10).error().code, MOE_FAILED_PRECONDITION);
  EXPECT_EQ((*model)->prompt_ids(ChatPrompt{}, 10).error().code, MOE_FAILED_PRECONDITION);
}

TEST_F(ModelDir, a_broken_tokenizer_is_an_error_and_not_a_missing_one) {
  write("tokenizer.json", "{");
  EXPECT_FALSE(TextModel::load(dir).ok());
}

TEST(TextModel, reads_the_quickstart_model) {
  const std::filesystem::path dir = std::filesystem::path(PATCHBAY_SOURCE_DIR) / "configs/quickstart/model";
  const auto model = TextModel::load(dir);
  ASSERT_TRUE(model.ok()) << model.error().message;
  ASSERT_EQ((*model)->stop_ids().size(), 1U);
  EXPECT_EQ((*model)->stop_ids()[0], 1);
  ChatPrompt chat;
  chat.messages = {{{"role", "user"}, {"content", "1 + 1 = ?"}}};
  const auto ids = (*model)->prompt_ids(chat, 1024);
  ASSERT_TRUE(ids.ok()) << ids.error().message;
  EXPECT_EQ(ids->front(), 0);                             // one begin-of-sentence,
  EXPECT_EQ(std::count(ids->begin(), ids->end(), 0), 1);  // not a second one from the tokenizer
  EXPECT_EQ((*model)->tokenizer()->decode(*ids, false),
            "<｜begin▁of▁sentence｜><｜User｜>1 + 1 = ?<｜Assistant｜><think>\n");
}

}  // namespace
}  // namespace patchbay
