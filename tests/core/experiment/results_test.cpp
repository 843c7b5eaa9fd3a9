#include "core/experiment/results.hpp"

#include <gtest/gtest.h>

#include "tests/e2e/program.hpp"

namespace patchbay {
namespace {

TEST(ExperimentResults, what_was_added_is_there_when_the_file_is_opened_again) {
  const e2e::ScratchDir dir;
  {
    auto file = ResultsFile::open(dir / "results.jsonl");
    ASSERT_TRUE(file.ok()) << file.error().message;
    ASSERT_TRUE(file->add({{"key", "1"}, {"cell", "a"}, {"x", 0.1}}).ok());
    ASSERT_TRUE(file->add({{"key", "2"}, {"cell", "b"}, {"error", "no"}}).ok());
    EXPECT_EQ(file->find("2"), nullptr) << "a cell that failed is to be run again";
  }
  const auto file = ResultsFile::open(dir / "results.jsonl");
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_NE(file->find("1"), nullptr);
  EXPECT_EQ((*file->find("1"))["x"], 0.1);
  EXPECT_EQ(file->find("2"), nullptr);
}

TEST(ExperimentResults, a_last_line_that_was_cut_off_is_taken_away) {
  const e2e::ScratchDir dir;
  const std::string whole = "{\"key\":\"1\",\"cell\":\"a\"}\n";
  e2e::write_text(dir / "r", whole + "{\"key\":\"2\",\"ce");
  auto file = ResultsFile::open(dir / "r");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_NE(file->find("1"), nullptr);
  EXPECT_EQ(e2e::read_text(dir / "r"), whole);
  ASSERT_TRUE(file->add({{"key", "2"}, {"cell", "b"}}).ok());
  EXPECT_EQ(e2e::read_text(dir / "r"), whole + "{\"cell\":\"b\",\"key\":\"2\"}\n");
}

TEST(ExperimentResults, a_file_of_something_else_is_refused_by_line_and_left_alone) {
  const e2e::ScratchDir dir;
  for (const std::string bad : {"[]\n", "words\n", "{\"key\":1}\n", "{\"key\":\"1\"}\n"}) {
    const std::string text = "{\"key\":\"1\",\"cell\":\"a\"}\n" + bad + "rest";
    e2e::write_text(dir / "r", text);
    const auto file = ResultsFile::open(dir / "r");
    ASSERT_FALSE(file.ok()) << bad;
    EXPECT_NE(file.error().message.find("r: line 2: "), std::string::npos) << file.error().message;
    EXPECT_EQ(e2e::read_text(dir / "r"), text);
  }
}

TEST(ExperimentResults, a_folder_that_cannot_be_written_is_an_error) {
  const auto file = ResultsFile::open("/nowhere/at/all/results.jsonl");
  ASSERT_FALSE(file.ok());
  EXPECT_NE(file.error().message.find("could not be opened"), std::string::npos) << file.error().message;
}

}  // namespace
}  // namespace patchbay
