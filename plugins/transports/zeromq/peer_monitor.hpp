// Which of the socket's connections are there, by file handle, as libzmq's socket monitor tells it.
#pragma once

#include <unordered_set>
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
  [[nodiscard]] bool is_connected(int fd) const { return connected_.contains(fd); }

 private:
  zmq::socket_t pair_;
  std::unordered_set<int> connected_;
};

}  // namespace zeromq
