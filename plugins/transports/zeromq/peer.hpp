// A connected client: its connection to the service and its bounded queue of outgoing events.
#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "moe/sdk/outbox.hpp"

namespace zeromq {

class Peer;

// Wakes the I/O thread and tells it which peers have something to send.
class Wakeup {
 public:
  Wakeup() = default;
  ~Wakeup();
  Wakeup(const Wakeup&) = delete;
  Wakeup& operator=(const Wakeup&) = delete;

  moe::Status open();
  [[nodiscard]] int fd() const { return fd_; }
  // [thread-safe]
  void mark(Peer* peer);
  void wake() const;
  // The peers marked since the last call, each once. [I/O thread]
  std::vector<Peer*> take();
  // Before a peer is destroyed. [I/O thread]
  void forget(Peer* peer);

 private:
  int fd_ = -1;
  std::mutex mutex_;
  std::vector<Peer*> marked_;
};

class Peer final {
 public:
  using Clock = std::chrono::steady_clock;

  Peer(std::string identity, int fd, const moe::OutboxBounds& bounds, Wakeup& wakeup)
      : identity_(std::move(identity)), fd_(fd), wakeup_(wakeup), outbox_(bounds, [this] { wakeup_.mark(this); }) {}
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // [I/O thread]
  [[nodiscard]] const std::string& identity() const { return identity_; }
  [[nodiscard]] int fd() const { return fd_; }
  moe::Status open(const moe_service& service) { return outbox_.open(service); }
  moe::Status submit(std::string_view message) { return outbox_.submit(message); }
  // Sends what is queued with `send(identity, bytes)`, which says MOE_OK, MOE_RESOURCE_EXHAUSTED (later) or else (the
  // peer is gone: false).
  template <typename Send>
  bool flush(const Send& send);
  // Since when the network takes nothing from the queue; nothing: it does, or there is nothing.
  [[nodiscard]] std::optional<Clock::time_point> stuck_since() const { return stuck_since_; }
  [[nodiscard]] bool is_empty() const { return outbox_.is_empty(); }

  // Closes its connection, which cancels its requests, and drops its queue. What it sends is ignored from now on.
  void cut();
  [[nodiscard]] bool is_cut() const { return cut_; }

 private:
  friend class Wakeup;

  const std::string identity_;
  const int fd_;  // of its connection, as the monitor names it; -1: unknown
  Wakeup& wakeup_;
  std::optional<Clock::time_point> stuck_since_;
  bool cut_ = false;
  bool marked_ = false;  // guarded by the wake-up's lock
  moe::Outbox outbox_;   // last: its wake-ups use the rest
};

template <typename Send>
bool Peer::flush(const Send& send) {
  stuck_since_ = outbox_.front() == nullptr ? std::nullopt : stuck_since_;
  while (std::string* next = outbox_.front()) {
    const moe_status status = send(identity_, *next);
    if (status == MOE_RESOURCE_EXHAUSTED) {
      if (!stuck_since_) stuck_since_ = Clock::now();
      return true;
    }
    if (status != MOE_OK) return false;
    outbox_.pop();
    stuck_since_.reset();
  }
  outbox_.resume();
  return true;
}

}  // namespace zeromq
