// The events of a connection on their way to a network that has a thread of its own: bounded, so that a slow reader
// costs only itself.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "moe/sdk/transport.hpp"

namespace moe {

struct OutboxBounds {
  size_t events = 64;
  size_t bytes = size_t{4} << 20;  // an event that alone is larger is taken if nothing else waits
};

// A connection to the service and the queue of what it delivers. Beyond the bounds events stay with the service, which
// in the end cuts the request. [I/O thread] unless another tag is given.
class Outbox final : private EventSink {
 public:
  // `wake` makes the I/O thread look. Called for every event and again for those that resume() brings; must not block
  // or call this object. [any thread]
  Outbox(const OutboxBounds& bounds, std::function<void()> wake) : bounds_(bounds), wake_(std::move(wake)) {}
  ~Outbox() override { close(); }
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  // Errors as in moe_service::open.
  Status open(const moe_service& service) {
    MOE_ASSIGN(connection_, ServiceConnection::open(&service, this));
    return {};
  }
  // One serialized ClientMessage. Errors as in moe_service::submit.
  Status submit(std::string_view client_message) { return connection_.submit(client_message); }

  // The oldest event, which stays where it is until pop(); null: there is none.
  std::string* front() {
    const std::lock_guard lock(mutex_);
    return queue_.empty() ? nullptr : &queue_.front();  // a deque's elements do not move when others come behind them
  }
  void pop() {
    const std::lock_guard lock(mutex_);
    n_bytes_ -= queue_.front().size();
    queue_.pop_front();
  }
  // Asks the service for what did not fit before. To be called when there is room.
  void resume() {
    {
      const std::lock_guard lock(mutex_);
      if (!std::exchange(blocked_, false)) return;
    }
    connection_.resume();  // without the lock: it delivers
  }
  // Neither an event here nor one that the service holds back for want of room. [any thread]
  [[nodiscard]] bool is_empty() const {
    const std::lock_guard lock(mutex_);
    return queue_.empty() && !blocked_;
  }

  // Closes the connection, which cancels its requests, and drops what is queued. No wake() follows.
  void close() {
    connection_.close();
    const std::lock_guard lock(mutex_);
    queue_.clear();
    n_bytes_ = 0;
    blocked_ = false;
  }

 private:
  moe_status deliver(std::string_view message) noexcept override {
    try {
      {
        const std::lock_guard lock(mutex_);
        const bool full = queue_.size() >= bounds_.events || n_bytes_ + message.size() > bounds_.bytes;
        if (full && !queue_.empty()) {
          blocked_ = true;
          return MOE_RESOURCE_EXHAUSTED;
        }
        queue_.emplace_back(message);
        n_bytes_ += message.size();
      }
      wake_();
      return MOE_OK;
    } catch (...) {  // out of memory: the service will find the reader gone
      return MOE_UNAVAILABLE;
    }
  }

  const OutboxBounds bounds_;
  const std::function<void()> wake_;
  ServiceConnection connection_;

  mutable std::mutex mutex_;
  std::deque<std::string> queue_;  // only the I/O thread pops
  size_t n_bytes_ = 0;
  bool blocked_ = false;  // an event was refused: the service waits for resume
};

}  // namespace moe
