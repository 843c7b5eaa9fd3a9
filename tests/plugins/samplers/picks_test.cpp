// greedy and pick.
#include "link.hpp"
#include "moe/sdk/logits.hpp"
#include "moe/sdk/random.hpp"

namespace patchbay::test {
namespace {

TEST(Greedy, picks_the_best_and_the_lower_of_equals) {
  EXPECT_EQ(Link("greedy", 1).applied({{-5}}).picked, 0);
  EXPECT_EQ(Link("greedy", 4).applied({{-kInf, 2, 7, 7}}).picked, 2);
  for (uint32_t seed = 0; seed < 30; ++seed) {
    const auto logits = random_logits(333 + seed, seed);
    EXPECT_EQ(Link("greedy", 333 + seed).applied({logits}).picked, static_cast<int32_t>(ranked(logits)[0])) << seed;
  }
}

int32_t inverse_of_distribution(const std::vector<float>& logits, double u) {
  const auto share = softmax(logits);
  double sum = 0;
  for (size_t i = 0; i < share.size(); ++i) {
    sum += share[i];
    if (u < sum) return static_cast<int32_t>(i);
  }
  return -1;
}

TEST(Pick, inverts_the_cumulative_distribution) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const size_t n = seed % 2 == 0 ? 300 : 2049;
    const auto logits = random_logits(n, seed);
    const Link link("pick", static_cast<int64_t>(n));
    for (uint64_t counter = 0; counter < 50; ++counter) {
      const Row row = link.applied({logits, {}, 0, seed, counter});
      EXPECT_EQ(row.picked, inverse_of_distribution(logits, moe::uniform(seed, counter))) << seed << ", " << counter;
    }
  }
}

// Pearson's statistic over the tokens that 1e5 draws should meet at least 5 times; the bound is the normal
// approximation's at a probability of 1e-9, so a right link fails once in a thousand million seeds (and these seeds are
// fixed).
void check_shares(const std::vector<float>& logits, bool by_seed) {
  constexpr int kDraws = 100000;
  const Link link("pick", static_cast<int64_t>(logits.size()));
  const auto share = softmax(logits);
  std::vector<int> count(logits.size());
  Row row{logits};
  for (int i = 0; i < kDraws; ++i) {
    row.seed = by_seed ? static_cast<uint64_t>(i) : 77;
    row.counter = by_seed ? 5 : static_cast<uint64_t>(i);
    row.picked = MOE_PICKED_NONE;
    link.apply(row);
    ++count[static_cast<size_t>(row.picked)];
  }
  double chi2 = 0;
  int cells = 0;
  double rest = kDraws;
  int rest_count = kDraws;
  for (size_t i = 0; i < share.size(); ++i) {
    const double expected = share[i] * kDraws;
    if (expected < 5) {
      EXPECT_TRUE(share[i] > 0 || count[i] == 0) << "id " << i << " was taken out";
      continue;
    }
    chi2 += (count[i] - expected) * (count[i] - expected) / expected;
    rest -= expected;
    rest_count -= count[i];
    ++cells;
  }
  if (rest >= 5) {
    chi2 += (rest_count - rest) * (rest_count - rest) / rest;
    ++cells;
  }
  const double freedom = cells - 1;
  ASSERT_GT(freedom, 3);
  EXPECT_TRUE(chi2 < freedom + 6 * std::sqrt(2 * freedom) + 36)
      << "chi2 " << chi2 << ", degrees of freedom " << freedom;
}

TEST(Pick, draws_each_token_by_its_share) {
  check_shares({0, 1, -1, 2, -kInf, 0.5F, 1.5F, -3}, false);
  check_shares(random_logits(600, 1), false);
  check_shares(std::vector<float>(100, -7.0F), false);
}

TEST(Pick, draws_of_different_seeds_are_independent) { check_shares({0, 1, -1, 2, -kInf, 0.5F, 1.5F, -3}, true); }

TEST(Pick, depends_on_seed_and_counter_and_nothing_else) {
  const auto logits = random_logits(1000, 5);
  const Link a("pick", 1000);
  const Link b("pick", 1000);
  const Link c = a.fork();
  int differs = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    const int32_t token = a.applied({logits, {}, 0, 9, i}).picked;
    EXPECT_EQ(b.applied({logits, {1, 2, 3}, 1, 9, i}).picked, token);
    EXPECT_EQ(c.applied({logits, {}, 0, 9, i}).picked, token);
    differs += a.applied({logits, {}, 0, 10, i}).picked != token ? 1 : 0;
  }
  EXPECT_GT(differs, 20);
}

TEST(Pick, never_draws_what_was_taken_out) {
  std::vector<float> logits(700, -kInf);
  logits[300] = -1e30F;
  logits[650] = -1e30F;
  const Link link("pick", 700);
  for (uint64_t i = 0; i < 1000; ++i) {
    const int32_t token = link.applied({logits, {}, 0, 3, i}).picked;
    EXPECT_TRUE(token == 300 || token == 650) << token;
  }
}

TEST(ExpBelowZero, is_within_four_units_in_the_last_place) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> any(-700, 0);
  for (int i = 0; i < 200000; ++i) {
    const double x = i % 2 == 0 ? any(random) : any(random) * 1e-3;
    const double want = std::exp(x);
    const double tol = 4 * std::numeric_limits<double>::epsilon() * want;
    ASSERT_TRUE(std::fabs(moe::exp_below_zero(x) - want) <= tol) << "x " << x << ", got " << moe::exp_below_zero(x);
  }
  EXPECT_EQ(moe::exp_below_zero(0.0), 1.0);
  EXPECT_EQ(moe::exp_below_zero(-0.0), 1.0);
  EXPECT_EQ(moe::exp_below_zero(-1e30), 0.0);
  EXPECT_EQ(moe::exp_below_zero(-std::numeric_limits<double>::infinity()), 0.0);
  EXPECT_TRUE(std::isnan(moe::exp_below_zero(std::numeric_limits<double>::quiet_NaN())));
}

}  // namespace
}  // namespace patchbay::test
