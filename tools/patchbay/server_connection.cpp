#include "tools/patchbay/server_connection.hpp"

#include <fmt/format.h>

#include <cstring>

namespace patchbay {

ServerConnection::ServerConnection(std::string address)
    : address_(std::move(address)),
      socket_(context_, zmq::socket_type::dealer),
      monitor_(context_, zmq::socket_type::pair) {}

moe::Status ServerConnection::connect() {
  constexpr const char* kMonitor = "inproc://connection-monitor";
  try {
    socket_.set(zmq::sockopt::linger, 200);        // a cancel on its way out still goes
    socket_.set(zmq::sockopt::reconnect_ivl, -1);  // a server that was restarted does not know our streams
    socket_.set(zmq::sockopt::ipv6, true);
    monitor_.set(zmq::sockopt::linger, 0);
    if (zmq_socket_monitor(socket_.handle(), kMonitor, ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED) != 0)
      throw zmq::error_t();
    monitor_.connect(kMonitor);
    socket_.connect(address_);
  } catch (const zmq::error_t& e) {
    return moe::invalid(
        fmt::format("server: expected an address such as tcp://127.0.0.1:5757, got \"{}\" ({})", address_, e.what()));
  }
  return {};
}

moe::Result<std::unique_ptr<ServerConnection>> ServerConnection::open(const std::string& address,
                                                                      std::chrono::milliseconds patience) {
  std::unique_ptr<ServerConnection> connection(new ServerConnection(address));
  MOE_TRY(connection->connect());
  v1::ClientMessage hello;
  hello.mutable_health();
  connection->send(hello);
  MOE_ASSIGN(const auto answer, connection->receive(patience));
  if (!answer) return moe::Error{MOE_UNAVAILABLE, fmt::format("server: expected an answer from {}, got none", address)};
  if (answer->has_error()) {
    return moe::Error{static_cast<moe_status>(answer->error().code()), answer->error().message()}.in(address);
  }
  return connection;
}

void ServerConnection::send(const v1::ClientMessage& message) {
  const std::string bytes = message.SerializeAsString();
  // Does not wait: what finds no room is found missing by its answer that does not come.
  (void)socket_.send(zmq::buffer(bytes), zmq::send_flags::dontwait);
}

moe::Status ServerConnection::look_at_monitor() {
  zmq::message_t event;
  if (!monitor_.recv(event, zmq::recv_flags::dontwait)) return {};
  uint16_t what = 0;
  if (event.size() >= sizeof what) std::memcpy(&what, event.data(), sizeof what);
  const char* got = what == ZMQ_EVENT_CLOSED ? "nobody who listens there" : "a connection that was lost";
  return moe::Error{MOE_UNAVAILABLE, fmt::format("server: expected one at {}, got {}", address_, got)};
}

moe::Result<std::optional<v1::ServerMessage>> ServerConnection::receive(std::chrono::milliseconds wait) {
  zmq::message_t frame;
  try {
    if (!socket_.recv(frame, zmq::recv_flags::dontwait)) {
      zmq::pollitem_t items[] = {{socket_.handle(), 0, ZMQ_POLLIN, 0}, {monitor_.handle(), 0, ZMQ_POLLIN, 0}};
      zmq::poll(items, 2, wait);
      if (!socket_.recv(frame, zmq::recv_flags::dontwait)) {  // what was sent before the connection went comes first
        MOE_TRY(look_at_monitor());
        return std::optional<v1::ServerMessage>();
      }
    }
  } catch (const zmq::error_t& e) {
    if (e.num() == EINTR) return std::optional<v1::ServerMessage>();
    return moe::Error{MOE_UNAVAILABLE, fmt::format("{}: {}", address_, e.what())};
  }
  v1::ServerMessage message;
  if (!message.ParseFromArray(frame.data(), static_cast<int>(frame.size()))) {
    return moe::data_loss(
        fmt::format("{}: expected a ServerMessage, got {} bytes that are none", address_, frame.size()));
  }
  return std::optional(std::move(message));
}

}  // namespace patchbay
