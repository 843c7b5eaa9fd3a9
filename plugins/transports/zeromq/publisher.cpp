#include "publisher.hpp"

#include <algorithm>

#include "patchbay.pb.h"

namespace zeromq {

namespace {

constexpr int kBehind = 16;  // messages kept for a listener that is slow

}  // namespace

Publisher::Publisher(zmq::context_t& context, const std::string& address, const moe_service& service)
    : socket_(context, zmq::socket_type::pub), service_(service) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.set(zmq::sockopt::sndhwm, kBehind);
  if (address.find('[') != std::string::npos) socket_.set(zmq::sockopt::ipv6, true);
  socket_.bind(address);
}

std::chrono::milliseconds Publisher::until_next() const {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(next_ - Clock::now());
  return std::max(left, std::chrono::milliseconds(0));
}

moe_status Publisher::deliver(std::string_view message) noexcept {
  try {
    answer_ = message;
  } catch (...) {  // no memory: nothing is published this time
    answer_.clear();
  }
  return MOE_OK;
}

void Publisher::publish_if_due(std::chrono::milliseconds every) {
  if (Clock::now() < next_) return;
  next_ = Clock::now() + every;
  if (!connection_.is_open()) {
    auto opened = moe::ServiceConnection::open(&service_, this);
    if (!opened.ok()) return;
    connection_ = std::move(opened).value();
  }
  patchbay::v1::ClientMessage question;
  question.mutable_telemetry();
  answer_.clear();
  if (!connection_.submit(question.SerializeAsString()).ok()) return;
  patchbay::v1::ServerMessage answer;
  if (!answer.ParseFromString(answer_) || !answer.has_telemetry()) return;
  const auto flags = zmq::send_flags::dontwait;
  (void)socket_.send(zmq::str_buffer("telemetry"), flags | zmq::send_flags::sndmore);
  (void)socket_.send(zmq::buffer(answer.telemetry().SerializeAsString()), flags);
}

}  // namespace zeromq
