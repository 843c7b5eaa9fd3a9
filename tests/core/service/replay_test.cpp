#include "core/service/replay.hpp"

#include <gtest/gtest.h>

namespace patchbay {
namespace {

TEST(Replay, keeps_what_is_not_confirmed) {
  Replay r(10, 1000);
  EXPECT_TRUE(r.has_all_after(0));
  EXPECT_FALSE(r.has_all_after(1));
  for (const char* e : {"a", "b", "c"}) r.add(e, 1, false);
  EXPECT_EQ(r.last(), 3U);
  r.acknowledge(2);
  ASSERT_EQ(r.events().size(), 1U);
  EXPECT_EQ(r.events()[0].bytes, "c");
  EXPECT_FALSE(r.has_all_after(1));
  EXPECT_TRUE(r.has_all_after(2));
  EXPECT_TRUE(r.has_all_after(3));
  EXPECT_FALSE(r.has_all_after(4));
}

TEST(Replay, a_number_that_has_not_been_or_was_confirmed_before_is_ignored) {
  Replay r(10, 1000);
  r.add("a", 1, false);
  r.acknowledge(7);
  EXPECT_EQ(r.events().size(), 1U);
  r.acknowledge(1);
  r.acknowledge(0);
  EXPECT_TRUE(r.events().empty());
  EXPECT_EQ(r.last(), 1U);
}

TEST(Replay, beyond_its_bounds_the_oldest_goes) {
  Replay events(2, 1000);
  for (const char* e : {"a", "b", "c"}) events.add(e, 1, false);
  EXPECT_TRUE(events.is_full());
  EXPECT_EQ(events.events().front().bytes, "b");
  EXPECT_FALSE(events.has_all_after(0));
  EXPECT_TRUE(events.has_all_after(1));
  Replay bytes(100, 5);
  bytes.add("abc", 1, false);
  EXPECT_FALSE(bytes.is_full());
  bytes.add("def", 1, false);
  EXPECT_TRUE(bytes.is_full());
  bytes.add("g", 1, true);
  EXPECT_EQ(bytes.events().size(), 2U);
  EXPECT_EQ(bytes.last(), 3U);
}

}  // namespace
}  // namespace patchbay
