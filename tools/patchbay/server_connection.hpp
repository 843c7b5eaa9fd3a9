// A client's connection to a server: one DEALER socket.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <zmq.hpp>

#include "moe/sdk/result.hpp"
#include "patchbay.pb.h"

namespace patchbay {

// One thread at a time.
class ServerConnection {
 public:
  // MOE_INVALID_ARGUMENT: no such address; MOE_UNAVAILABLE: nobody answers there within `patience`.
  static moe::Result<std::unique_ptr<ServerConnection>> open(const std::string& address,
                                                             std::chrono::milliseconds patience);

  void send(const v1::ClientMessage& message);
  // The next message; nothing when a signal came or `wait` is over. MOE_UNAVAILABLE: the connection is lost;
  // MOE_DATA_LOSS: what came is no message.
  moe::Result<std::optional<v1::ServerMessage>> receive(std::chrono::milliseconds wait);

 private:
  explicit ServerConnection(std::string address);
  moe::Status connect();
  moe::Status look_at_monitor();

  std::string address_;
  zmq::context_t context_;
  zmq::socket_t socket_;
  zmq::socket_t monitor_;
};

}  // namespace patchbay
