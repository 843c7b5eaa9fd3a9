// Readers that stall, vanish and come back; cancels at every point; many at once.
#include <random>
#include <thread>

#include "service_fixture.hpp"

namespace patchbay {
namespace {

using testing::Reader;
using testing::ServiceTest;

TEST_F(ServiceTest, events_for_a_reader_without_room_are_held_in_order) {
  Reader reader(*service);
  reader.room(2);
  ASSERT_TRUE(reader.generate(1, "abcdef").ok());
  run();
  EXPECT_EQ(reader.size(), 2U);
  reader.room(1);
  EXPECT_EQ(reader.size(), 3U);
  reader.room(100);
  const auto s = reader.stream(1);
  EXPECT_EQ(s.text, "abcdef");
  EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_STOP);
}

TEST_F(ServiceTest, a_stream_whose_reader_stalls_too_long_is_cut_and_what_it_got_is_whole) {
  ServiceOptions options;
  options.hold.events = 10;
  make(options);
  engine.endless = true;
  Reader stalled(*service);
  Reader other(*service);
  stalled.room(5);
  ASSERT_TRUE(stalled.generate(1, "abc").ok());
  ASSERT_TRUE(other.generate(1, "xy", [](v1::Generate* g) { g->set_max_tokens(50); }).ok());
  run();  // ends: the endless stream was cut
  EXPECT_EQ(other.stream(1).ids.size(), 50U);
  stalled.room(100);
  const auto s = stalled.stream(1);
  EXPECT_EQ(s.ids.size(), 15U);
  EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_FAILED);
  EXPECT_EQ(s.end.error().code(), v1::CODE_RESOURCE_EXHAUSTED);
}

TEST_F(ServiceTest, held_bytes_are_bounded_too) {
  ServiceOptions options;
  options.hold.bytes = 200;
  make(options);
  engine.endless = true;
  Reader reader(*service);
  reader.room(0);
  ASSERT_TRUE(reader.generate(1, "abc", [](v1::Generate* g) { g->set_logprobs(3); }).ok());
  run();
  reader.room(1000);
  EXPECT_EQ(reader.stream(1).end.error().code(), v1::CODE_RESOURCE_EXHAUSTED);
  EXPECT_LT(reader.stream(1).ids.size(), 10U);
}

TEST_F(ServiceTest, a_stream_waits_for_credit_and_others_do_not) {
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "slow one", [](v1::Generate* g) { g->set_credit(3); }).ok());
  ASSERT_TRUE(reader.generate(2, "quick").ok());
  run();
  EXPECT_EQ(reader.stream(1).text, "slo");
  EXPECT_FALSE(reader.stream(1).ended);
  EXPECT_EQ(reader.stream(2).text, "quick");
  EXPECT_TRUE(reader.stream(2).ended);
  ASSERT_TRUE(reader.generate(1, "again").ok());
  EXPECT_EQ(reader.last().error().code(), v1::CODE_ALREADY_EXISTS);  // it is not over for the reader
  ASSERT_TRUE(reader.credit(1, 4).ok());
  EXPECT_EQ(reader.stream(1).text, "slow on");
  ASSERT_TRUE(reader.credit(1, UINT64_MAX).ok());
  ASSERT_TRUE(reader.credit(1, UINT64_MAX).ok());
  EXPECT_EQ(reader.stream(1).text, "slow one");
  EXPECT_TRUE(reader.stream(1).ended);
  ASSERT_TRUE(reader.credit(1, 5).ok());  // too late: ignored
}

TEST_F(ServiceTest, no_credit_at_all_cuts_the_stream_and_its_end_still_comes) {
  ServiceOptions options;
  options.hold.events = 8;
  make(options);
  engine.endless = true;
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "abc", [](v1::Generate* g) { g->set_credit(0); }).ok());
  run();
  EXPECT_EQ(reader.stream(1).ids.size(), 8U);
  EXPECT_EQ(reader.stream(1).end.error().code(), v1::CODE_RESOURCE_EXHAUSTED);
}

TEST_F(ServiceTest, a_cancel_ends_a_stream_once_in_every_state) {
  engine.endless = true;
  for (int n_steps = 0; n_steps < 6; ++n_steps) {  // 0: still queued
    Reader reader(*service);
    ASSERT_TRUE(reader.generate(1, "abc", [](v1::Generate* g) { g->set_max_tokens(4); }).ok());
    for (int i = 0; i < n_steps; ++i) engine.step();
    ASSERT_TRUE(reader.cancel(1).ok());
    ASSERT_TRUE(reader.cancel(1).ok());
    run();
    const auto s = reader.stream(1);
    ASSERT_TRUE(s.ended) << n_steps;
    EXPECT_EQ(s.ids.size(), static_cast<size_t>(std::min(n_steps, 4)));
    EXPECT_EQ(s.end.reason(), n_steps < 5 ? v1::FINISH_REASON_CANCELLED : v1::FINISH_REASON_LENGTH);
    ASSERT_TRUE(reader.cancel(1).ok());  // after its end: ignored
    ASSERT_TRUE(reader.cancel(77).ok());
    EXPECT_EQ(service->n_running(), 0U);
  }
}

