// A client of a transport, chosen by the address that the transport says: "tcp://" and "ipc://" speak ZeroMQ (a DEALER
// socket, a message a frame), "unix://" 4 bytes of length and a message, "http://" OpenAI's completions. Any other
// transport brings a client of its own: a command that gets the address as its last argument, reads messages on its
// stdin and writes those that come to its stdout, each with 4 bytes of length (little-endian) before it. Messages are
// serialized ClientMessage and ServerMessage (patchbay.proto).
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "moe/sdk/result.hpp"

namespace patchbay::conformance {

// What came of a stream.
struct StreamRead {
  std::string text;
  int64_t n_tokens = 0;
  bool cancelled = false;
};

class TransportClient {
 public:
  virtual ~TransportClient() = default;
  // `command` empty: by the address.
  static moe::Result<std::unique_ptr<TransportClient>> connect(const std::string& address, const std::string& command);

  // One message out. Does not wait for room.
  virtual moe::Status send(const std::string& message) = 0;
  // The next message; nothing if none comes in time, an error if the connection has ended.
  virtual moe::Result<std::optional<std::string>> receive(std::chrono::milliseconds patience) = 0;

  // max_tokens 0: no limit.
  virtual moe::Status generate(uint64_t request, const std::string& text, int64_t max_tokens);
  moe::Status generate(uint64_t request, const std::string& text) { return generate(request, text, 0); }
  virtual moe::Status cancel(uint64_t request);
  // Reads a stream to its end; its events must come whole and in order. Events of other streams are kept for their
  // turn.
  virtual moe::Result<StreamRead> read_stream(uint64_t request, std::chrono::milliseconds patience);
  moe::Result<StreamRead> read_stream(uint64_t request) { return read_stream(request, std::chrono::seconds(10)); }
};

moe::Result<std::unique_ptr<TransportClient>> connect_http(const std::string& address);

}  // namespace patchbay::conformance
