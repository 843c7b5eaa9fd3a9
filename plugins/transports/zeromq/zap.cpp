#include "zap.hpp"

#include <vector>

#include "moe/sdk/curve_keys.hpp"
#include "moe/sdk/transport_support.hpp"

namespace zeromq {

moe::Result<std::set<std::string>> Zap::read(const std::string& file) {
  MOE_ASSIGN(const auto named, moe::read_public_keys(file));
  std::set<std::string> keys;
  for (const moe::NamedKey& k : named) {
    std::string bytes(32, '\0');
    zmq_z85_decode(reinterpret_cast<uint8_t*>(bytes.data()), k.key.c_str());
    keys.insert(std::move(bytes));
  }
  return keys;
}

Zap::Zap(zmq::context_t& context, std::set<std::string> allowed)
    : socket_(context, zmq::socket_type::rep), allowed_(std::move(allowed)) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.bind("inproc://zeromq.zap.01");
}

void Zap::answer() {
  // version, request, domain, address, identity, mechanism, credentials
  constexpr size_t kRequest = 1;
  constexpr size_t kMechanism = 5;
  constexpr size_t kKey = 6;
  zmq::message_t frame;
  while (socket_.recv(frame, zmq::recv_flags::dontwait)) {
    std::vector<std::string> frames{frame.to_string()};
    while (frame.more() && socket_.recv(frame, zmq::recv_flags::none)) frames.push_back(frame.to_string());
    const bool known = frames.size() > kKey && frames[kMechanism] == "CURVE" && allowed_.contains(frames[kKey]);
    if (!known) moe::count("zeromq_connections_unauthorized_total");
    const std::string request = frames.size() > kRequest ? frames[kRequest] : "";
    for (const std::string& reply : {std::string("1.0"), request, std::string(known ? "200" : "400"),
                                     std::string(known ? "OK" : "unknown key"), std::string()}) {
      socket_.send(zmq::buffer(reply), zmq::send_flags::sndmore);
    }
    socket_.send(zmq::message_t(), zmq::send_flags::none);  // no metadata
  }
}

}  // namespace zeromq
