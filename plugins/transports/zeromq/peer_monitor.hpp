// Which of the socket's connections are there, by file handle, as libzmq's socket monitor tells it, and how much each
// has sent that nobody has seen as a message yet.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>
#include <zmq.hpp>

namespace zeromq {

// libzmq reports a disconnection before it closes the handle, and an acceptance before any message of the new
// connection can be received. So whoever drains the monitor after receiving a message and before acting on it never
// takes a new connection for an old one of the same handle. [I/O thread]
class PeerMonitor {
 public:
  // Before the socket is bound. Throws zmq::error_t.
  PeerMonitor(zmq::context_t& context, zmq::socket_t& socket);
  [[nodiscard]] void* handle() { return pair_.handle(); }
  // The handles that were closed since the last call.
  std::vector<int> drain();
  [[nodiscard]] bool is_connected(int fd) const { return connections_.contains(fd); }
  [[nodiscard]] size_t size() const { return connections_.size(); }
  // The connection that was accepted first of those for which `eligible(fd)` holds.
  template <typename F>
  [[nodiscard]] std::optional<int> oldest(const F& eligible) const;

  // A message of this connection was received.
  void add_received(int fd, size_t n_bytes);
  // Connections that have sent more than `most` bytes beyond the messages that were received from them; and where all
  // of them together exceed `most_in_all`, the worst. libzmq gathers the frames of a message before it gives any, so a
  // message without an end is seen nowhere else. TCP only: what comes over ipc is not counted.
  std::vector<int> overfull(uint64_t most, uint64_t most_in_all);
  // Of each connection so many bytes are no message: heartbeats.
  void forgive(uint64_t n_bytes) {
    for (auto& [fd, connection] : connections_) connection.n_received += n_bytes;
  }
  // Ends a connection; libzmq then reports it as closed.
  void shut(int fd);
  // It counts no more, although it may take a moment to close.
  void forget(int fd) { connections_.erase(fd); }

 private:
  struct Connection {
    sockaddr_storage peer{};  // to know it again: the handle may be another's by now
    uint64_t number = 0;      // in order of acceptance
    uint64_t n_received = 0;  // bytes, as messages
  };
  void accept(int fd);
  static sockaddr_storage peer_of(int fd);
  static uint64_t bytes_sent(int fd);

  zmq::socket_t pair_;
  std::map<int, Connection> connections_;
  uint64_t n_accepted_ = 0;
};

template <typename F>
std::optional<int> PeerMonitor::oldest(const F& eligible) const {
  std::optional<int> found;
  for (const auto& [fd, connection] : connections_) {
    if (eligible(fd) && (!found || connection.number < connections_.at(*found).number)) found = fd;
  }
  return found;
}

}  // namespace zeromq
