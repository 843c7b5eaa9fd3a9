#include "peer_monitor.hpp"

#include <linux/tcp.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace zeromq {

PeerMonitor::PeerMonitor(zmq::context_t& context, zmq::socket_t& socket) : pair_(context, zmq::socket_type::pair) {
  constexpr const char* kAddress = "inproc://peer-monitor";
  if (zmq_socket_monitor(socket.handle(), kAddress, ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED) != 0)
    throw zmq::error_t();
  pair_.set(zmq::sockopt::linger, 0);
  pair_.connect(kAddress);
}

std::vector<int> PeerMonitor::drain() {
  std::vector<int> closed;
  zmq::message_t event;
  while (pair_.recv(event, zmq::recv_flags::dontwait)) {
    uint16_t what = 0;  // the frame: u16 event, u32 value; then a frame with the address
    uint32_t value = 0;
    const bool whole = event.size() >= sizeof what + sizeof value;
    if (whole) {
      std::memcpy(&what, event.data(), sizeof what);
      std::memcpy(&value, event.data<char>() + sizeof what, sizeof value);
    }
    while (event.more() && pair_.recv(event, zmq::recv_flags::none)) {
    }
    if (!whole) continue;
    const int fd = static_cast<int>(value);
    if (what == ZMQ_EVENT_ACCEPTED) {
      accept(fd);
    } else if (what == ZMQ_EVENT_DISCONNECTED) {
      connections_.erase(fd);
      closed.push_back(fd);
    }
  }
  return closed;
}

void PeerMonitor::accept(int fd) { connections_[fd] = {peer_of(fd), ++n_accepted_, 0}; }

sockaddr_storage PeerMonitor::peer_of(int fd) {
  sockaddr_storage peer{};
  socklen_t n = sizeof peer;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &n) != 0) peer = {};
  return peer;
}

// What the kernel has received from it since its beginning; 0 where it does not count.
uint64_t PeerMonitor::bytes_sent(int fd) {
  tcp_info info{};
  socklen_t n = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) != 0) return 0;
  constexpr size_t kNeeded = offsetof(tcp_info, tcpi_bytes_received) + sizeof info.tcpi_bytes_received;
  return n < kNeeded ? 0 : info.tcpi_bytes_received;
}

void PeerMonitor::add_received(int fd, size_t n_bytes) {
  const auto found = connections_.find(fd);
  if (found != connections_.end()) found->second.n_received += n_bytes;
}

std::vector<int> PeerMonitor::overfull(uint64_t most, uint64_t most_in_all) {
  std::vector<int> bad;
  uint64_t in_all = 0;
  uint64_t worst = 0;
  int worst_fd = -1;
  for (auto& [fd, connection] : connections_) {
    const uint64_t sent = bytes_sent(fd);
    // A message was counted with more than its frames' headers take, so that nobody is wronged; nor gathers credit.
    connection.n_received = std::min(connection.n_received, sent);
    const uint64_t unseen = sent - connection.n_received;
    in_all += unseen;
    if (unseen > most) {
      bad.push_back(fd);
    } else if (unseen > worst) {
      worst = unseen;
      worst_fd = fd;
    }
  }
  if (bad.empty() && in_all > most_in_all) bad.push_back(worst_fd);
  return bad;
}

void PeerMonitor::shut(int fd) {
  const auto found = connections_.find(fd);
  if (found == connections_.end()) return;
  const sockaddr_storage now = peer_of(fd);
  if (std::memcmp(&now, &found->second.peer, sizeof now) == 0) ::shutdown(fd, SHUT_RDWR);
}

}  // namespace zeromq
