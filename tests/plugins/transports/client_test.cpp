// The SDK's client: streams over connections that break.
#include "moe/sdk/client.hpp"

#include <map>
#include <random>

#include "tests/support/fault_proxy.hpp"
#include "transport_fixture.hpp"

namespace patchbay {
namespace {

using std::chrono::milliseconds;
using testing::FaultProxy;

struct ClientTest : testing::TransportTest {
  ClientTest() : TransportTest("transport_zeromq", "tcp://127.0.0.1:*") {}
  static std::unique_ptr<moe::Client> connect(const std::string& to, uint64_t window = 0,
                                              milliseconds reconnect_for = milliseconds(5000),
                                              milliseconds patience = milliseconds(2000)) {
    moe::ClientOptions options;
    options.address = to;
    options.window = window;
    options.reconnect_for = reconnect_for;
    options.patience = patience;
    auto client = moe::Client::connect(options);
    EXPECT_TRUE(client.ok()) << client.error().message;
    return client.ok() ? std::move(client).value() : nullptr;
  }
  static v1::Generate text(const std::string& prompt) {
    v1::Generate g;
    g.set_text(prompt);
    return g;
  }
};

TEST_F(ClientTest, one_stream_comes_whole_and_questions_are_answered_in_between) {
  serve();
  const auto client = connect(address);
  std::string got;
  const auto end = client->generate(text("to the end: é"), [&](const v1::Tokens& t) { got += t.text(); });
  ASSERT_TRUE(end.ok()) << end.error().message;
  EXPECT_EQ(got, "to the end: é");
  v1::ClientMessage question;
  question.mutable_telemetry();
  const auto answer = client->ask(question);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->telemetry().health().state(), v1::Health::STATE_SERVING);
  question.mutable_control()->mutable_drain();
  EXPECT_EQ(client->ask(question).error().code, MOE_PERMISSION_DENIED);
}

TEST_F(ClientTest, many_streams_of_a_slow_reader_keep_to_their_window) {
  serve();
  const auto client = connect(address, 16);
  std::map<uint64_t, std::string> got;
  std::map<uint64_t, std::string> wanted;
  for (int i = 0; i < 20; ++i) {
    const std::string prompt = "stream " + std::to_string(i) + std::string(200, static_cast<char>('a' + i));
    const auto number = client->start(text(prompt));
    ASSERT_TRUE(number.ok());
    wanted[*number] = prompt;
  }
  v1::ClientMessage question;
  question.mutable_health();
  ASSERT_TRUE(client->ask(question).ok()) << "the streams' events wait meanwhile";
  while (client->n_streams() > 0) {
    const auto message = client->next(milliseconds(5000));
    ASSERT_TRUE(message.ok()) << message.error().message;
    ASSERT_TRUE(message->has_value());
    got[(*message)->request()] += (*message)->tokens().text();
    if ((*message)->has_end()) {
      EXPECT_EQ((*message)->end().reason(), v1::FINISH_REASON_STOP);
    }
  }
  EXPECT_EQ(got, wanted);
}

TEST_F(ClientTest, streams_go_on_when_the_connection_breaks) {
  step = std::chrono::microseconds(300);
  ServiceOptions options;
  options.hold.events = 8192;  // all, however long it takes to come back
  serve({}, options);
  FaultProxy relay(address);
  const auto client = connect(relay.address);
  const std::string prompt(2000, 'x');
  const auto a = client->start(text(prompt + "a"));
  const auto b = client->start(text(prompt + "b"));
  std::map<uint64_t, std::string> got;
  int n_breaks = 0;
  size_t n_events = 0;
  while (client->n_streams() > 0) {
    const auto message = client->next(milliseconds(100));
    ASSERT_TRUE(message.ok()) << message.error().message;
    if (!message->has_value()) continue;
    EXPECT_FALSE((*message)->end().has_error()) << (*message)->end().error().message();
    got[(*message)->request()] += (*message)->tokens().text();
    if (++n_events % 400 == 0) {
      relay.break_connections();
      ++n_breaks;
    }
  }
  EXPECT_GE(n_breaks, 5);
  EXPECT_EQ(got[*a], prompt + "a");
  EXPECT_EQ(got[*b], prompt + "b");
}

TEST_F(ClientTest, a_line_that_is_silent_is_given_up_and_streams_go_on_over_another) {
  step = std::chrono::microseconds(500);
  serve();
  FaultProxy relay(address);
  const auto client = connect(relay.address, 0, milliseconds(5000), milliseconds(200));
  const std::string prompt(900, 'x');  // fewer events than are kept for a reader that confirms none
  ASSERT_TRUE(client->start(text(prompt)).ok());
  std::string got;
  bool frozen = false;
  std::thread thaw;
  while (client->n_streams() > 0) {
    const auto message = client->next(milliseconds(50));
    ASSERT_TRUE(message.ok()) << message.error().message;
    if (!message->has_value()) continue;
    got += (*message)->tokens().text();
    if (got.size() > 200 && !std::exchange(frozen, true)) {
      relay.freeze(true);
      thaw = std::thread([&] {
        std::this_thread::sleep_for(milliseconds(600));
        relay.break_connections();
        relay.freeze(false);
      });
    }
  }
  thaw.join();
  EXPECT_EQ(got, prompt);
}

TEST_F(ClientTest, streams_are_whole_through_a_network_that_delays_cuts_and_adds_garbage) {
  step = std::chrono::microseconds(300);
  serve();
  std::mt19937 random(5);
  FaultProxy proxy(address, [&] {
    testing::Fault fault;
    const uint64_t after = 500 + random() % 20000;
    switch (random() % 5) {
      case 0:
        fault.cut_after = after;
        break;
      case 1:
        fault.garbage_after = after;
        break;
      case 2:
        fault.half_close_after = after;
        break;
      case 3:
        fault.delay = milliseconds(1);
        fault.cut_after = after;
        break;
      default:
        break;
    }
    return fault;
  });
  const std::string prompt(1000, 'x');
  int n_lost = 0;
  for (int i = 0; i < 12; ++i) {
    moe::ClientOptions options;
    options.address = proxy.address;
    options.patience = milliseconds(500);
    options.reconnect_for = milliseconds(10000);
    auto client = moe::Client::connect(options);
    if (!client.ok()) continue;  // its very first line was a bad one
    std::string got;
    const auto end = (*client)->generate(text(prompt), [&](const v1::Tokens& t) { got += t.text(); });
    if (!end.ok() || end->reason() != v1::FINISH_REASON_STOP) {
      // Garbage may have been taken for a message of ours, and cost the stream; but never made it wrong.
      ++n_lost;
      EXPECT_EQ(prompt.substr(0, got.size()), got);
      continue;
    }
    EXPECT_EQ(got, prompt);
  }
  EXPECT_GT(proxy.n_faults(), 3);
  EXPECT_LE(n_lost, 3);
  EXPECT_TRUE(eventually([&] { return service->n_running() == 0; }));
}

TEST_F(ClientTest, without_reconnection_a_broken_connection_is_an_error) {
  engine.endless = true;
  step = milliseconds(1);
  serve();
  FaultProxy relay(address);
  const auto client = connect(relay.address, 0, milliseconds(0));
  ASSERT_TRUE(client->start(text("endless")).ok());
  ASSERT_TRUE(client->next(milliseconds(5000)).ok());
  relay.break_connections();
  moe::Result<std::optional<v1::ServerMessage>> message = std::optional<v1::ServerMessage>();
  for (int i = 0; i < 1000 && message.ok(); ++i) message = client->next(milliseconds(50));
  ASSERT_FALSE(message.ok());
  EXPECT_EQ(message.error().code, MOE_UNAVAILABLE);
  EXPECT_TRUE(eventually([&] { return service->n_running() == 0; })) << "it had no key to be resumed by";
}

TEST_F(ClientTest, a_stream_that_the_server_no_longer_has_ends_as_failed) {
  engine.endless = true;
  step = milliseconds(1);
  ServiceOptions options;
  options.resume_grace = milliseconds(1);
  serve({}, options);
  FaultProxy relay(address);
  const auto client = connect(relay.address);
  ASSERT_TRUE(client->start(text("endless")).ok());
  ASSERT_TRUE(client->next(milliseconds(5000)).ok());
  std::optional<v1::ServerMessage> last;
  auto next_break = std::chrono::steady_clock::now();
  while (client->n_streams() > 0) {
    // Again and again: a client that is back before the server looks goes on where it was.
    if (std::chrono::steady_clock::now() >= next_break) {
      relay.break_connections();
      next_break = std::chrono::steady_clock::now() + milliseconds(200);
    }
    auto message = client->next(milliseconds(100));
    ASSERT_TRUE(message.ok()) << message.error().message;
    if (message->has_value()) last = **message;
  }
  EXPECT_EQ(last->end().reason(), v1::FINISH_REASON_FAILED);
  EXPECT_EQ(last->end().error().code(), v1::CODE_NOT_FOUND);
}

TEST_F(ClientTest, nobody_there_and_wrong_addresses_are_errors_that_say_so) {
  serve();
  moe::ClientOptions options;
  options.patience = milliseconds(500);
  options.address = "tcp://127.0.0.1:1";
  const auto nobody = moe::Client::connect(options);
  ASSERT_FALSE(nobody.ok());
  EXPECT_EQ(nobody.error().code, MOE_UNAVAILABLE);
  EXPECT_NE(nobody.error().message.find("tcp://127.0.0.1:1"), std::string::npos);
  options.address = "nowhere";
  EXPECT_EQ(moe::Client::connect(options).error().code, MOE_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace patchbay
