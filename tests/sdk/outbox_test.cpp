#include "moe/sdk/outbox.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <vector>

namespace {

// A service with one connection that delivers what it is told to and keeps what is refused.
class FakeService {
 public:
  FakeService() {
    abi = moe::make<moe_service>();
    abi.self = this;
    abi.open = [](void* self, const moe_sink* sink, uint64_t* id, moe_message*) -> moe_status {
      of(self).sink_ = *sink;
      of(self).is_open = true;
      *id = 1;
      return MOE_OK;
    };
    abi.submit = [](void*, uint64_t, const void*, uint64_t, moe_message*) -> moe_status { return MOE_OK; };
    abi.resume = [](void* self, uint64_t) { of(self).flush(); };
    abi.close = [](void* self, uint64_t) { of(self).is_open = false; };
    abi.get_extension = [](void*, const char*) -> const void* { return nullptr; };
  }
  void send(const std::string& event) {
    held.push_back(event);
    flush();
  }
  moe_service abi{};
  std::deque<std::string> held;
  bool is_open = false;

 private:
  static FakeService& of(void* self) { return *static_cast<FakeService*>(self); }
  void flush() {
    while (!held.empty() && sink_.deliver(sink_.context, held.front().data(), held.front().size()) == MOE_OK) {
      held.pop_front();
    }
  }
  moe_sink sink_{};
};

std::vector<std::string> drain(moe::Outbox& outbox) {
  std::vector<std::string> events;
  while (const std::string* event = outbox.front()) {
    events.push_back(*event);
    outbox.pop();
  }
  return events;
}

using Events = std::vector<std::string>;

TEST(Outbox, events_come_in_order_and_each_wakes_the_thread) {
  FakeService service;
  int n_wakes = 0;
  moe::Outbox outbox({8, 100}, [&] { ++n_wakes; });
  ASSERT_TRUE(outbox.open(service.abi).ok());
  for (const char* e : {"a", "b", "c"}) service.send(e);
  EXPECT_EQ(n_wakes, 3);
  EXPECT_FALSE(outbox.is_empty());
  EXPECT_EQ(drain(outbox), (Events{"a", "b", "c"}));
  EXPECT_TRUE(outbox.is_empty());
}

TEST(Outbox, beyond_its_bounds_the_service_holds_events_until_it_is_asked) {
  FakeService service;
  moe::Outbox by_number({2, 100}, [] {});
  ASSERT_TRUE(by_number.open(service.abi).ok());
  for (const char* e : {"a", "b", "c", "d", "e"}) service.send(e);
  EXPECT_EQ(service.held.size(), 3U);
  EXPECT_EQ(drain(by_number), (Events{"a", "b"}));
  EXPECT_FALSE(by_number.is_empty()) << "more is held for it";
  by_number.resume();
  EXPECT_EQ(drain(by_number), (Events{"c", "d"}));
  by_number.resume();
  EXPECT_EQ(drain(by_number), (Events{"e"}));
  by_number.resume();
  EXPECT_TRUE(by_number.is_empty());
}

TEST(Outbox, bytes_are_bounded_but_an_event_alone_may_have_any_size) {
  FakeService service;
  moe::Outbox outbox({8, 10}, [] {});
  ASSERT_TRUE(outbox.open(service.abi).ok());
  const std::string large(100, 'x');
  service.send(large);
  service.send("a");
  EXPECT_EQ(service.held.size(), 1U);
  EXPECT_EQ(drain(outbox), (Events{large}));
  outbox.resume();
  EXPECT_EQ(drain(outbox), (Events{"a"}));
}

TEST(Outbox, closing_drops_what_is_queued_and_closes_the_connection) {
  FakeService service;
  {
    moe::Outbox outbox({1, 10}, [] {});
    ASSERT_TRUE(outbox.open(service.abi).ok());
    service.send("a");
    service.send("b");
    outbox.close();
    EXPECT_FALSE(service.is_open);
    EXPECT_EQ(outbox.front(), nullptr);
    EXPECT_TRUE(outbox.is_empty());
    ASSERT_TRUE(outbox.open(service.abi).ok());
  }
  EXPECT_FALSE(service.is_open) << "its destructor closes too";
}

TEST(Outbox, a_wake_up_that_throws_is_a_reader_that_is_gone) {
  FakeService service;
  moe::Outbox outbox({8, 10}, [] { throw std::bad_alloc(); });
  ASSERT_TRUE(outbox.open(service.abi).ok());
  service.send("a");
  EXPECT_EQ(service.held.size(), 1U);
}

}  // namespace
