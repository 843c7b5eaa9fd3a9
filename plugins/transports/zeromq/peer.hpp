// A connected client: its connection to the service and its bounded queue of outgoing events.
#pragma once

#include <chrono>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "moe/sdk/transport.hpp"

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

struct SendBounds {
  size_t events = 64;
  size_t bytes = size_t{4} << 20;
};

class Peer final : public moe::EventSink {
 public:
  using Clock = std::chrono::steady_clock;

  Peer(std::string identity, int fd, const SendBounds& bounds, Wakeup& wakeup)
      : identity_(std::move(identity)), fd_(fd), bounds_(bounds), wakeup_(wakeup) {}
  ~Peer() override;

  // Takes the event unless the queue is full. [any thread]
  moe_status deliver(std::string_view message) noexcept override;

  // The rest: [I/O thread]
  [[nodiscard]] const std::string& identity() const { return identity_; }
  [[nodiscard]] int fd() const { return fd_; }
  moe::Status open(const moe_service& service);
  moe::Status submit(std::string_view message) { return connection_.submit(message); }
  // Sends what is queued with `send(identity, bytes)`, which says MOE_OK, MOE_RESOURCE_EXHAUSTED (later) or else (the
  // peer is gone: false).
  template <typename Send>
  bool flush(const Send& send);
  // Since when the network takes nothing from the queue; nothing: it does, or there is nothing.
  [[nodiscard]] std::optional<Clock::time_point> stuck_since() const { return stuck_since_; }
  [[nodiscard]] bool is_empty() const;

  // Closes its connection, which cancels its requests, and drops its queue. What it sends is ignored from now on.
  void cut();
  [[nodiscard]] bool is_cut() const { return cut_; }

 private:
  friend class Wakeup;
  [[nodiscard]] std::string* front();
  void pop();
  void resume_if_room();

  const std::string identity_;
  const int fd_;  // of its connection, as the monitor names it; -1: unknown
  const SendBounds bounds_;
  Wakeup& wakeup_;
  moe::ServiceConnection connection_;
  std::optional<Clock::time_point> stuck_since_;
  bool cut_ = false;
  bool marked_ = false;  // guarded by the wake-up's lock

  mutable std::mutex mutex_;
  std::deque<std::string> queue_;  // only the I/O thread pops: its front stays where it is
  size_t n_bytes_ = 0;
  bool blocked_ = false;  // an event was refused: the service waits for resume()
};

template <typename Send>
bool Peer::flush(const Send& send) {
  stuck_since_ = front() == nullptr ? std::nullopt : stuck_since_;
  while (std::string* next = front()) {
    const moe_status status = send(identity_, *next);
    if (status == MOE_RESOURCE_EXHAUSTED) {
      if (!stuck_since_) stuck_since_ = Clock::now();
      return true;
    }
    if (status != MOE_OK) return false;
    pop();
    stuck_since_.reset();
  }
  resume_if_room();
  return true;
}

}  // namespace zeromq
