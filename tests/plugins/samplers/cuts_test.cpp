// temperature, top_k, top_p and min_p against their definitions.
#include "link.hpp"

namespace patchbay::test {
namespace {

constexpr size_t kSizes[] = {1, 2, 15, 16, 17, 255, 256, 257, 1000, 5000};

TEST(Temperature, divides_every_logit) {
  for (const size_t n : kSizes) {
    const auto logits = random_logits(n, static_cast<uint32_t>(n));
    for (const double t : {0.25, 0.6, 1.0, 2.0}) {
      const Row row = Link("temperature", static_cast<int64_t>(n), {{"value", t}}).applied({logits});
      EXPECT_EQ(row.picked, MOE_PICKED_NONE);
      for (size_t i = 0; i < n; ++i) EXPECT_EQ(row.logits[i], logits[i] / static_cast<float>(t));
    }
  }
}

TEST(Temperature, at_zero_picks_the_best_and_the_lower_of_equals) {
  EXPECT_EQ(Link("temperature", 4, {{"value", 0.0}}).applied({{1, 3, 3, 2}}).picked, 1);
  EXPECT_EQ(Link("temperature", 4, {{"value", 1e-60}}).applied({{1, 3, 3, 2}}).picked, 1);
}

TEST(Temperature, near_zero_stays_finite_where_it_counts) {
  const Row row = Link("temperature", 3, {{"value", 1e-38}}).applied({{100, 99, 100}});
  EXPECT_EQ(row.logits[0], 0.0F);
  EXPECT_EQ(row.logits[2], 0.0F);
  EXPECT_LT(row.logits[1], -1e30F);
  EXPECT_EQ(Link("pick", 3).applied(row).picked % 2, 0);
}

TEST(TopK, keeps_exactly_the_k_best_and_the_lower_of_equals) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const size_t n = kSizes[seed % std::size(kSizes)];
    const auto logits = random_logits(n, seed);
    for (const size_t k : {size_t{1}, size_t{2}, n / 2, n - 1, n, n + 1, size_t{40}}) {
      const Row row = Link("top_k", static_cast<int64_t>(n), {{"value", static_cast<int64_t>(k)}}).applied({logits});
      const auto expected = k == 0 ? logits : only_first(logits, ranked(logits), k);
      EXPECT_EQ(row.logits, expected) << "seed " << seed << ", n " << n << ", k " << k;
    }
  }
}

TEST(TopK, does_not_depend_on_the_order_of_the_row) {
  std::vector<float> up(20000);
  std::iota(up.begin(), up.end(), -1000.0F);  // fills the buffer again and again
  const std::vector<float> down(up.rbegin(), up.rend());
  for (const int64_t k : {1, 50, 3000}) {
    const auto size = static_cast<size_t>(k);
    EXPECT_EQ(Link("top_k", 20000, {{"value", k}}).applied({up}).logits, only_first(up, ranked(up), size));
    EXPECT_EQ(Link("top_k", 20000, {{"value", k}}).applied({down}).logits, only_first(down, ranked(down), size));
  }
}

TEST(TopK, keeps_everything_where_fewer_are_left) {
  const std::vector<float> logits = {-kInf, 2, -kInf, 1};
  EXPECT_EQ(Link("top_k", 4, {{"value", int64_t{3}}}).applied({logits}).logits, logits);
}

size_t nucleus(const std::vector<float>& logits, const std::vector<size_t>& order, double p) {
  const auto share = softmax(logits);
  double sum = 0;
  size_t n = 0;
  while (n < order.size() && logits[order[n]] > -kInf) {
    sum += share[order[n++]];
    if (sum >= p) break;
  }
  return std::max<size_t>(n, 1);
}

TEST(TopP, keeps_the_fewest_best_that_reach_p) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const size_t n = kSizes[seed % std::size(kSizes)];
    const auto logits = random_logits(n, seed);
    const auto order = ranked(logits);
    for (const double p : {0.0, 0.0999, 0.51, 0.9, 0.953, 0.99, 0.999999}) {
      const Row row = Link("top_p", static_cast<int64_t>(n), {{"value", p}}).applied({logits});
      EXPECT_EQ(row.logits, only_first(logits, order, nucleus(logits, order, p)))
          << "seed " << seed << ", n " << n << ", p " << p;
    }
  }
}

TEST(TopP, of_equals_keeps_the_lower_ids) {
  const std::vector<float> equal(1024, 3.0F);  // sums of these shares are exact
  for (const size_t kept : {1, 2, 511, 512, 1023}) {
    const Row row = Link("top_p", 1024, {{"value", static_cast<double>(kept) / 1024}}).applied({equal});
    EXPECT_EQ(row.logits, only_first(equal, ranked(equal), kept)) << kept;
  }
}

TEST(TopP, works_at_any_scale) {
  EXPECT_EQ(Link("top_p", 3, {{"value", 0.9}}).applied({{3e38F, -3e38F, 1}}).logits,
            (std::vector<float>{3e38F, -kInf, -kInf}));
  EXPECT_EQ(Link("top_p", 3, {{"value", 0.4}}).applied({{-3e38F, -3e38F, -3e38F}}).logits,
            (std::vector<float>{-3e38F, -3e38F, -kInf}));
}

TEST(MinP, takes_out_what_is_below_its_share_of_the_best) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const size_t n = kSizes[seed % std::size(kSizes)];
    const auto logits = random_logits(n, seed);
    const auto share = softmax(logits);
    const double best = *std::max_element(share.begin(), share.end());
    for (const double p : {0.013, 0.1, 0.57}) {
      const Row row = Link("min_p", static_cast<int64_t>(n), {{"value", p}}).applied({logits});
      for (size_t i = 0; i < n; ++i) {
        EXPECT_EQ(row.logits[i], share[i] < p * best ? -kInf : logits[i])
            << "seed " << seed << ", p " << p << ", id " << i;
      }
    }
  }
}

TEST(MinP, of_one_keeps_the_best_alone) {
  EXPECT_EQ(Link("min_p", 4, {{"value", 1.0}}).applied({{5, 4.999F, 5, -kInf}}).logits,
            (std::vector<float>{5, -kInf, 5, -kInf}));
}

}  // namespace
}  // namespace patchbay::test
