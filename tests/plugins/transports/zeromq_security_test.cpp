// Strangers, floods and endless messages.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "moe/sdk/client.hpp"
#include "moe/sdk/curve_keys.hpp"
#include "transport_fixture.hpp"
#include "zmq_client.hpp"

namespace patchbay {
namespace {

using std::chrono::milliseconds;
using testing::ZmqClient;

struct ZeromqSecurity : testing::TransportTest {
  ZeromqSecurity() : TransportTest("transport_zeromq", "tcp://127.0.0.1:*") {}

  static moe::CurveKeys new_keys() {
    char public_key[41];
    char secret_key[41];
    EXPECT_EQ(zmq_curve_keypair(public_key, secret_key), 0);
    return {public_key, secret_key};
  }
  static std::string file(const std::string& name, const std::string& text, mode_t mode = 0600) {
    const std::string path = ::testing::TempDir() + "zeromq_security_" + std::to_string(getpid()) + "_" + name;
    std::ofstream(path) << text;
    chmod(path.c_str(), mode);
    return path;
  }
  // A server with keys that knows one client.
  void serve_with_keys(const std::string& clients) {
    serve({{"key_file", file("server.key", "public " + server_keys.public_key + "\nsecret " + server_keys.secret_key)},
           {"clients_file", file("clients", clients)}});
  }
  moe::ClientOptions options(const moe::CurveKeys& own) const {
    moe::ClientOptions o;
    o.address = address;
    o.patience = milliseconds(1000);
    o.server_key = server_keys.public_key;
    o.public_key = own.public_key;
    o.secret_key = own.secret_key;
    return o;
  }
  moe::CurveKeys server_keys = new_keys();
};

// A ZeroMQ peer by hand: greeting, then what the test likes.
class RawPeer {
 public:
  explicit RawPeer(const std::string& address) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval patience{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
  }
  ~RawPeer() { ::close(fd_); }
  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;
  // False once the other side has closed, or takes nothing for a second.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  // ZMTP 3.0, mechanism NULL, a DEALER. Waits for the answer: libzmq closes on whoever sends messages before it has
  // given it.
  void introduce() {
    std::string greeting("\xFF\0\0\0\0\0\0\0\x01\x7F\x03\0NULL", 16);
    greeting.resize(64, '\0');
    std::string ready(
        "\x05READY\x0BSocket-Type\0\0\0\x06"
        "DEALER",
        28);
    send(greeting);
    send(std::string("\x04", 1) + static_cast<char>(ready.size()) + ready);
    std::string greeted(greeting.size() + 2, '\0');  // theirs, and the head of their READY
    ASSERT_EQ(::recv(fd_, greeted.data(), greeted.size(), MSG_WAITALL), static_cast<ssize_t>(greeted.size()));
  }

