// The smallest transport: a Unix socket, one client at a time. Each message, in and out, is 4 bytes of length
// (little-endian) and that many bytes of a serialized ClientMessage or ServerMessage (patchbay.proto). It does not look
// inside: the service checks what comes in.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "moe/sdk/transport.hpp"

namespace {

constexpr uint32_t kMostBytes = 16U << 20;  // of one message, and of what waits for a slow reader

bool receive_all(int fd, void* to, size_t n) {
  for (auto* at = static_cast<char*>(to); n > 0;) {
    const ssize_t got = ::recv(fd, at, n, 0);
    if (got <= 0) return false;
    at += got;
    n -= static_cast<size_t>(got);
  }
  return true;
}

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

// One client: its requests are read here, its events are queued by deliver() and written by a thread of their own,
// because deliver may not wait for a slow reader.
class Client final : public moe::EventSink {
 public:
  explicit Client(int fd) : fd_(fd) {}
  ~Client() override { ::close(fd_); }

  // Until the client has gone, or hang_up().
  void serve(const moe_service& service) {
    auto opened = moe::ServiceConnection::open(&service, this);
    if (!opened.ok()) return;
    moe::ServiceConnection connection = std::move(opened).value();
    std::thread writer([&] { write_events(connection); });
    std::string message;
    for (uint32_t n = 0; receive_all(fd_, &n, sizeof(n)) && n <= kMostBytes;) {
      message.resize(n);
      if (!receive_all(fd_, message.data(), n) || !connection.submit(message).ok()) break;
    }
    finish();
    writer.join();
  }
  // Ends serve() from another thread; whatever is being sent is cut off.
  void hang_up() { ::shutdown(fd_, SHUT_RDWR); }
  // Whether every event was written, waiting for it at most so long.
  void flush(std::chrono::milliseconds most) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, most, [this] { return n_queued_bytes_ == 0 || finished_; });
  }

  moe_status deliver(std::string_view message) noexcept override {
    try {
      const std::lock_guard lock(mutex_);
      if (finished_) return MOE_UNAVAILABLE;
      if (n_queued_bytes_ + message.size() > kMostBytes && n_queued_bytes_ > 0) {
        has_refused_ = true;
        return MOE_RESOURCE_EXHAUSTED;
      }
      const auto n = static_cast<uint32_t>(message.size());
      std::string frame(sizeof(n), '\0');
      std::memcpy(frame.data(), &n, sizeof(n));
      frame += message;
      n_queued_bytes_ += frame.size();
      queue_.push_back(std::move(frame));
    } catch (const std::exception&) {
      return MOE_UNAVAILABLE;  // no memory for this reader
    }
    changed_.notify_all();
    return MOE_OK;
  }

 private:
  void finish() {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_all();
  }
  void write_events(moe::ServiceConnection& connection) {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return finished_ || !queue_.empty(); });
      if (finished_) return;
      const std::string frame = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      const bool sent = send_all(fd_, frame);
      lock.lock();
      n_queued_bytes_ -= frame.size();
      changed_.notify_all();
      if (!sent) {
        hang_up();  // the reading side ends too
        return;
      }
      if (queue_.empty() && std::exchange(has_refused_, false)) {
        lock.unlock();  // resume() may deliver at once
        connection.resume();
        lock.lock();
      }
    }
  }

  const int fd_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> queue_;
  size_t n_queued_bytes_ = 0;  // what is being written included
  bool has_refused_ = false;
  bool finished_ = false;
};

class MyTransport : public moe::Transport {
 public:
  static constexpr const char* kName = "my_transport";
  static constexpr const char* kDoc = "Length-prefixed messages over a Unix socket, one client at a time.";
  static constexpr moe_option kOptions[] = {
      moe::string_option("path", nullptr, "The socket's path; nothing may be there yet.")};

  ~MyTransport() override {
    if (thread_.joinable()) stop(std::chrono::milliseconds(0));
  }

  moe::Status configure(const moe::Options& options) override {
    path_ = options.text("path");
    address_ = "unix://" + path_;
    if (path_.empty() || path_.size() >= sizeof(sockaddr_un::sun_path)) {
      return moe::invalid("path: expected 1 to " + std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " bytes, got " +
                          std::to_string(path_.size()));
    }
    return {};
  }

  moe::Status start(const moe_service& service) override {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd_ < 0 || ::bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        ::listen(fd_, 8) != 0) {
      const std::string why = std::strerror(errno);
      if (fd_ >= 0) ::close(std::exchange(fd_, -1));
      return moe::Error{MOE_UNAVAILABLE, path_ + ": could not listen: " + why};
    }
    thread_ = std::thread([this, &service] { accept_clients(service); });
    return {};
  }

  void stop(std::chrono::milliseconds grace) override {
    ::shutdown(fd_, SHUT_RDWR);  // wakes accept()
    {
      std::unique_lock lock(mutex_);
      stopping_ = true;
      if (client_ != nullptr) {
        client_->flush(grace);
        client_->hang_up();
      }
    }
    thread_.join();
    ::close(fd_);
    ::unlink(path_.c_str());
  }

  [[nodiscard]] const char* address() const override { return address_.c_str(); }

 private:
  void accept_clients(const moe_service& service) {
    while (true) {
      const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
      if (fd < 0) return;
      Client client(fd);
      if (!set_client(&client)) return;
      client.serve(service);
      set_client(nullptr);
    }
  }
  // False: it is over.
  bool set_client(Client* client) {
    const std::lock_guard lock(mutex_);
    if (stopping_ && client != nullptr) return false;
    client_ = client;
    return true;
  }

  std::string path_;
  std::string address_;
  int fd_ = -1;
  std::thread thread_;
  std::mutex mutex_;
  Client* client_ = nullptr;
  bool stopping_ = false;
};

}  // namespace

MOE_PLUGIN("my_transport", "0.1.0", "MIT", "you", MyTransport)
