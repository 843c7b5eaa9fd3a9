#include "core/service/text_generator.hpp"

#include <gtest/gtest.h>

#include <random>

#include "core/model/tokenizer/unicode.hpp"
#include "fake_engine.hpp"
#include "text_fixture.hpp"

namespace patchbay {
namespace {

using testing::byte_model;
using testing::bytes_of;
using testing::FakeEngine;

struct TextGeneratorTest : ::testing::Test {
  FakeEngine engine;
  std::unique_ptr<TextModel> model = byte_model();

  Generation run(TextRequest request, const std::function<void(const TextEvent&)>& on_text = {}) {
    auto result = generate(engine, *model, std::move(request), on_text);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? std::move(result).value() : Generation();
  }
  static TextRequest of(std::string_view text, std::vector<std::string> stop = {}) {
    TextRequest request;
    request.prompt = bytes_of(text);
    request.stop = std::move(stop);
    return request;
  }
};

TEST_F(TextGeneratorTest, text_and_ids_come_once_and_in_order) {
  int64_t next = 0;
  const auto g = run(of("a plain text"), [&](const TextEvent& e) {
    EXPECT_EQ(e.index, next);
    next += static_cast<int64_t>(e.tokens.size());
  });
  EXPECT_EQ(g.text, "a plain text");
  EXPECT_EQ(next, 12);
  EXPECT_EQ(g.end.reason, FinishReason::kStop);
  EXPECT_EQ(g.end.usage.n_generated, 12);
  EXPECT_EQ(g.end.usage.n_prompt, 12);
  EXPECT_EQ(g.end.stop, "");
}

TEST_F(TextGeneratorTest, no_event_holds_half_a_character) {
  const std::string text = "κόσμε 日本 🎉 é";
  int n_empty = 0;
  const auto g = run(of(text), [&](const TextEvent& e) {
    EXPECT_TRUE(unicode::is_valid(e.text));
    n_empty += e.text.empty() ? 1 : 0;
  });
  EXPECT_EQ(g.text, text);
  EXPECT_GT(n_empty, 10);  // each token is a byte
}

TEST_F(TextGeneratorTest, an_unfinished_character_at_the_end_becomes_the_replacement_character) {
  TextRequest request = of("ab\xE6\x97");
  std::vector<size_t> n_tokens;
  const auto g = run(request, [&](const TextEvent& e) { n_tokens.push_back(e.tokens.size()); });
  EXPECT_EQ(g.text, "ab\xEF\xBF\xBD");
  EXPECT_EQ(n_tokens, (std::vector<size_t>{1, 1, 1, 1, 0}));
}

TEST_F(TextGeneratorTest, a_stop_string_across_tokens_ends_the_text_before_it) {
  std::string early;
  const auto g = run(of("count 1 2 STOP 3", {"STOP"}), [&](const TextEvent& e) { early += e.text; });
  EXPECT_EQ(g.text, "count 1 2 ");
  EXPECT_EQ(early, g.text);
  EXPECT_EQ(g.end.reason, FinishReason::kStop);
  EXPECT_EQ(g.end.stop, "STOP");
  EXPECT_EQ(g.end.usage.n_generated, 14);  // the stop string's tokens are generated tokens
  EXPECT_TRUE(engine.idle());
}

TEST_F(TextGeneratorTest, a_stop_string_within_one_token_cuts_the_token) {
  TextRequest request;
  request.prompt = std::vector<int32_t>{'a', testing::kHello, 'b'};
  request.stop = {"ell"};
  const auto g = run(request);
  EXPECT_EQ(g.text, "aH");
  EXPECT_EQ(g.tokens.size(), 2U);
}

TEST_F(TextGeneratorTest, text_held_for_a_stop_string_that_does_not_come_is_not_lost) {
  EXPECT_EQ(run(of("ends with ST", {"STOP"})).text, "ends with ST");
  EXPECT_EQ(run(of("STSTSTOX", {"STOP"})).text, "STSTSTOX");
}

TEST_F(TextGeneratorTest, tokens_generated_after_the_stop_string_are_dropped) {
  struct Late final : TextListener {  // the engine hears of the cancel only a step later
    void on_text(const TextEvent& e) override { text += e.text, n += e.tokens.size(); }
    void on_end(const TextEnd& e) override { end = e; }
    std::string text;
    size_t n = 0;
    TextEnd end;
  } late;
  TextGenerator generator(engine, *model, late);
  ASSERT_TRUE(generator.start(of("ab|cd", {"|"})).ok());
  while (engine.step()) {
  }
  EXPECT_EQ(late.text, "ab");
  EXPECT_EQ(late.n, 3U);
  EXPECT_EQ(late.end.reason, FinishReason::kStop);
  EXPECT_EQ(late.end.usage.n_generated, 3);
}

TEST_F(TextGeneratorTest, max_tokens_ends_as_length) {
  TextRequest request = of("abcdef");
  request.max_tokens = 3;
  const auto g = run(request);
  EXPECT_EQ(g.text, "abc");
  EXPECT_EQ(g.end.reason, FinishReason::kLength);
}

TEST_F(TextGeneratorTest, the_end_token_ends_the_text_unless_ignored) {
  TextRequest request;
  request.prompt = std::vector<int32_t>{'a', testing::kEnd, 'b'};
  EXPECT_EQ(run(request).text, "a");
  request.ignore_end = true;
  const auto g = run(request);
  EXPECT_EQ(g.text, "a<end>b");  // special tokens stay visible: they mark where thinking ends
  EXPECT_EQ(g.tokens.size(), 3U);
}

TEST_F(TextGeneratorTest, a_failure_keeps_the_text_before_it_and_its_error) {
  engine.fail_at = 2;
  const auto g = run(of("abcd"));
  EXPECT_EQ(g.text, "ab");
  EXPECT_EQ(g.end.reason, FinishReason::kFailed);
  ASSERT_TRUE(g.end.error.has_value());
  EXPECT_EQ(g.end.error->code, MOE_DATA_LOSS);
}

TEST_F(TextGeneratorTest, an_interruption_cancels) {
  engine.endless = true;
  int n = 0;
  auto result = generate(engine, *model, of("ab"), {}, [&] { return ++n > 5; });
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->end.reason, FinishReason::kCancelled);
  EXPECT_EQ(result->text, "ababa");
}

TEST_F(TextGeneratorTest, wrong_requests_are_refused_before_anything_runs) {
  const auto code = [&](TextRequest request) {
    auto result = generate(engine, *model, std::move(request));
    return result.ok() ? MOE_OK : result.error().code;
  };
  EXPECT_EQ(code(of("")), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(code(of("a", {""})), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(code(of("a", {std::string(1025, 'x')})), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(code(of("a", {"\xFF"})), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(code(of("a", std::vector<std::string>(33, "x"))), MOE_INVALID_ARGUMENT);
  TextRequest chat;
  chat.prompt = ChatPrompt{};
  EXPECT_EQ(code(chat), MOE_FAILED_PRECONDITION);  // no template
  TextRequest unknown = of("a");
  unknown.sampling = {{"tempratur", 0.5}};
  EXPECT_EQ(code(unknown), MOE_INVALID_ARGUMENT);
  TextRequest huge;
  huge.prompt = std::string(1 << 20, 'x');
  EXPECT_EQ(code(huge), MOE_INVALID_ARGUMENT);
  EXPECT_TRUE(engine.idle());
}

TEST_F(TextGeneratorTest, a_model_without_a_tokenizer_speaks_ids) {
  model = std::make_unique<TextModel>(nullptr, nullptr, std::vector<int32_t>{7});
  TextRequest request;
  request.prompt = std::vector<int32_t>{5, 6, 7, 8};
  const auto g = run(request);
  EXPECT_EQ(g.text, "");
  EXPECT_EQ(g.tokens.size(), 2U);
  request.prompt = std::string("text");
  EXPECT_FALSE(generate(engine, *model, request).ok());
}

TEST_F(TextGeneratorTest, a_chat_goes_through_the_template) {
  model = byte_model("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ tail }}");
  TextRequest request;
  request.prompt = ChatPrompt{{{{"role", "user"}, {"content", "hi"}}}, {{"tail", "!"}}};
  EXPECT_EQ(run(request).text, "[user]hi!");
}

// What stop strings mean, in one line: cut at the match that ends first, the longest of those.
std::pair<std::string, std::string> cut(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string* best = nullptr;
    for (const auto& s : stops) {
      if (end >= s.size() && text.compare(end - s.size(), s.size(), s) == 0 &&
          (best == nullptr || s.size() > best->size()))
        best = &s;
    }
    if (best != nullptr) return {text.substr(0, end - best->size()), *best};
  }
  return {text, ""};
}

TEST(StopMatcher, finds_what_a_plain_search_finds_however_the_text_is_cut) {
  std::mt19937 random(5);
  const auto word = [&](size_t n) {
    std::string s;
    for (size_t i = 0; i < n; ++i) s += static_cast<char>('a' + random() % 2);
    return s;
  };
  int n_found = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < 1 + random() % 3; ++i) stops.push_back(word(1 + random() % 6));
    if (round % 2 == 0) {
      for (auto& s : stops) s += "c";  // rarer, so that texts end without one
    }
    const std::string text = word(random() % 20) + (round % 4 == 0 ? "c" : "") + word(random() % 5);
    auto matcher = StopMatcher::create(stops);
    ASSERT_TRUE(matcher.ok());
    std::string got;
    for (size_t at = 0; at < text.size();) {
      const size_t n = std::min<size_t>(1 + random() % 4, text.size() - at);
      got += matcher->push(std::string_view(text).substr(at, n));
      at += n;
    }
    got += matcher->flush();
    const auto [want, stop] = cut(text, stops);
    EXPECT_EQ(got, want) << text;
    EXPECT_EQ(matcher->matched() == nullptr ? "" : *matcher->matched(), stop) << text;
    n_found += stop.empty() ? 0 : 1;
  }
  EXPECT_GT(n_found, 500);
  EXPECT_LT(n_found, 2900);
}

TEST(StopMatcher, holds_back_no_more_than_could_still_match) {
  auto matcher = StopMatcher::create({"abcd"});
  ASSERT_TRUE(matcher.ok());
  EXPECT_EQ(matcher->push("xxabc"), "xx");
  EXPECT_EQ(matcher->push("ab"), "abc");
  EXPECT_EQ(matcher->push("x"), "abx");
}

}  // namespace
}  // namespace patchbay
