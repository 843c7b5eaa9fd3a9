#include "peer.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace zeromq {

Wakeup::~Wakeup() {
  if (fd_ >= 0) ::close(fd_);
}

moe::Status Wakeup::open() {
  fd_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd_ < 0) return moe::exhausted(std::string("eventfd: expected a file handle, got ") + std::strerror(errno));
  return {};
}

void Wakeup::wake() const {
  const uint64_t one = 1;
  // Fails only when the counter is full, and then the thread is awake.
  [[maybe_unused]] const ssize_t written = ::write(fd_, &one, sizeof one);
}

void Wakeup::mark(Peer* peer) {
  {
    const std::lock_guard lock(mutex_);
    if (peer->marked_) return;
    peer->marked_ = true;
    marked_.push_back(peer);
    if (marked_.size() > 1) return;  // whoever was first has woken it
  }
  wake();
}

std::vector<Peer*> Wakeup::take() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t read = ::read(fd_, &count, sizeof count);
  const std::lock_guard lock(mutex_);
  for (Peer* peer : marked_) peer->marked_ = false;
  return std::exchange(marked_, {});
}

void Wakeup::forget(Peer* peer) {
  const std::lock_guard lock(mutex_);
  std::erase(marked_, peer);
}

Peer::~Peer() {
  connection_.close();  // no delivery after this
  wakeup_.forget(this);
}

moe_status Peer::deliver(std::string_view message) noexcept {
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
    wakeup_.mark(this);
    return MOE_OK;
  } catch (...) {  // out of memory: the service will find the reader gone
    return MOE_UNAVAILABLE;
  }
}

moe::Status Peer::open(const moe_service& service) {
  MOE_ASSIGN(connection_, moe::ServiceConnection::open(&service, this));
  return {};
}

std::string* Peer::front() {
  const std::lock_guard lock(mutex_);
  return queue_.empty() ? nullptr
                        : &queue_.front();  // a deque's elements do not move when others are pushed behind them
}

void Peer::pop() {
  const std::lock_guard lock(mutex_);
  n_bytes_ -= queue_.front().size();
  queue_.pop_front();
}

bool Peer::is_empty() const {
  const std::lock_guard lock(mutex_);
  return queue_.empty() && !blocked_;
}

void Peer::resume_if_room() {
  {
    const std::lock_guard lock(mutex_);
    if (!blocked_) return;
    blocked_ = false;
  }
  connection_.resume();  // without the lock: it delivers
}

void Peer::cut() {
  connection_.close();
  const std::lock_guard lock(mutex_);
  queue_.clear();
  n_bytes_ = 0;
  blocked_ = false;
  stuck_since_.reset();
  cut_ = true;
}

}  // namespace zeromq
