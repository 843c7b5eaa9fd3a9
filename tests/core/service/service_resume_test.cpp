// Streams that outlive their connection: each event comes once, whatever breaks in between.
#include <random>
#include <thread>

#include "service_fixture.hpp"

namespace patchbay {
namespace {

using testing::Reader;
using testing::ServiceTest;

constexpr const char* kKey = "a key of 16 bytes";

void resumable(v1::Generate* g) { g->set_resume_key(kKey); }

TEST_F(ServiceTest, a_stream_goes_on_over_another_connection_without_loss) {
  auto first = std::make_unique<Reader>(*service);
  ASSERT_TRUE(first->generate(7, "abcdefghij", resumable).ok());
  for (int i = 0; i < 3; ++i) engine.step();
  const auto before = first->messages();
  EXPECT_EQ(before.size(), 3U);
  first.reset();
  for (int i = 0; i < 3; ++i) engine.step();  // events for nobody
  Reader second(*service);
  ASSERT_TRUE(second.resume(7, kKey, 3).ok());
  EXPECT_EQ(second.size(), 3U);
  run();
  auto all = before;
  for (const auto& m : second.messages()) all.push_back(m);
  const auto s = Reader::stream_of(7, all);
  EXPECT_EQ(s.text, "abcdefghij");
  EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_STOP);
}

TEST_F(ServiceTest, events_that_were_sent_and_lost_are_sent_again) {
  Reader first(*service);
  ASSERT_TRUE(first.generate(7, "abcdef", resumable).ok());
  for (int i = 0; i < 4; ++i) engine.step();
  Reader second(*service);  // the first has not noticed yet that its line is dead
  ASSERT_TRUE(second.resume(7, kKey, 1).ok());
  EXPECT_EQ(second.size(), 3U);
  EXPECT_EQ(second.messages()[0].sequence(), 2U);
  run();
  EXPECT_EQ(first.size(), 4U) << "it left that connection";
  EXPECT_TRUE(second.last().has_end());
}

TEST_F(ServiceTest, a_connection_that_closes_late_takes_nothing_from_its_successor) {
  auto first = std::make_unique<Reader>(*service);
  ASSERT_TRUE(first->generate(7, "abcdef", resumable).ok());
  engine.step();
  auto second = std::make_unique<Reader>(*service);
  second->vanish();
  ASSERT_TRUE(second->resume(7, kKey, 0).ok());  // lost; the transport does not say so yet
  Reader third(*service);
  ASSERT_TRUE(third.resume(7, kKey, 0, 0).ok());  // holds it back: no credit
  second.reset();
  run();
  EXPECT_EQ(third.size(), 0U);
  ASSERT_TRUE(third.credit(7, 100).ok());
  EXPECT_EQ(third.stream(7).text, "abcdef");
  EXPECT_EQ(third.last().end().reason(), v1::FINISH_REASON_STOP);
}

TEST_F(ServiceTest, the_end_waits_to_be_confirmed) {
  auto first = std::make_unique<Reader>(*service);
  ASSERT_TRUE(first->generate(7, "abc", resumable).ok());
  run();
  EXPECT_EQ(first->size(), 4U);
  first.reset();
  {
    Reader second(*service);
    ASSERT_TRUE(second.resume(7, kKey, 3).ok());
    ASSERT_EQ(second.size(), 1U);
    EXPECT_EQ(second.last().end().reason(), v1::FINISH_REASON_STOP);
    ASSERT_TRUE(second.credit(7, 0, 4).ok());
  }
  Reader third(*service);
  ASSERT_TRUE(third.resume(7, kKey, 3).ok());
  EXPECT_EQ(third.last().error().code(), v1::CODE_NOT_FOUND) << "confirmed and forgotten";
}

TEST_F(ServiceTest, a_stream_without_a_key_ends_with_its_connection) {
  engine.endless = true;
  auto first = std::make_unique<Reader>(*service);
  ASSERT_TRUE(first->generate(7, "abc").ok());
  engine.step();
  first.reset();
  run();
  EXPECT_EQ(service->n_running(), 0U);
}

TEST_F(ServiceTest, after_the_grace_time_a_parked_stream_is_cancelled_and_forgotten) {
  ServiceOptions options;
  options.resume_grace = std::chrono::milliseconds(20);
  make(options);
  engine.endless = true;
  auto first = std::make_unique<Reader>(*service);
  ASSERT_TRUE(first->generate(7, "abc", resumable).ok());
  engine.step();
  first.reset();
  engine.step();
  EXPECT_EQ(service->n_running(), 1U);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  Reader second(*service);
  ASSERT_TRUE(second.resume(7, kKey, 1).ok());
  EXPECT_EQ(second.last().error().code(), v1::CODE_NOT_FOUND);
  run();
  EXPECT_EQ(service->n_running(), 0U);
}

TEST_F(ServiceTest, a_parked_stream_is_cut_before_events_are_lost) {
  ServiceOptions options;
  options.hold.events = 5;
  make(options);
  engine.endless = true;
  auto first = std::make_unique<Reader>(*service);
  ASSERT_TRUE(first->generate(7, "abc", resumable).ok());
  engine.step();
  first.reset();
  run();  // ends: it was cut
  Reader second(*service);
  ASSERT_TRUE(second.resume(7, kKey, 1).ok());
  EXPECT_EQ(second.last().end().error().code(), v1::CODE_RESOURCE_EXHAUSTED);
  EXPECT_EQ(second.size(), 5U) << "the four that were kept, and the end";
}

TEST_F(ServiceTest, a_reader_that_confirms_may_be_behind_by_less_than_the_bound_for_ever) {
  ServiceOptions options;
  options.hold.events = 5;
  make(options);
  auto first = std::make_unique<Reader>(*service);
  ASSERT_TRUE(first->generate(7, std::string(40, 'x'), resumable).ok());
  for (uint64_t i = 1; i <= 30; ++i) {
    engine.step();
    ASSERT_TRUE(first->credit(7, 0, i).ok());
  }
  const auto before = first->messages();
  first.reset();
  Reader second(*service);
  ASSERT_TRUE(second.resume(7, kKey, 30).ok());
  run();
  auto all = before;
  for (const auto& m : second.messages()) all.push_back(m);
  EXPECT_EQ(Reader::stream_of(7, all).text, std::string(40, 'x'));
}

TEST_F(ServiceTest, credit_counts_anew_after_a_resumption) {
  auto first = std::make_unique<Reader>(*service);
  ASSERT_TRUE(first
                  ->generate(7, "abcdefgh",
                             [](v1::Generate* g) {
                               g->set_resume_key(kKey);
                               g->set_credit(2);
                             })
                  .ok());
  run();
  EXPECT_EQ(first->size(), 2U);
  first.reset();
  Reader second(*service);
  ASSERT_TRUE(second.resume(7, kKey, 2, 3).ok());
  EXPECT_EQ(second.size(), 3U);
  ASSERT_TRUE(second.credit(7, 100).ok());
  EXPECT_EQ(second.last().end().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(second.size(), 7U);
}

TEST_F(ServiceTest, wrong_keys_numbers_and_places_are_refused_and_harm_nobody) {
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "x", [](v1::Generate* g) { g->set_resume_key("short"); }).ok());
  EXPECT_EQ(reader.last().end().error().code(), v1::CODE_INVALID_ARGUMENT);
  ASSERT_TRUE(reader.generate(7, "abcdef", resumable).ok());
  ASSERT_TRUE(reader.generate(8, "x", resumable).ok());
  EXPECT_EQ(reader.last().end().error().code(), v1::CODE_ALREADY_EXISTS);
  engine.step();
  Reader other(*service);
  const auto code = [&](uint64_t request, const char* key, uint64_t after) {
    EXPECT_TRUE(other.resume(request, key, after).ok());
    EXPECT_EQ(other.last().sequence(), 0U);
    return other.last().error().code();
  };
  EXPECT_EQ(code(7, "another key, of nobody", 0), v1::CODE_NOT_FOUND);
  EXPECT_EQ(code(7, "", 0), v1::CODE_NOT_FOUND);
  EXPECT_EQ(code(9, kKey, 0), v1::CODE_INVALID_ARGUMENT);
  EXPECT_EQ(code(7, kKey, 5), v1::CODE_DATA_LOSS);
  run();
  EXPECT_EQ(reader.stream(7).text, "abcdef");
}

