#include "core/experiment/load_history.hpp"

#include <gtest/gtest.h>

namespace patchbay {
namespace {

// Each step puts one token on expert 0 of 2, from step 500 on one on each.
LoadHistory after(uint64_t n_steps) {
  LoadHistory history;
  LoadHistory::Load load = {{0, 0}};
  for (uint64_t step = 0; step < n_steps; ++step) {
    ++load[0][0];
    if (step >= 500) ++load[0][1];
    if (history.wants(step)) history.add(step, load);
  }
  return history;
}

TEST(LoadHistory, it_stays_bounded_and_shows_the_load_between_two_looks) {
  const auto doc = after(1000).json();
  const auto& loads = doc["max_over_mean"][0];
  ASSERT_EQ(doc["steps"].size(), loads.size());
  EXPECT_LT(loads.size(), LoadHistory::kMost);
  EXPECT_GE(loads.size(), LoadHistory::kMost / 2);
  EXPECT_DOUBLE_EQ(loads.front(), 2);
  EXPECT_DOUBLE_EQ(loads.back(), 1);
}

TEST(LoadHistory, a_short_run_is_seen_step_by_step) {
  EXPECT_EQ(after(3).json()["steps"], (std::vector<uint64_t>{0, 1, 2}));
  EXPECT_EQ(after(0).json()["steps"].size(), 0U);
}

}  // namespace
}  // namespace patchbay
