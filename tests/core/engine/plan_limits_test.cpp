#include "core/engine/plan_limits.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>

namespace patchbay {
namespace {

struct Plan {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<int32_t> count;
  int64_t limit(CapacityLimit& by) {
    return by.apply(static_cast<int64_t>(count.size()), ids.data(), weights.data(), count.data());
  }
};

TEST(CapacityLimit, is_that_of_the_formula_and_at_least_one_token) {
  const CapacityLimit limit(1.25, Overflow::kPosition, 8, 2, 64);
  EXPECT_EQ(limit.capacity(64), 20);  // 1.25 * 2 * 64 / 8
  EXPECT_EQ(limit.capacity(5), 2);    // 1.5625
  EXPECT_EQ(limit.capacity(1), 1);
}

TEST(CapacityLimit, by_position_gives_first_choices_before_second_ones_and_earlier_tokens_before_later_ones) {
  CapacityLimit limit(1.0, Overflow::kPosition, 2, 2, 3);  // 3 tokens each
  Plan plan{{0, 1, 0, 1, 1, 0}, {0.9F, 0.1F, 0.8F, 0.2F, 0.7F, 0.3F}, {2, 2, 2}};
  EXPECT_EQ(plan.limit(limit), 0);
  EXPECT_EQ(plan.count, (std::vector<int32_t>{2, 2, 2}));

  CapacityLimit half(0.5, Overflow::kPosition, 2, 2,
                     3);  // 2 each: 0 has its first two, 1 the third's first and one second
  EXPECT_EQ(plan.limit(half), 2);
  EXPECT_EQ(plan.count, (std::vector<int32_t>{2, 1, 1}));
  EXPECT_EQ(plan.ids[2], 0);
  EXPECT_EQ(plan.ids[4], 1);
  EXPECT_EQ(plan.weights, (std::vector<float>{0.9F, 0.1F, 0.8F, 0, 0.7F, 0}));
}

TEST(CapacityLimit, by_weight_keeps_the_largest_whoever_has_them) {
  CapacityLimit limit(0.5, Overflow::kWeight, 2, 2, 3);  // 2 each
  Plan plan{{0, 1, 0, 1, 0, 1}, {0.5F, 0.4F, 0.6F, 0.1F, 0.7F, 0.3F}, {2, 2, 2}};
  EXPECT_EQ(plan.limit(limit), 2);
  EXPECT_EQ(plan.count, (std::vector<int32_t>{1, 1, 2}));
  EXPECT_EQ(plan.ids[0], 1);  // its choice of 0 gave way
  EXPECT_EQ(plan.weights, (std::vector<float>{0.4F, 0, 0.6F, 0, 0.7F, 0.3F}));
}

TEST(CapacityLimit, a_token_that_loses_all_keeps_one_expert_with_weight_0) {
  CapacityLimit limit(0.25, Overflow::kPosition, 2, 1, 4);  // 1 token each
  Plan plan{{0, 0, 0, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}};
  EXPECT_EQ(plan.limit(limit), 2);
  EXPECT_EQ(plan.count, (std::vector<int32_t>{1, 1, 1, 1}));
  EXPECT_EQ(plan.ids, (std::vector<int32_t>{0, 0, 0, 1}));
  EXPECT_EQ(plan.weights, (std::vector<float>{1, 0, 0, 1}));
}

TEST(CapacityLimit, what_costs_nothing_has_no_limit_and_what_is_no_number_stays) {
  CapacityLimit limit(0.5, Overflow::kWeight, 2, 1, 4);  // 1 token each; id 2 is a zero-compute expert
  Plan plan{{2, 2, 0, 0}, {1, 1, 5, std::numeric_limits<float>::quiet_NaN()}, {1, 1, 1, 1}};
  EXPECT_EQ(plan.limit(limit), 1);
  EXPECT_EQ(plan.weights[0], 1);
  EXPECT_EQ(plan.weights[1], 1);
  EXPECT_EQ(plan.weights[2], 0);
  EXPECT_TRUE(std::isnan(plan.weights[3]));
}

TEST(CapacityLimit, no_expert_has_more_than_its_capacity_and_rows_stay_legal) {
  std::mt19937 random(1);
  for (const Overflow overflow : {Overflow::kPosition, Overflow::kWeight}) {
    constexpr int64_t kTokens = 50, kExperts = 8, kK = 3;
    CapacityLimit limit(0.8, overflow, kExperts, kK, kTokens);
    Plan plan;
    for (int64_t t = 0; t < kTokens; ++t) {
      std::vector<int32_t> all = {0, 1, 2, 3, 4, 5, 6, 7};
      std::shuffle(all.begin() + 2, all.end(), random);  // 0 and 1 are in demand
      plan.count.push_back(1 + static_cast<int32_t>(random() % kK));
      for (int64_t j = 0; j < kK; ++j) {
        plan.ids.push_back(all[static_cast<size_t>(j)]);
        plan.weights.push_back(j < plan.count.back() ? std::uniform_real_distribution<float>(0.1F, 1)(random) : 0);
      }
    }
    EXPECT_GT(plan.limit(limit), 0);
    std::vector<int64_t> load(kExperts);
    for (size_t t = 0; t < kTokens; ++t) {
      const auto row = plan.ids.begin() + static_cast<int64_t>(t * kK);
      EXPECT_EQ(std::set<int32_t>(row, row + kK).size(), static_cast<size_t>(kK));
      ASSERT_GE(plan.count[t], 1);
      for (size_t j = 0; j < static_cast<size_t>(kK); ++j) {
        const float w = plan.weights[t * kK + j];
        if (j >= static_cast<size_t>(plan.count[t])) {
          EXPECT_EQ(w, 0);
        } else if (w != 0) {
          ++load[static_cast<size_t>(row[static_cast<int64_t>(j)])];
        }
      }
    }
    for (const int64_t l : load) EXPECT_LE(l, limit.capacity(kTokens));
    EXPECT_EQ(load[0], limit.capacity(kTokens));
  }
}

// Tokens that prefer low experts, and a bias that is added to what they want.
TEST(LoadBalancer, evens_out_a_load_that_is_far_from_even) {
  constexpr int64_t kTokens = 64, kExperts = 8;
  LoadBalancer balancer(0.02, kExperts);
  std::mt19937 random(3);
  std::normal_distribution<float> noise(0, 1);
  double first = 0, last = 0;
  for (int step = 0; step < 600; ++step) {
    std::vector<int32_t> ids;
    std::vector<int64_t> load(kExperts);
    for (int64_t t = 0; t < kTokens; ++t) {
      std::vector<float> logits;
      for (size_t e = 0; e < kExperts; ++e)
        logits.push_back(noise(random) - 0.4F * static_cast<float>(e) + balancer.bias()[e]);
      ids.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      ++load[static_cast<size_t>(ids.back())];
    }
    balancer.follow(kTokens, 1, ids.data(), nullptr);
    const double hottest = static_cast<double>(*std::max_element(load.begin(), load.end())) * kExperts / kTokens;
    (step < 50 ? first : last) += step < 50 || step >= 550 ? hottest / 50 : 0;
  }
  EXPECT_GT(first, 2.5);
  EXPECT_LT(last, 1.7);  // 64 tokens over 8 experts at random: about 1.5
}

TEST(LoadBalancer, counts_only_what_was_chosen) {
  LoadBalancer balancer(0.5, 2);
  const std::vector<int32_t> ids = {0, 1, 0, 1}, count = {1, 1};
  balancer.follow(2, 2, ids.data(), count.data());
  EXPECT_FLOAT_EQ(balancer.bias()[0], -0.5F);
  EXPECT_FLOAT_EQ(balancer.bias()[1], 0.5F);
}

}  // namespace
}  // namespace patchbay
