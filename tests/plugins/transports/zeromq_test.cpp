// The plugin as it is loaded, with scripted clients on one side and a service over an echoing engine on the other.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "transport_fixture.hpp"
#include "zmq_client.hpp"

namespace patchbay {
namespace {

using std::chrono::milliseconds;
using testing::ZmqClient;

struct ZeromqTest : testing::TransportTest {
  ZeromqTest() : TransportTest("transport_zeromq", "tcp://127.0.0.1:*") {}
};

TEST_F(ZeromqTest, a_stream_comes_whole_over_tcp) {
  serve();
  EXPECT_EQ(address.rfind("tcp://127.0.0.1:", 0), 0U) << address;
  EXPECT_EQ(address.find('*'), std::string::npos) << address;
  ZmqClient client(address);
  client.generate(1, "over the wire: é");
  const auto s = client.stream(1);
  EXPECT_EQ(s.text, "over the wire: é");
  EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_STOP);
}

// A socket's file that nobody listens at any more.
void leave_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  unlink(path.c_str());
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  close(fd);
}

TEST_F(ZeromqTest, a_stream_comes_whole_over_ipc) {
  const std::string path = ::testing::TempDir() + "zeromq_test_" + std::to_string(getpid()) + ".ipc";
  serve({{"bind", "ipc://" + path}});
  {
    ZmqClient client(address);
    client.generate(1, "over a file");
    EXPECT_EQ(client.stream(1).text, "over a file");
    EXPECT_EQ(n_connections(), 1);
  }
  EXPECT_TRUE(eventually([this] { return n_connections() == 0; }));
}

TEST_F(ZeromqTest, a_socket_that_a_dead_server_left_is_taken) {
  const std::string path = ::testing::TempDir() + "zeromq_test_left_" + std::to_string(getpid()) + ".ipc";
  leave_socket(path);
  serve({{"bind", "ipc://" + path}});
  ZmqClient client(address);
  client.generate(1, "taken over");
  EXPECT_EQ(client.stream(1).text, "taken over");
}

TEST_F(ZeromqTest, a_socket_that_another_server_has_is_refused) {
  const std::string path = ::testing::TempDir() + "zeromq_test_taken_" + std::to_string(getpid()) + ".ipc";
  zmq::context_t context;
  zmq::socket_t other(context, zmq::socket_type::router);
  other.bind("ipc://" + path);
  const std::string error = try_to_serve({{"bind", "ipc://" + path}});
  EXPECT_EQ(error, "bind: expected a socket that nobody serves, got one that a server listens at: " + path);
  zmq::socket_t client(context, zmq::socket_type::dealer);
  client.connect("ipc://" + path);
  client.send(zmq::str_buffer("still there"));
  zmq::message_t from;
  other.set(zmq::sockopt::rcvtimeo, 5000);
  EXPECT_TRUE(other.recv(from).has_value());
}

TEST_F(ZeromqTest, a_file_that_is_no_socket_is_refused_and_stays) {
  const std::string path = ::testing::TempDir() + "zeromq_test_file_" + std::to_string(getpid());
  std::ofstream(path) << "precious";
  const std::string error = try_to_serve({{"bind", "ipc://" + path}});
  EXPECT_EQ(error, "bind: expected no file or a socket that nobody serves, got another kind of file: " + path);
  std::string text;
  std::ifstream(path) >> text;
  EXPECT_EQ(text, "precious");
  unlink(path.c_str());
}

TEST_F(ZeromqTest, a_path_too_long_for_a_socket_is_refused) {
  const std::string path = "/tmp/" + std::string(200, 'x');
  const std::string error = try_to_serve({{"bind", "ipc://" + path}});
  EXPECT_EQ(error, "bind: expected a path of at most 107 bytes, got 205: " + path);
  stop();
  EXPECT_EQ(create({{"bind", "tcp://127.0.0.1:*"}, {"publish", "udp://127.0.0.1:1"}}),
            "publish: expected tcp://HOST:PORT or ipc://PATH, got \"udp://127.0.0.1:1\"");
}

TEST_F(ZeromqTest, many_clients_get_their_own_streams) {
  serve();
  std::vector<std::thread> clients;
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([this, c] {
      ZmqClient client(address);
      for (uint64_t r = 1; r <= 20; ++r) {
        const std::string text = "client " + std::to_string(c) + " request " + std::to_string(r) +
                                 std::string(static_cast<size_t>(c * 10), '.');
        client.generate(r, text);
        EXPECT_EQ(client.stream(r).text, text);
      }
    });
  }
  for (auto& c : clients) c.join();
  EXPECT_TRUE(eventually([this] { return n_connections() == 0; }));
}

