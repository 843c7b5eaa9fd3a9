// Requests that begin alike share pages of the cache, and nobody can tell from their tokens.
#include <gtest/gtest.h>

#include "tests/e2e/engine_fixture.hpp"

namespace patchbay::e2e {
namespace {

constexpr int64_t kPage = 16;

std::vector<int32_t> common(int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < n; ++t) ids.push_back(static_cast<int32_t>((t * 37 + t * t * 3) % 318) + 2);
  return ids;
}

// The common beginning, then ids of its own.
Request request(int64_t n_common, int32_t own, int64_t n_own) {
  Request r;
  r.prompt = common(n_common);
  for (int64_t t = 0; t < n_own; ++t) r.prompt.push_back(static_cast<int32_t>((t * 11 + own * 53) % 318) + 2);
  r.max_tokens = 20;
  r.seed = 40 + static_cast<uint64_t>(own);
  r.sampling.push_back({"temperature", 1.0});
  return r;
}

struct Case {
  const char* name;
  const char* fixture;
  std::vector<std::string> sets;
};

class Prefix : public ::testing::TestWithParam<Case> {
 protected:
  static std::vector<std::string> with(std::vector<std::string> more) {
    std::vector<std::string> all = GetParam().sets;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  // Tokens without any sharing.
  static std::vector<int32_t> alone(const Request& r) {
    TestEngine engine(GetParam().fixture, with({"engine.prefix_cache=false"}));
    if (!engine.ok()) return {};
    Record record;
    EXPECT_TRUE(engine->submit(r, &record).ok());
    engine.run();
    EXPECT_EQ(record.reason, FinishReason::kLength) << (record.error ? record.error->message : "");
    EXPECT_EQ(record.usage.n_reused, 0);
    return record.tokens;
  }
};

TEST_P(Prefix, tokens_are_those_of_a_request_that_shares_nothing) {
  TestEngine engine(GetParam().fixture, GetParam().sets);
  ASSERT_TRUE(engine.ok());
  for (const auto& [n_own, want_reused] : {std::pair<int64_t, int64_t>{7, 0}, {7, 48}, {30, 48}, {1, 48}}) {
    const Request r = request(50, static_cast<int32_t>(n_own), n_own);
    Record record;
    ASSERT_TRUE(engine->submit(r, &record).ok());
    engine.run();
    // The second is the first again, so that its own tokens are found too: three pages and no more, for 57 tokens.
    EXPECT_EQ(record.usage.n_reused, want_reused) << n_own;
    EXPECT_EQ(record.tokens, alone(r)) << n_own;
  }
  EXPECT_EQ(engine->stats().tokens_reused, 3U * 48);
  EXPECT_EQ(engine->stats().cache_pages_used, 0);
  EXPECT_GT(engine->stats().cache_pages_idle, 0);
}

TEST_P(Prefix, requests_at_one_time_share_and_stay_the_same) {
  TestEngine engine(GetParam().fixture, GetParam().sets);
  ASSERT_TRUE(engine.ok());
  std::vector<Record> records(12);
  const auto of = [](size_t i) {
    return request(40, static_cast<int32_t>(i % 5), 3 + static_cast<int64_t>(i % 5) * 6);
  };
  for (size_t i = 0; i < records.size(); ++i) {
    ASSERT_TRUE(engine->submit(of(i), &records[i]).ok());
    if (i % 3 == 0) engine->step();
  }
  engine.run();
  for (size_t i = 0; i < records.size(); ++i) EXPECT_EQ(records[i].tokens, alone(of(i))) << i;
  EXPECT_GT(engine->stats().tokens_reused, 0U);
  EXPECT_EQ(engine->stats().cache_pages_used, 0);
}

TEST_P(Prefix, a_whole_number_of_pages_leaves_one_to_compute) {
  TestEngine engine(GetParam().fixture, GetParam().sets);
  ASSERT_TRUE(engine.ok());
  const Request r = request(2 * kPage, 0, 0);
  for (const int64_t want_reused : {int64_t{0}, kPage}) {
    Record record;
    ASSERT_TRUE(engine->submit(r, &record).ok());
    engine.run();
    EXPECT_EQ(record.usage.n_reused, want_reused);
    EXPECT_EQ(record.tokens, alone(r));
  }
}

TEST_P(Prefix, in_a_cache_that_is_too_small_pages_are_given_up_and_tokens_stay_the_same) {
  TestEngine engine(GetParam().fixture, with({"engine.cache_tokens=192"}));
  ASSERT_TRUE(engine.ok());
  std::vector<Record> records(20);
  const auto of = [](size_t i) { return request(i % 2 == 0 ? 40 : 0, static_cast<int32_t>(i), 20); };
  for (size_t i = 0; i < records.size(); ++i) ASSERT_TRUE(engine->submit(of(i), &records[i]).ok());
  engine.run();
  for (size_t i = 0; i < records.size(); ++i) EXPECT_EQ(records[i].tokens, alone(of(i))) << i;
  EXPECT_EQ(engine->stats().cache_pages_used, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, Prefix,
                         ::testing::Values(Case{"latents", "deepseek_v3", {}}, Case{"windows", "gpt_oss", {}},
                                           Case{
                                               "router_with_context", "mixtral", {R"(router={plugin="context", k=2})"}},
                                           Case{"trained_router_with_context", "reasoner_attention", {}}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace patchbay::e2e
