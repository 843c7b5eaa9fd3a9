// A service without an engine: it sends a prompt's text back, a character an event. What it does with its sinks is what
// the real one does: one call at a time, in order, from a thread of its own, and a sink that has no room is left alone
// until it says `resume`.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "moe/abi/transport.h"
#include "moe/sdk/result.hpp"

namespace patchbay::v1 {
class ClientMessage;
class Info;
}  // namespace patchbay::v1

namespace patchbay::conformance {

class EchoService {
 public:
  EchoService();
  ~EchoService();
  EchoService(const EchoService&) = delete;
  EchoService& operator=(const EchoService&) = delete;

  [[nodiscard]] const moe_service* abi() const { return &abi_; }
  // Prompts that begin with this have no end, and large events.
  static constexpr const char* kEndless = "endless";

  [[nodiscard]] int64_t n_open();
  [[nodiscard]] int64_t n_opened();
  [[nodiscard]] int64_t n_refused();  // deliveries that found no room
  [[nodiscard]] int64_t delivered_bytes();
  // The longest that a call of `deliver` took.
  [[nodiscard]] double slowest_deliver_s();
  // Streams that have neither ended nor been cancelled.
  [[nodiscard]] int64_t n_streams();

 private:
  struct Stream {
    uint64_t request = 0;
    std::string text;
    int64_t max_tokens = 0;
    int64_t n = 0;
    uint64_t sequence = 0;
    bool endless = false;
    bool cancelled = false;
  };
  struct Connection {
    moe_sink sink{};
    std::deque<Stream> streams;
    std::deque<std::string> answers;  // beside streams
    bool full = false;
    bool gone = false;
    std::mutex delivering;
  };

  static Stream stream_of(const v1::ClientMessage& message);
  static void describe(v1::Info& info);
  moe_status open(const moe_sink* sink, uint64_t* connection);
  moe_status submit(uint64_t connection, const void* message, uint64_t n_bytes, moe_message* text);
  void resume(uint64_t connection);
  void close(uint64_t connection);
  void run();
  bool serve(Connection& connection);
  static std::string next_event(Stream& stream, bool& ended);
  moe_status deliver(Connection& connection, const std::string& message);

  moe_service abi_{};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<uint64_t, std::shared_ptr<Connection>> connections_;
  uint64_t last_id_ = 0;
  int64_t n_refused_ = 0;
  int64_t delivered_bytes_ = 0;
  double slowest_s_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace patchbay::conformance
