#include "core/service/metrics.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <thread>

namespace patchbay {
namespace {

TEST(Metrics, counters_add_and_gauges_replace) {
  Metrics m;
  m.add("b_total", 2);
  m.add("b_total", 0.5);
  m.set("a", 5);
  m.set("a", -3);
  const auto s = m.snapshot();
  ASSERT_EQ(s.size(), 2U);
  EXPECT_EQ(s[0].name, "a");
  EXPECT_EQ(s[0].value, -3);
  EXPECT_FALSE(s[0].counter);
  EXPECT_EQ(s[1].name, "b_total");
  EXPECT_EQ(s[1].value, 2.5);
  EXPECT_TRUE(s[1].counter);
}

TEST(Metrics, wrong_names_and_values_are_left_out_and_counted) {
  Metrics m;
  m.add("ok", 1);
  m.add("", 1);
  m.add("9lives", 1);
  m.add("Upper", 1);
  m.add("with space", 1);
  m.add("ok", -1);
  m.add("ok", std::numeric_limits<double>::quiet_NaN());
  m.set("ok2", std::numeric_limits<double>::infinity());
  m.set(std::string(129, 'a'), 1);
  const auto s = m.snapshot();
  ASSERT_EQ(s.size(), 2U);
  EXPECT_EQ(s[0].name, "ok");
  EXPECT_EQ(s[0].value, 1);
  EXPECT_EQ(s[1].name, "patchbay_metrics_refused_total");
  EXPECT_EQ(s[1].value, 8);
}

TEST(Metrics, a_plugin_that_makes_up_names_does_not_fill_the_memory) {
  Metrics m;
  for (int i = 0; i < 10000; ++i) m.add("name_" + std::to_string(i), 1);
  EXPECT_EQ(m.snapshot().size(), Metrics::kMaxNames + 1);
}

TEST(Metrics, histograms_count_what_is_at_most_each_bound) {
  Metrics m;
  for (const double s : {0.00005, 0.0001, 0.00015, 1.0, 1000.0}) m.observe("wait_seconds", s);
  std::map<std::string, double> at_most;
  for (const auto& s : m.snapshot()) {
    EXPECT_EQ(s.histogram, "wait_seconds");
    EXPECT_TRUE(s.counter);
    if (s.name == "wait_seconds_bucket") at_most[s.labels.at(0).second] = s.value;
    if (s.name == "wait_seconds_count") {
      EXPECT_EQ(s.value, 5);
    }
    if (s.name == "wait_seconds_sum") {
      EXPECT_DOUBLE_EQ(s.value, 1001.0003);
    }
  }
  EXPECT_EQ(at_most.size(), DurationHistogram::kBuckets + 1);
  EXPECT_EQ(at_most["0.0001"], 2);
  EXPECT_EQ(at_most["0.0002"], 3);
  EXPECT_EQ(at_most["0.8192"], 3);
  EXPECT_EQ(at_most["1.6384"], 4);
  EXPECT_EQ(at_most["+Inf"], 5);
}

TEST(Metrics, a_name_is_a_histogram_or_a_number_but_not_both) {
  Metrics m;
  m.observe("a", 1);
  m.add("a", 1);
  m.add("b", 1);
  m.observe("b", 1);
  m.observe("c", -1);
  m.observe("c", std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(m.snapshot().back().name, "patchbay_metrics_refused_total");
  EXPECT_EQ(m.snapshot().back().value, 4);
}

TEST(Metrics, no_addition_of_any_thread_is_lost) {
  Metrics m;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&m] {
      for (int i = 0; i < 5000; ++i) m.add("n", 1);
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(m.snapshot()[0].value, 20000);
}

}  // namespace
}  // namespace patchbay
