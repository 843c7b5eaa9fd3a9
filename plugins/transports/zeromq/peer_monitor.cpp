#include "peer_monitor.hpp"

#include <cstdint>
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
      connected_.insert(fd);
    } else if (what == ZMQ_EVENT_DISCONNECTED) {
      connected_.erase(fd);
      closed.push_back(fd);
    }
  }
  return closed;
}

}  // namespace zeromq