TEST_F(ServiceTest, a_cancel_of_a_stream_without_credit_brings_its_end) {
  engine.endless = true;
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "abc", [](v1::Generate* g) { g->set_credit(1); }).ok());
  engine.step();
  engine.step();
  ASSERT_TRUE(reader.cancel(1).ok());
  run();
  EXPECT_EQ(reader.stream(1).ids.size(), 2U);
  EXPECT_EQ(reader.stream(1).end.reason(), v1::FINISH_REASON_CANCELLED);
}

TEST_F(ServiceTest, a_reader_that_vanishes_frees_its_requests) {
  engine.endless = true;
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "abc").ok());
  ASSERT_TRUE(reader.generate(2, "abc").ok());
  engine.step();
  reader.vanish();
  engine.step();  // finds out
  engine.step();  // ends them
  EXPECT_TRUE(engine.idle());
  EXPECT_EQ(service->n_running(), 0U);
  ASSERT_TRUE(reader.generate(3, "abc").ok());  // nobody listens: nothing runs
  EXPECT_EQ(service->n_running(), 0U);
}

TEST_F(ServiceTest, closing_cancels_and_nothing_is_delivered_after_it) {
  engine.endless = true;
  {
    Reader reader(*service);
    ASSERT_TRUE(reader.generate(1, "abc").ok());
    engine.step();
  }  // a delivery now would touch freed memory
  EXPECT_EQ(service->n_running(), 1U);
  run();
  EXPECT_EQ(service->n_running(), 0U);
  EXPECT_EQ(metric("patchbay_requests_cancelled_total"), 1);
}

TEST_F(ServiceTest, streams_of_a_connection_are_bounded) {
  ServiceOptions options;
  options.hold.streams = 2;
  make(options);
  Reader reader(*service);
  for (uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(reader.generate(id, "ab").ok());
  EXPECT_EQ(reader.stream(3).end.error().code(), v1::CODE_RESOURCE_EXHAUSTED);
  run();
  EXPECT_EQ(reader.stream(1).text, "ab");
  EXPECT_EQ(reader.stream(2).text, "ab");
}

TEST_F(ServiceTest, questions_of_a_reader_that_takes_no_answers_are_refused_beyond_a_bound) {
  ServiceOptions options;
  options.hold.answers = 4;
  make(options);
  Reader reader(*service);
  reader.room(0);
  v1::ClientMessage m;
  m.mutable_health();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(reader.send(m).ok());
  EXPECT_EQ(reader.send(m).error().code, MOE_RESOURCE_EXHAUSTED);
  reader.room(100);
  EXPECT_EQ(reader.size(), 4U);
  EXPECT_TRUE(reader.send(m).ok());
}

TEST_F(ServiceTest, stopping_the_engine_ends_what_runs_as_cancelled) {
  engine.endless = true;
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "abc").ok());
  engine.start();
  engine.stop();
  EXPECT_EQ(reader.stream(1).end.reason(), v1::FINISH_REASON_CANCELLED);
}

// Many connections on threads of their own against the engine's thread: each stream must come whole, or as far as it
// was cancelled.
void use(Service& service, unsigned seed, int rounds) {
  std::mt19937 random(seed);
  for (int round = 0; round < rounds; ++round) {
    Reader reader(service);
    const size_t n_streams = 1 + random() % 4;
    std::vector<std::string> prompts;
    for (size_t i = 0; i < n_streams; ++i) {
      prompts.push_back("stream " + std::to_string(seed) + "/" + std::to_string(round) + "/" +
                        std::string(random() % 40, 'x'));
      ASSERT_TRUE(reader.generate(i + 1, prompts[i]).ok());
    }
    const unsigned what = random() % 5;
    if (what == 0) continue;  // leaves at once
    if (what == 1) reader.room(random() % 20);
    if (what == 2) {
      ASSERT_TRUE(reader.cancel(1).ok());
    }
    std::this_thread::yield();
    if (what == 1) reader.room(SIZE_MAX);
    for (size_t i = 0; i < n_streams; ++i) {
      ASSERT_TRUE(reader.wait_for_end(i + 1));
      const auto s = reader.stream(i + 1);
      if (s.end.reason() == v1::FINISH_REASON_CANCELLED) {
        EXPECT_EQ(i, 0U);
        EXPECT_EQ(what, 2U);
        EXPECT_EQ(s.text, prompts[i].substr(0, s.text.size()));
      } else {
        EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_STOP);
        EXPECT_EQ(s.text, prompts[i]);
      }
    }
  }
}

TEST_F(ServiceTest, under_many_threads_no_token_is_lost_doubled_or_out_of_order) {
  engine.start();
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 6; ++t) threads.emplace_back([this, t] { use(*service, t, 60); });
  for (auto& t : threads) t.join();
  engine.stop();
  EXPECT_EQ(service->n_running(), 0U);
  EXPECT_EQ(metric("patchbay_connections"), 0);
}

}  // namespace
}  // namespace patchbay
