// Telemetry for whoever listens: a PUB socket.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <zmq.hpp>

#include "moe/sdk/transport.hpp"

namespace zeromq {

// Each message is two frames: "telemetry", and a serialized Telemetry. Nobody who listens holds anything up: what a
// slow one does not take is dropped for it, and the next message has it all, for counts only grow. [I/O thread]
class Publisher final : private moe::EventSink {
 public:
  using Clock = std::chrono::steady_clock;

  // Binds. Throws zmq::error_t.
  Publisher(zmq::context_t& context, const std::string& address, const moe_service& service);
  ~Publisher() override { connection_.close(); }
  [[nodiscard]] std::chrono::milliseconds until_next() const;
  void publish_if_due(std::chrono::milliseconds every);

 private:
  moe_status deliver(std::string_view message) noexcept override;  // within submit

  zmq::socket_t socket_;
  const moe_service& service_;
  moe::ServiceConnection connection_;
  std::string answer_;
  Clock::time_point next_ = Clock::now();
};

}  // namespace zeromq