 private:
  int fd_ = -1;
};

size_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  size_t total = 0;
  size_t resident = 0;
  in >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

TEST_F(ZeromqSecurity, a_client_whose_key_is_known_is_served_and_others_are_not) {
  const moe::CurveKeys known = new_keys();
  serve_with_keys("# who may come in\n" + known.public_key + " alice\n");
  auto client = moe::Client::connect(options(known));
  ASSERT_TRUE(client.ok()) << client.error().message;
  v1::Generate request;
  request.set_text("secret");
  std::string text;
  const auto end = (*client)->generate(request, [&](const v1::Tokens& t) { text += t.text(); });
  ASSERT_TRUE(end.ok()) << end.error().message;
  EXPECT_EQ(text, "secret");
  EXPECT_FALSE(moe::Client::connect(options(new_keys())).ok()) << "an unknown key";
  moe::ClientOptions other_server = options(known);
  other_server.server_key = new_keys().public_key;
  EXPECT_FALSE(moe::Client::connect(other_server).ok()) << "another server's key";
  ZmqClient plain(address);
  plain.generate(1, "x");
  EXPECT_FALSE(plain.receive(milliseconds(300)).has_value()) << "no encryption at all";
}

TEST_F(ZeromqSecurity, who_may_come_in_can_change_while_it_serves) {
  const moe::CurveKeys first = new_keys();
  const moe::CurveKeys second = new_keys();
  serve_with_keys(first.public_key + "\n");
  EXPECT_FALSE(moe::Client::connect(options(second)).ok());
  file("clients", second.public_key + "\n");
  const auto* reconfigure = static_cast<const moe_reconfigure*>(table->component.get_extension(MOE_RECONFIGURE_ID));
  ASSERT_NE(reconfigure, nullptr);
  const auto values = given_values();
  ASSERT_EQ(reconfigure->set(transport, values.data(), static_cast<uint32_t>(values.size()), nullptr), MOE_OK);
  EXPECT_TRUE(eventually([&] { return moe::Client::connect(options(second)).ok(); }));
  EXPECT_FALSE(moe::Client::connect(options(first)).ok());
}

TEST_F(ZeromqSecurity, keys_in_files_are_checked) {
  const std::string pair = "public " + server_keys.public_key + "\nsecret " + server_keys.secret_key + "\n";
  const std::string key = file("server.key", pair);
  const std::string clients = file("clients", server_keys.public_key + "\n");
  EXPECT_NE(create({{"key_file", key}}).find("expected both"), std::string::npos);
  EXPECT_NE(create({{"key_file", file("open.key", pair, 0644)}, {"clients_file", clients}}).find("only its owner"),
            std::string::npos);
  EXPECT_NE(create({{"key_file", file("bad.key", "public x\nsecret y\n")}, {"clients_file", clients}}).find("40"),
            std::string::npos);
  EXPECT_NE(create({{"key_file", key}, {"clients_file", file("none", "# nobody\n")}}).find("got none"),
            std::string::npos);
  EXPECT_NE(create({{"key_file", key}, {"clients_file", file("wrong", "not-a-key\n")}}).find("not-a-key"),
            std::string::npos);
  EXPECT_NE(create({{"key_file", key + ".missing"}, {"clients_file", clients}}).find("can be read"), std::string::npos);
  EXPECT_EQ(create({{"bind", "tcp://0.0.0.0:*"}, {"key_file", key}, {"clients_file", clients}}), "")
      << "with keys it may listen anywhere";
  table->destroy(std::exchange(transport, nullptr));
}

TEST_F(ZeromqSecurity, a_message_without_an_end_is_cut_off_with_bounded_memory) {
  serve({{"max_message_bytes", "1048576"}});
  ZmqClient good(address);
  good.generate(1, "before");
  EXPECT_EQ(good.stream(1).text, "before");
  const size_t before = resident_bytes();
  for (const size_t frame : {size_t{1}, size_t{200}}) {
    RawPeer endless(address);
    endless.introduce();
    std::string burst;
    while (burst.size() < 64 * 1024)
      burst += std::string("\x01", 1) + static_cast<char>(frame) + std::string(frame, 'x');
    size_t sent = 0;
    while (sent < (size_t{1} << 30) && endless.send(burst)) sent += burst.size();
    EXPECT_LT(sent, size_t{512} << 20) << "frames of " << frame;
  }
  EXPECT_LT(resident_bytes(), before + (size_t{400} << 20));
  EXPECT_TRUE(eventually([&] { return host.metrics()["zeromq_connections_cut_total"] == 2; }));
  good.generate(2, "after");
  EXPECT_EQ(good.stream(2).text, "after");
}

TEST_F(ZeromqSecurity, connections_that_say_nothing_keep_nobody_out) {
  serve({{"max_connections", "32"}, {"handshake_ms", "60000"}});
  std::deque<std::unique_ptr<RawPeer>> silent;
  for (int i = 0; i < 600; ++i) {
    silent.push_back(std::make_unique<RawPeer>(address));
    if (i % 60 != 0) continue;
    ZmqClient fresh(address);
    fresh.generate(1, "served");
    ASSERT_EQ(fresh.stream(1).text, "served") << i;
  }
  EXPECT_GT(host.metrics()["zeromq_connections_evicted_total"], 400);
}

TEST_F(ZeromqSecurity, many_messages_at_once_are_no_endless_one) {
  serve({{"max_message_bytes", "65536"}});
  ZmqClient client(address);
  for (uint64_t i = 1; i <= 200; ++i) client.cancel(1000 + i);  // small ones, no answers
  for (uint64_t i = 1; i <= 200; ++i) {
    client.generate(i, std::string(3000, 'x'), 1);
    EXPECT_EQ(client.stream(i).n_tokens, 1U);
  }
}

TEST_F(ZeromqSecurity, telemetry_is_published) {
  const std::string path = "ipc://" + ::testing::TempDir() + "zeromq_publish_" + std::to_string(getpid());
  engine.expert_tokens = {{3, 1}};
  serve({{"publish", path}, {"publish_ms", "20"}});
  zmq::context_t context;
  zmq::socket_t listener(context, zmq::socket_type::sub);
  listener.set(zmq::sockopt::linger, 0);
  listener.set(zmq::sockopt::rcvtimeo, 5000);
  listener.set(zmq::sockopt::subscribe, "telemetry");
  listener.connect(path);
  double last = 0;
  for (int i = 0; i < 3; ++i) {
    zmq::message_t topic;
    zmq::message_t body;
    ASSERT_TRUE(listener.recv(topic).has_value());
    ASSERT_TRUE(topic.more());
    ASSERT_TRUE(listener.recv(body).has_value());
    v1::Telemetry telemetry;
    ASSERT_TRUE(telemetry.ParseFromArray(body.data(), static_cast<int>(body.size())));
    EXPECT_EQ(telemetry.layers(0).tokens(0), 3U);
    EXPECT_GT(telemetry.time_s(), last);
    last = telemetry.time_s();
  }
  stop();
  EXPECT_NE(create({{"publish", "tcp://0.0.0.0:*"}}).find("allow_remote"), std::string::npos);
}

}  // namespace
}  // namespace patchbay
