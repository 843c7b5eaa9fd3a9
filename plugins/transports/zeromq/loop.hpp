// The I/O thread: everything that touches the socket.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <zmq.hpp>

#include "moe/sdk/transport.hpp"
#include "peer.hpp"
#include "peer_monitor.hpp"
#include "publisher.hpp"
#include "zap.hpp"

namespace zeromq {

struct LoopOptions {
  std::string bind;
  std::string secret_key;         // of the server; empty: no CURVE
  std::set<std::string> allowed;  // public keys of the clients, 32 bytes each
  std::string publish;            // where telemetry is published; empty: nowhere
  std::chrono::milliseconds publish_every{1000};
  size_t max_connections = 1024;
  int64_t max_message_bytes = 0;
  uint64_t max_unread_bytes = 0;  // of all connections together
  moe::OutboxBounds send;
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
  // Takes the limits and the clients' keys of `options`. [any thread]
  void reconfigure(const LoopOptions& options);
  // [any thread, once]
  void stop(std::chrono::milliseconds grace);

 private:
  using Clock = Peer::Clock;
  struct Incoming {
    std::string identity;
    zmq::message_t payload;
    size_t n_frames = 0;  // without the identity
    size_t n_bytes = 0;   // at least what it took on the wire
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
  void take_new_options();
  void limit_connections();
  void limit_unread();
  void publish();
  void drop(Peer* peer);
  void drop_all_of(int fd);
  void cut(Peer& peer, const moe::Error& error);
  void flush_marked();
  bool flush(Peer* peer);  // whether anything moved; may destroy the peer
  moe_status send(const std::string& identity, std::string_view bytes);
  void send_error(const std::string& identity, const moe::Error& error);

  LoopOptions options_;
  const moe_service& service_;
  Wakeup wakeup_;
  zmq::context_t context_;
  std::optional<Zap> zap_;  // before the socket that it answers for is bound
  zmq::socket_t socket_;
  PeerMonitor monitor_;
  std::unique_ptr<Publisher> publisher_;
  std::string address_;

  std::unordered_map<std::string, std::unique_ptr<Peer>> peers_;  // by identity
  // More than one where messages of a connection that has gone came in after its file handle was another's: nothing
  // tells whose they are, so all of them last as long as the handle.
  std::unordered_multimap<int, Peer*> by_fd_;

  std::chrono::milliseconds retry_{1};
  Clock::time_point next_look_{};
  Clock::time_point next_forgiveness_{};

  std::mutex mutex_;
  std::optional<LoopOptions> new_options_;  // guarded

  std::atomic<bool> stopping_ = false;
  std::atomic<Clock::time_point> deadline_{Clock::time_point::max()};
};

}  // namespace zeromq
