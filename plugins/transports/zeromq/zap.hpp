// Who may connect: libzmq asks for each handshake (ZAP, https://rfc.zeromq.org/spec/27).
#pragma once

#include <set>
#include <string>
#include <zmq.hpp>

#include "moe/sdk/result.hpp"

namespace zeromq {

// [I/O thread]
class Zap {
 public:
  // The keys in a file of public keys, as 32 bytes each.
  static moe::Result<std::set<std::string>> read(const std::string& file);

  // Before any socket of the context is bound. Throws zmq::error_t.
  Zap(zmq::context_t& context, std::set<std::string> allowed);
  [[nodiscard]] void* handle() { return socket_.handle(); }
  // Whoever comes from now on; those who are in stay.
  void allow(std::set<std::string> keys) { allowed_ = std::move(keys); }
  // Answers what was asked.
  void answer();

 private:
  zmq::socket_t socket_;
  std::set<std::string> allowed_;
};

}  // namespace zeromq
