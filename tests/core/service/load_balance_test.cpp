#include "core/service/load_balance.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace patchbay {
namespace {

TEST(LoadBalance, an_even_load_is_1_0_1) {
  const LoadBalance b = load_balance(std::vector<uint64_t>{7, 7, 7, 7});
  EXPECT_DOUBLE_EQ(b.max_over_mean, 1);
  EXPECT_DOUBLE_EQ(b.variation, 0);
  EXPECT_DOUBLE_EQ(b.entropy, 1);
}

TEST(LoadBalance, all_on_one_is_n_and_no_entropy) {
  const LoadBalance b = load_balance(std::vector<uint64_t>{0, 12, 0, 0});
  EXPECT_DOUBLE_EQ(b.max_over_mean, 4);
  EXPECT_DOUBLE_EQ(b.variation, std::sqrt(3.0));  // loads over mean: 0, 4, 0, 0
  EXPECT_DOUBLE_EQ(b.entropy, 0);
}

TEST(LoadBalance, in_between_it_follows_the_formulas) {
  const LoadBalance b = load_balance(std::vector<uint64_t>{1, 3});
  EXPECT_DOUBLE_EQ(b.max_over_mean, 1.5);
  EXPECT_DOUBLE_EQ(b.variation, 0.5);
  EXPECT_NEAR(b.entropy, 0.811278124, 1e-9);  // of (1/4, 3/4), in bits
}

TEST(LoadBalance, without_tokens_or_with_one_expert_there_is_nothing_to_divide_by) {
  EXPECT_EQ(load_balance({}).max_over_mean, 0);
  EXPECT_EQ(load_balance(std::vector<uint64_t>{0, 0}).entropy, 0);
  const LoadBalance one = load_balance(std::vector<uint64_t>{5});
  EXPECT_DOUBLE_EQ(one.max_over_mean, 1);
  EXPECT_DOUBLE_EQ(one.entropy, 1);
}

}  // namespace
}  // namespace patchbay
