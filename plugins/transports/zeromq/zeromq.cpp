// The transport: options and life cycle. The work is in loop.cpp.
#include <thread>

#include "address.hpp"
#include "loop.hpp"
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
      moe::int_option("max_message_bytes", "16777216", 1024, 1 << 30,
                      "The largest message of a client; a larger one ends its connection.", 0, "bytes"),
      moe::int_option("max_connections", "1024", 1, 100000, "Clients at one time."),
      moe::int_option("send_queue", "64", 1, 65536,
                      "Events kept for a client that does not read, beyond what its connection buffers."),
      moe::int_option("send_queue_bytes", "4194304", 1024, 1 << 30, "The same in bytes.", 0, "bytes"),
      moe::int_option("stalled_ms", "30000", 100, 86400000,
                      "A client that reads nothing for so long while events wait is cut off.", 0, "ms"),
      moe::int_option("heartbeat_ms", "5000", 0, 3600000,
                      "How often to look whether a silent client's host still lives; 0: never.", 0, "ms"),
      moe::int_option("handshake_ms", "5000", 100, 600000, "How long a new connection may take to introduce itself.", 0,
                      "ms"),
  };

  ~ZeromqTransport() override { stop(std::chrono::milliseconds(0)); }

  moe::Status configure(const moe::Options& options) override {
    options_.bind = options.text("bind");
    options_.max_message_bytes = options.integer("max_message_bytes");
    options_.max_connections = static_cast<size_t>(options.integer("max_connections"));
    options_.send.events = static_cast<size_t>(options.integer("send_queue"));
    options_.send.bytes = static_cast<size_t>(options.integer("send_queue_bytes"));
    options_.stalled = std::chrono::milliseconds(options.integer("stalled_ms"));
    options_.heartbeat_ms = static_cast<int>(options.integer("heartbeat_ms"));
    options_.handshake_ms = static_cast<int>(options.integer("handshake_ms"));
    return check_address(options_.bind, options.flag("allow_remote"));
  }

  moe::Status start(const moe_service& service) override {
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
  LoopOptions options_;
  std::unique_ptr<Loop> loop_;
  std::thread thread_;
  std::string address_;
};

}  // namespace zeromq

MOE_PLUGIN("transport_zeromq", "0.1.0", "Apache-2.0", "The Patchbay authors", zeromq::ZeromqTransport)
