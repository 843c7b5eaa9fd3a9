#include "core/service/reasoning.hpp"

#include <gtest/gtest.h>

namespace patchbay {
namespace {

struct Joined {
  std::string reasoning;
  std::string text;
  bool operator==(const Joined&) const = default;
};

void PrintTo(const Joined& j, std::ostream* out) { *out << "{" << j.reasoning << "|" << j.text << "}"; }

Joined split(const std::string& input, size_t piece, bool opened = false) {
  ReasoningSplitter splitter(opened);
  Joined all;
  const auto add = [&](const ReasoningSplitter::Parts& p) {
    if (!p.reasoning.empty()) {
      EXPECT_EQ(all.text, "") << "thinking after the answer";
    }
    all.reasoning += p.reasoning;
    all.text += p.text;
  };
  for (size_t i = 0; i < input.size(); i += piece) add(splitter.push(input.substr(i, piece)));
  add(splitter.flush());
  return all;
}

struct Case {
  const char* input;
  bool opened;
  Joined parts;
};

TEST(Reasoning, thinking_and_answer_are_apart_however_the_text_is_cut) {
  const Case cases[] = {
      {"plain text", false, {"", "plain text"}},
      {"  plain text \n", false, {"", "  plain text \n"}},
      {"", false, {"", ""}},
      {" \n", false, {"", " \n"}},
      {"<think>a</think>b", false, {"a", "b"}},
      {"\n<think>\n\na b\n\nc\n</think>\n\nb\n", false, {"a b\n\nc", "b\n"}},
      {"<think>\n\n</think>\n\nb", false, {"", "b"}},
      {"<think>a", false, {"a", ""}},
      {"<think>a </thin", false, {"a </thin", ""}},
      {"<thinking>", false, {"", "<thinking>"}},
      {"<thin", false, {"", "<thin"}},
      {"text <think>a</think>", false, {"", "text <think>a</think>"}},
      {"<think>a</think>b<think>c</think>", false, {"a", "b<think>c</think>"}},
      {"a</think>b", true, {"a", "b"}},
      {"\n a < b </ </think>\n<c>", true, {"a < b </", "<c>"}},
      {"</think>b", true, {"", "b"}},
  };
  for (const Case& c : cases) {
    for (size_t piece = 1; piece <= 20; ++piece) {
      EXPECT_EQ(split(c.input, piece, c.opened), c.parts) << c.input << " in pieces of " << piece;
    }
  }
}

TEST(Reasoning, no_more_is_held_back_than_may_become_a_marker) {
  ReasoningSplitter splitter(true);
  EXPECT_EQ(splitter.push("abc<").reasoning, "abc");
  EXPECT_EQ(splitter.push("b").reasoning, "<b");
  EXPECT_EQ(splitter.push(" \n").reasoning, "");
  EXPECT_EQ(splitter.push("c").reasoning, " \nc");
  EXPECT_TRUE(splitter.is_thinking());
  EXPECT_EQ(splitter.push("</think>x").text, "x");
  EXPECT_FALSE(splitter.is_thinking());
  EXPECT_EQ(splitter.push("y <think> ").text, "y <think> ");
}

TEST(Reasoning, a_prompt_may_have_opened_it) {
  EXPECT_TRUE(ReasoningSplitter::opens("question<think>"));
  EXPECT_TRUE(ReasoningSplitter::opens("question<think>\n"));
  EXPECT_FALSE(ReasoningSplitter::opens("<think>\n\n</think>\n\n"));
  EXPECT_FALSE(ReasoningSplitter::opens("question"));
  EXPECT_FALSE(ReasoningSplitter::opens("\n"));
  EXPECT_FALSE(ReasoningSplitter::opens(""));
}

}  // namespace
}  // namespace patchbay
