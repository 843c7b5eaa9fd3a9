// The transport: options and life cycle. The work is in loop.cpp.
#include <thread>

#include "address.hpp"
#include "loop.hpp"
#include "moe/sdk/curve_keys.hpp"
#include "moe/sdk/transport.hpp"
#include "moe/sdk/transport_support.hpp"

namespace zeromq {

class ZeromqTransport final : public moe::Transport {
 public:
  static constexpr const char* kName = "zeromq";
  static constexpr const char* kDoc = "Protobuf messages over a ZeroMQ ROUTER socket; clients use DEALER sockets.";
  static constexpr moe_option kOptions[] = {
      moe::string_option("bind", "tcp://127.0.0.1:5757",
                         "Where to listen: tcp://HOST:PORT (port * takes a free one) or ipc://PATH."),
      moe::bool_option("allow_remote", "false",
                       "Listen where other machines can reach it, although clients are not authenticated."),
      moe::string_option(
          "key_file", "",
          "File with the server's own CURVE keys (patchbay keys new): connections are encrypted. Empty: not."),
      moe::string_option("clients_file", "", "File with the public keys of the clients that may connect, one a line.",
                         MOE_OPTION_RUNTIME),
      moe::string_option("publish", "",
                         "Where a PUB socket publishes telemetry: an address as for bind. Empty: nowhere."),
      moe::int_option("publish_ms", "1000", 10, 3600000, "How often.", MOE_OPTION_RUNTIME, "ms"),
      moe::int_option("max_message_bytes", "4194304", 1024, 1 << 30,
                      "The largest message of a client; a larger one ends its connection.", 0, "bytes"),
      moe::int_option("max_unread_bytes", "67108864", 1024, int64_t{1} << 40,
                      "What unfinished messages of all clients may hold; beyond, the one that holds most is cut off.",
                      MOE_OPTION_RUNTIME, "bytes"),
      moe::int_option("max_connections", "1024", 1, 100000, "Clients at one time.", MOE_OPTION_RUNTIME),
      moe::int_option("send_queue", "64", 1, 65536,
                      "Events kept for a client that does not read, beyond what its connection buffers.",
                      MOE_OPTION_RUNTIME),
      moe::int_option("send_queue_bytes", "4194304", 1024, 1 << 30, "The same in bytes.", MOE_OPTION_RUNTIME, "bytes"),
      moe::int_option("stalled_ms", "30000", 100, 86400000,
                      "A client that reads nothing for so long while events wait is cut off.", MOE_OPTION_RUNTIME,
                      "ms"),
      moe::int_option("heartbeat_ms", "5000", 0, 3600000,
                      "How often to look whether a silent client's host still lives; 0: never.", 0, "ms"),
      moe::int_option("handshake_ms", "5000", 100, 600000, "How long a new connection may take to introduce itself.", 0,
                      "ms"),
  };

  ~ZeromqTransport() override { stop(std::chrono::milliseconds(0)); }

  static constexpr bool kReconfigures = true;

  moe::Status configure(const moe::Options& options) override {
    MOE_ASSIGN(options_, read(options));
    return {};
  }

  moe::Status reconfigure(const moe::Options& options) override {
    MOE_ASSIGN(options_, read(options));
    loop_->reconfigure(options_);
    return {};
  }

  moe::Status start(const moe_service& service) override {
    MOE_TRY(check_path("bind", options_.bind));
    MOE_TRY(check_path("publish", options_.publish));
    try {
      loop_ = std::make_unique<Loop>(options_, service);
    } catch (const zmq::error_t& e) {
      return moe::Error{MOE_UNAVAILABLE, options_.bind + ": expected to bind, got \"" + e.what() + "\""};
    }
    if (moe::Status opened = loop_->open_wakeup(); !opened.ok()) {
      loop_.reset();
      return opened;
    }
    address_ = loop_->address();
    thread_ = moe::thread_without_signals([this] { loop_->run(); });
    return {};
  }

  void stop(std::chrono::milliseconds grace) override {
    if (!thread_.joinable()) return;
    loop_->stop(grace);
    thread_.join();
    loop_.reset();
  }

  [[nodiscard]] const char* address() const override { return address_.c_str(); }

 private:
  static moe::Result<LoopOptions> read(const moe::Options& options) {
    const auto time = [&](const char* key) { return std::chrono::milliseconds(options.integer(key)); };
    LoopOptions out;
    out.bind = options.text("bind");
    out.publish = options.text("publish");
    out.publish_every = time("publish_ms");
    out.max_message_bytes = options.integer("max_message_bytes");
    out.max_unread_bytes = static_cast<uint64_t>(options.integer("max_unread_bytes"));
    out.max_connections = static_cast<size_t>(options.integer("max_connections"));
    out.send.events = static_cast<size_t>(options.integer("send_queue"));
    out.send.bytes = static_cast<size_t>(options.integer("send_queue_bytes"));
    out.stalled = time("stalled_ms");
    out.heartbeat_ms = static_cast<int>(options.integer("heartbeat_ms"));
    out.handshake_ms = static_cast<int>(options.integer("handshake_ms"));
    MOE_TRY(read_keys(options, out));
    const bool open_to_others = options.flag("allow_remote") || !out.secret_key.empty();
    MOE_TRY(check_address("bind", out.bind, open_to_others));
    // Telemetry tells nobody's text, but it is for friends: it has no keys.
    if (!out.publish.empty()) MOE_TRY(check_address("publish", out.publish, options.flag("allow_remote")));
    return out;
  }

  static moe::Status read_keys(const moe::Options& options, LoopOptions& out) {
    const std::string key_file(options.text("key_file"));
    const std::string clients_file(options.text("clients_file"));
    if (key_file.empty() != clients_file.empty()) {
      return moe::invalid("key_file: expected both key_file and clients_file, got one of them");
    }
    if (key_file.empty()) return {};
    MOE_ASSIGN(const moe::CurveKeys keys, moe::read_curve_keys(key_file));
    out.secret_key = keys.secret_key;
    MOE_ASSIGN(out.allowed, Zap::read(clients_file));
    return {};
  }

  LoopOptions options_;
  std::unique_ptr<Loop> loop_;
  std::thread thread_;
  std::string address_;
};

}  // namespace zeromq

MOE_PLUGIN("transport_zeromq", "0.1.0", "Apache-2.0", "The Patchbay authors", zeromq::ZeromqTransport)
