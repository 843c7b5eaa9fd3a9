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
  outbox_.close();  // no wake-up after this
  wakeup_.forget(this);
}

void Peer::cut() {
  outbox_.close();
  stuck_since_.reset();
  cut_ = true;
}

}  // namespace zeromq