TEST_F(ServiceTest, resumable_streams_are_bounded_in_number) {
  ServiceOptions options;
  options.resumable = 2;
  make(options);
  Reader reader(*service);
  for (uint64_t i = 1; i <= 3; ++i) {
    const auto key = [&](v1::Generate* g) { g->set_resume_key("key number " + std::to_string(i) + " of three"); };
    ASSERT_TRUE(reader.generate(i, "x", key).ok());
  }
  EXPECT_EQ(reader.stream(3).end.error().code(), v1::CODE_RESOURCE_EXHAUSTED);
  run();
  EXPECT_EQ(reader.stream(1).text, "x");
}

// A client that loses its connection at every turn, against an engine on its own thread.
TEST_F(ServiceTest, no_event_is_lost_or_doubled_over_a_hundred_broken_connections) {
  ServiceOptions options;
  options.hold.events = 100000;
  make(options);
  const std::string text(2000, 'x');
  engine.before_step = [] { std::this_thread::sleep_for(std::chrono::microseconds(20)); };
  engine.start();
  std::mt19937 random(1);
  std::vector<v1::ServerMessage> all;
  auto reader = std::make_unique<Reader>(*service);
  ASSERT_TRUE(reader->generate(7, text, resumable).ok());
  bool ended = false;
  for (int i = 0; i < 100000 && !ended; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
    if (random() % 2 == 0) reader->vanish();  // what is on its way is lost
    auto got = reader->messages();
    const size_t n_lost = got.empty() ? 0 : random() % std::min<size_t>(got.size(), 5);
    got.resize(got.size() - n_lost);
    for (auto& m : got) all.push_back(std::move(m));
    ended = !all.empty() && all.back().has_end();
    auto next = std::make_unique<Reader>(*service);
    if (random() % 2 == 0) reader.reset();  // before or after the new one takes over
    if (!ended) {
      ASSERT_TRUE(next->resume(7, kKey, all.empty() ? 0 : all.back().sequence()).ok());
    }
    reader = std::move(next);
  }
  const auto s = Reader::stream_of(7, all);
  EXPECT_EQ(s.text, text);
  EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_STOP);
  reader.reset();
  engine.stop();
}

}  // namespace
}  // namespace patchbay
