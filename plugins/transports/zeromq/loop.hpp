// The I/O thread: everything that touches the socket.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <unordered_map>
#include <zmq.hpp>

#include "moe/sdk/transport.hpp"
#include "peer.hpp"
#include "peer_monitor.hpp"

namespace zeromq {

struct LoopOptions {
  std::string bind;
  size_t max_connections = 1024;
  int64_t max_message_bytes = 0;
  SendBounds send;
  int heartbeat_ms = 0;
  int handshake_ms = 0;
  std::chrono::milliseconds stalled{0};
};

class Loop {
 public:
  // Binds. Throws zmq::error_t.
  Loop(const LoopOptions& options, const moe_service& service);
  [[nodiscard]] moe::Status open_wakeup() { return wakeup_.open(); }
  [[nodiscard]] const std::string& address() const { return address_; }

  // Serves until stop() was called and what is queued is sent or the grace is over. [I/O thread]
  void run() noexcept;
  // [any thread, once]
  void stop(std::chrono::milliseconds grace);

 private:
  using Clock = Peer::Clock;
  struct Incoming {
    std::string identity;
    zmq::message_t payload;
    size_t n_frames = 0;  // without the identity
    int fd = -1;
  };

  void configure();
  void step();
  [[nodiscard]] bool is_done() const;
  void receive();
  bool receive_one(Incoming& in);
  void handle(const Incoming& in);
  Peer* peer_of(const Incoming& in);
  void drop_disconnected();
  void drop(Peer* peer);
  void cut(Peer& peer, const moe::Error& error);
  void flush_marked();
  bool flush(Peer* peer);  // whether anything moved; may destroy the peer
  moe_status send(const std::string& identity, std::string_view bytes);
  void send_error(const std::string& identity, const moe::Error& error);

  const LoopOptions options_;
  const moe_service& service_;
  Wakeup wakeup_;
  zmq::context_t context_;
  zmq::socket_t socket_;
  PeerMonitor monitor_;
  std::string address_;

  std::unordered_map<std::string, std::unique_ptr<Peer>> peers_;  // by identity
  std::unordered_map<int, Peer*> by_fd_;

  std::chrono::milliseconds retry_{1};

  std::atomic<bool> stopping_ = false;
  std::atomic<Clock::time_point> deadline_{Clock::time_point::max()};
};

}  // namespace zeromq
