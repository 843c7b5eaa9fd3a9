// penalties and logit_bias.
#include "link.hpp"

namespace patchbay::test {
namespace {

std::vector<float> penalised(const Row& row, float repetition, float presence, float frequency) {
  auto logits = row.logits;
  for (size_t id = 0; id < logits.size(); ++id) {
    int all = 0;
    int output = 0;
    for (size_t i = 0; i < row.history.size(); ++i) {
      if (row.history[i] != static_cast<int32_t>(id)) continue;
      ++all;
      if (static_cast<int64_t>(i) >= row.n_prompt) ++output;
    }
    float& v = logits[id];
    if (all > 0) v = v < 0 ? v * repetition : v / repetition;
    if (output > 0) v -= presence + frequency * static_cast<float>(output);
  }
  return logits;
}

TEST(Penalties, follow_their_definitions_while_the_history_grows) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    constexpr int64_t kVocab = 50;
    std::mt19937 random(seed);
    const Link link("penalties", kVocab,
                    {{"repetition_penalty", 1.3}, {"presence_penalty", 0.5}, {"frequency_penalty", -0.25}});
    Row row;
    row.n_prompt = seed;
    for (uint32_t i = 0; i < seed; ++i) row.history.push_back(static_cast<int32_t>(random() % kVocab));
    for (int step = 0; step < 60; ++step) {
      row.logits = random_logits(kVocab, random());
      const auto expected = penalised(row, 1.3F, 0.5F, -0.25F);
      EXPECT_EQ(link.applied(row).logits, expected) << "seed " << seed << ", step " << step;
      row.history.push_back(static_cast<int32_t>(random() % kVocab));
    }
  }
}

TEST(Penalties, presence_and_frequency_do_not_look_at_the_prompt) {
  const Row row{{1, 1, 1}, {0, 0, 1}, 2};
  EXPECT_EQ(Link("penalties", 3, {{"presence_penalty", 1.0}}).applied(row).logits, (std::vector<float>{1, 0, 1}));
  EXPECT_EQ(Link("penalties", 3, {{"repetition_penalty", 2.0}}).applied(row).logits,
            (std::vector<float>{0.5F, 0.5F, 1}));
}

TEST(Penalties, ignore_ids_that_have_no_logit) {
  const Row row{{1, 1}, {-1, 2, 1 << 30, 1}, 0};
  EXPECT_EQ(Link("penalties", 2, {{"frequency_penalty", 1.0}}).applied(row).logits, (std::vector<float>{1, 0}));
}

TEST(Penalties, start_over_with_a_shorter_history) {
  const Link link("penalties", 3, {{"frequency_penalty", 1.0}});
  EXPECT_EQ(link.applied({{5, 5, 5}, {0, 0, 1}, 0}).logits, (std::vector<float>{3, 4, 5}));
  EXPECT_EQ(link.applied({{5, 5, 5}, {2}, 0}).logits, (std::vector<float>{5, 5, 4}));
}

TEST(Penalties, a_fork_goes_its_own_way) {
  const Link link("penalties", 3, {{"frequency_penalty", 1.0}});
  EXPECT_EQ(link.applied({{5, 5, 5}, {0}, 0}).logits, (std::vector<float>{4, 5, 5}));
  const Link fork = link.fork();
  EXPECT_EQ(link.applied({{5, 5, 5}, {0, 1}, 0}).logits, (std::vector<float>{4, 4, 5}));
  EXPECT_EQ(fork.applied({{5, 5, 5}, {0, 2}, 0}).logits, (std::vector<float>{4, 5, 4}));
}

TEST(LogitBias, adds_to_the_tokens_named) {
  const Link link("logit_bias", 4, {{"value", std::string(" 3:-inf, 0:1.5 ,2:-2")}});
  EXPECT_EQ(link.error(), "");
  EXPECT_EQ(link.applied({{1, 1, 1, 1}}).logits, (std::vector<float>{2.5F, 1, -1, -kInf}));
}

TEST(LogitBias, refuses_what_is_not_a_list_of_biases) {
  const std::pair<const char*, const char*> rows[] = {
      {"1", "value: expected id:bias, got \"1\""},
      {"1:1,", "value: expected id:bias after the last comma, got the end"},
      {",1:1", "value: expected id:bias, got \"\""},
      {"4:1", "value: expected a token id in [0, 4) before ':', got \"4:1\""},
      {"-1:1", "value: expected a token id in [0, 4) before ':', got \"-1:1\""},
      {"99999999999999999999:1", "value: expected a token id in [0, 4) before ':', got \"99999999999999999999:1\""},
      {"1:nan", "value: expected a bias from -1e6 to 1e6, or -inf, after ':', got \"1:nan\""},
      {"1:inf", "value: expected a bias from -1e6 to 1e6, or -inf, after ':', got \"1:inf\""},
      {"1:1e9", "value: expected a bias from -1e6 to 1e6, or -inf, after ':', got \"1:1e9\""},
      {"1:1x", "value: expected a bias from -1e6 to 1e6, or -inf, after ':', got \"1:1x\""},
      {"1:1,0:2,1:3", "value: expected each id once, got 1 twice"}};
  for (const auto& [text, error] : rows)
    EXPECT_EQ(Link("logit_bias", 4, {{"value", std::string(text)}}).error(), error);
}

}  // namespace
}  // namespace patchbay::test