TEST_F(ZeromqTest, a_cancel_reaches_the_engine_and_other_streams_go_on) {
  engine.endless = true;
  step = milliseconds(1);
  serve();
  ZmqClient client(address);
  ZmqClient other(address);
  client.generate(1, "endless ");
  other.generate(1, "abc", 100);
  ASSERT_TRUE(client.receive().has_value());
  client.cancel(1);
  while (true) {
    const auto m = client.receive();
    ASSERT_TRUE(m.has_value());
    if (!m->has_end()) continue;
    EXPECT_EQ(m->end().reason(), v1::FINISH_REASON_CANCELLED);
    break;
  }
  EXPECT_EQ(other.stream(1).n_tokens, 100U);
}

TEST_F(ZeromqTest, a_client_that_vanishes_frees_its_slot) {
  engine.endless = true;
  step = milliseconds(1);
  serve();
  ZmqClient other(address);
  other.generate(1, "xyz", 300);
  {
    ZmqClient client(address);
    client.generate(1, "endless ");
    ASSERT_TRUE(client.receive().has_value());
    EXPECT_TRUE(eventually([this] { return n_connections() == 2; }));
  }
  EXPECT_TRUE(eventually([this] { return service->n_running() == 1 && n_connections() == 1; }));
  EXPECT_EQ(other.stream(1).n_tokens, 300U);
}

TEST_F(ZeromqTest, a_client_that_vanishes_before_its_first_token_frees_its_slot) {
  engine.endless = true;
  step = milliseconds(100);  // a long prefill: nothing is sent that could fail
  serve();
  {
    ZmqClient client(address);
    client.generate(1, "endless ");
    ASSERT_TRUE(eventually([this] { return service->n_running() == 1; }));
  }
  EXPECT_TRUE(eventually([this] { return service->n_running() == 0; }));
}

TEST_F(ZeromqTest, a_reader_that_stalls_is_cut_and_the_others_lose_nothing) {
  engine.endless = true;
  step = std::chrono::microseconds(100);  // a reader that reads keeps up with that, also under sanitizers
  serve({{"send_queue", "4"}});
  ZmqClient stalled(address, 1, 4096);
  stalled.generate(1, std::string(2000, 'x'), 0, 100);
  ZmqClient other(address);
  other.generate(1, "abcdefg", 5000);
  const auto s = other.stream(1);
  EXPECT_EQ(s.n_tokens, 5000U) << s.end.error().message();
  ASSERT_TRUE(eventually([this] { return service->n_running() == 0; }));  // cut; then what it got is whole
  const auto cut = stalled.stream(1);
  EXPECT_EQ(cut.text.size(), cut.n_tokens);
  EXPECT_EQ(cut.end.reason(), v1::FINISH_REASON_FAILED);
  EXPECT_EQ(cut.end.error().code(), v1::CODE_RESOURCE_EXHAUSTED);
}

TEST_F(ZeromqTest, a_reader_that_pauses_gets_every_event_in_order) {
  ServiceOptions options;
  options.hold.events = 100000;
  options.hold.bytes = 1 << 30;
  serve({{"send_queue", "4"}}, options);
  ZmqClient client(address, 1, 4096);
  const std::string text(4000, 'a');
  client.generate(1, text, 0, 100);
  ASSERT_TRUE(eventually([this] { return service->n_running() == 0; }));
  EXPECT_EQ(client.stream(1).text, text);
}

TEST_F(ZeromqTest, messages_of_a_wrong_shape_cut_their_sender_only) {
  serve();
  ZmqClient good(address);
  for (const std::vector<std::string>& frames :
       {std::vector<std::string>{"", ""}, std::vector<std::string>{"\xFF\xFF garbage"},
        std::vector<std::string>{"", "a", "b", "c", "d"}}) {
    ZmqClient bad(address);
    bad.generate(1, "first a good one");
    EXPECT_EQ(bad.stream(1).text, "first a good one");
    bad.send_frames(frames);
    const auto m = bad.receive();
    ASSERT_TRUE(m.has_value());
    EXPECT_EQ(m->sequence(), 0U);
    EXPECT_EQ(m->error().code(), v1::CODE_INVALID_ARGUMENT);
    bad.generate(2, "ignored from now on");
    EXPECT_FALSE(bad.receive(milliseconds(50)).has_value());
    good.generate(1, "unharmed");
    EXPECT_EQ(good.stream(1).text, "unharmed");
  }
}

TEST_F(ZeromqTest, a_message_that_is_too_large_ends_its_connection_only) {
  serve({{"max_message_bytes", "2000"}});
  ZmqClient good(address);
  good.generate(1, "a");
  EXPECT_EQ(good.stream(1).text, "a");
  ZmqClient bad(address);
  bad.send_frames({std::string(5000, 'x')});
  EXPECT_FALSE(bad.receive(milliseconds(50)).has_value());
  good.generate(2, "still here");
  EXPECT_EQ(good.stream(2).text, "still here");
}

TEST_F(ZeromqTest, connections_beyond_the_limit_are_told_so) {
  serve({{"max_connections", "1"}});
  {
    ZmqClient first(address);
    first.generate(1, "in");
    EXPECT_EQ(first.stream(1).text, "in");
    ZmqClient second(address);
    second.generate(1, "out");
    const auto m = second.receive();
    ASSERT_TRUE(m.has_value());
    EXPECT_EQ(m->error().code(), v1::CODE_RESOURCE_EXHAUSTED);
  }
  ASSERT_TRUE(eventually([this] { return n_connections() == 0; }));
  ZmqClient third(address);
  third.generate(1, "in again");
  EXPECT_EQ(third.stream(1).text, "in again");
}

// What a client sent before it vanished may be received when its file handle is already another's.
TEST_F(ZeromqTest, no_connection_stays_behind_when_many_come_and_vanish_with_words_on_the_way) {
  serve();
  std::vector<std::thread> clients;
  for (int c = 0; c < 4; ++c) {
    clients.emplace_back([this] {
      for (int round = 0; round < 60; ++round) {
        ZmqClient client(address);
        v1::ClientMessage question;
        question.mutable_health();
        for (int i = 0; i < 100; ++i) client.send(question);
        EXPECT_TRUE(client.receive().has_value());
      }
    });
  }
  for (auto& c : clients) c.join();
  EXPECT_TRUE(eventually([this] { return n_connections() == 0; })) << n_connections();
}

TEST_F(ZeromqTest, stop_sends_what_is_queued_and_joins) {
  serve();
  ZmqClient client(address);
  client.generate(1, std::string(2000, 'x'));
  ASSERT_TRUE(eventually([this] { return engine.stats().steps > 100; }));
  ASSERT_TRUE(eventually([this] { return service->n_running() == 0; }));
  const auto began = std::chrono::steady_clock::now();
  stop(5000);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(4));
  EXPECT_EQ(n_connections(), 0);
}

TEST_F(ZeromqTest, stop_waits_no_longer_than_its_grace_for_a_reader_that_stalls) {
  engine.endless = true;
  serve({{"send_queue", "4"}});
  ZmqClient stalled(address, 1, 4096);
  stalled.generate(1, std::string(2000, 'x'), 0, 100);
  ASSERT_TRUE(eventually([this] { return engine.stats().tokens_generated > 0 && service->n_running() == 0; }));  // cut
  const auto began = std::chrono::steady_clock::now();
  stop(200);
  const auto took = std::chrono::steady_clock::now() - began;
  EXPECT_LT(took, std::chrono::seconds(3));
}

TEST_F(ZeromqTest, addresses_that_others_can_reach_are_refused_unless_allowed) {
  for (const char* bind : {"tcp://*:5757", "tcp://0.0.0.0:5757", "tcp://192.168.1.7:5757", "tcp://[::]:5757",
                           "tcp://example.org:1", "tcp://127.0.0.1.example.org:1", "tcp://eth0:5757"}) {
    EXPECT_NE(create({{"bind", bind}}).find("allow_remote"), std::string::npos) << bind;
    EXPECT_EQ(create({{"bind", bind}, {"allow_remote", "true"}}), "") << bind;
    table->destroy(std::exchange(transport, nullptr));
  }
  for (const char* bind :
       {"tcp://127.0.0.1:5757", "tcp://127.9.9.9:*", "tcp://localhost:1", "tcp://[::1]:5757", "ipc:///tmp/x"}) {
    EXPECT_EQ(create({{"bind", bind}}), "") << bind;
    table->destroy(std::exchange(transport, nullptr));
  }
  for (const char* bind : {"", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://:1", "udp://127.0.0.1:1",
                           "inproc://x", "ipc://", "127.0.0.1:5757"}) {
    EXPECT_NE(create({{"bind", bind}}).find("expected tcp://"), std::string::npos) << bind;
  }
}

TEST_F(ZeromqTest, an_address_in_use_is_an_error_that_names_it) {
  serve();
  moe_transport_instance* first = std::exchange(transport, nullptr);
  ASSERT_EQ(create({{"bind", address}}), "");
  char text[512] = "";
  moe_message message{text, sizeof text, 0};
  EXPECT_EQ(table->start(transport, service->abi(), &message), MOE_UNAVAILABLE);
  EXPECT_NE(std::string(text).find(address), std::string::npos) << text;
  table->destroy(std::exchange(transport, first));
}

}  // namespace
}  // namespace patchbay
