// A TCP proxy that mistreats what passes: delays it, cuts it, closes one half, adds garbage.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace patchbay::testing {

// What becomes of one connection. Bytes count in both directions together.
struct Fault {
  std::chrono::milliseconds delay{0};        // of every piece that passes
  std::optional<uint64_t> cut_after;         // then both ends are closed
  std::optional<uint64_t> half_close_after;  // then the server is told that the client sends no more
  std::optional<uint64_t> garbage_after;     // then the server gets bytes that the client never sent
};

// One thread serves all connections.
class FaultProxy {
 public:
  using Policy = std::function<Fault()>;

  // To a server at "...://127.0.0.1:PORT". `policy` is asked for each connection, on the proxy's thread.
  explicit FaultProxy(
      const std::string& server, Policy policy = [] { return Fault(); })
      : server_port_(port_of(server)), policy_(std::move(policy)) {
    sockaddr_in at = loopback(0);
    listen_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t n = sizeof at;
    EXPECT_EQ(::bind(listen_, reinterpret_cast<sockaddr*>(&at), n), 0);
    EXPECT_EQ(::listen(listen_, 128), 0);
    ::getsockname(listen_, reinterpret_cast<sockaddr*>(&at), &n);
    address = server.substr(0, server.rfind(':') + 1) + std::to_string(ntohs(at.sin_port));
    thread_ = std::thread([this] { run(); });
  }
  ~FaultProxy() {
    stopping_ = true;
    thread_.join();
    ::close(listen_);
  }
  FaultProxy(const FaultProxy&) = delete;
  FaultProxy& operator=(const FaultProxy&) = delete;

  // The server's address with the proxy's port.
  std::string address;

  void break_connections() { breaking_ = true; }
  // Nothing passes while it is on; the connections stay.
  void freeze(bool on) { frozen_ = on; }
  // Connections that were ended by a fault.
  [[nodiscard]] int n_faults() const { return n_faults_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Line {
    int client = -1;
    int server = -1;
    Fault fault;
    uint64_t n_bytes = 0;
    Clock::time_point not_before{};
    bool half_closed = false;
    bool spoiled = false;
  };

  static sockaddr_in loopback(uint16_t port) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    return at;
  }
  static uint16_t port_of(const std::string& a) { return static_cast<uint16_t>(std::stoi(a.substr(a.rfind(':') + 1))); }
  static bool send_all(int fd, const char* bytes, size_t n) {
    for (size_t sent = 0; sent < n;) {
      const ssize_t some = ::send(fd, bytes + sent, n - sent, MSG_NOSIGNAL);
      if (some <= 0) return false;
      sent += static_cast<size_t>(some);
    }
    return true;
  }

  void accept_one() {
    Line line;
    line.client = ::accept4(listen_, nullptr, nullptr, SOCK_CLOEXEC);
    line.server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval patience{1, 0};  // a reader that takes nothing must not hold up the others for long
    for (const int fd : {line.client, line.server})
      ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    const sockaddr_in to = loopback(server_port_);
    if (line.client < 0 || ::connect(line.server, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
      for (const int fd : {line.client, line.server}) ::close(fd);
      return;
    }
    line.fault = policy_();
    lines_.push_back(line);
  }
  static void close_line(const Line& line) {
    for (const int fd : {line.client, line.server}) ::close(fd);
  }
  // False: the line is over.
  bool pass(Line& line, bool from_client) {
    char buffer[4096];
    const ssize_t n = ::recv(from_client ? line.client : line.server, buffer, sizeof buffer, 0);
    if (n <= 0 || !send_all(from_client ? line.server : line.client, buffer, static_cast<size_t>(n))) return false;
    line.n_bytes += static_cast<uint64_t>(n);
    line.not_before = Clock::now() + line.fault.delay;
    return apply(line);
  }
  bool apply(Line& line) {
    const Fault& f = line.fault;
    if (f.garbage_after && line.n_bytes >= *f.garbage_after && !std::exchange(line.spoiled, true)) {
      ++n_faults_;
      std::string garbage(64, '\0');
      for (char& c : garbage) c = static_cast<char>(random_());
      if (!send_all(line.server, garbage.data(), garbage.size())) return false;
    }
    if (f.half_close_after && line.n_bytes >= *f.half_close_after && !std::exchange(line.half_closed, true)) {
      ++n_faults_;
      ::shutdown(line.server, SHUT_WR);
    }
    if (!f.cut_after || line.n_bytes < *f.cut_after) return true;
    ++n_faults_;
    return false;
  }
  void run() {
    while (!stopping_) {
      if (breaking_.exchange(false)) {
        for (const Line& line : lines_) close_line(line);
        lines_.clear();
      }
      const auto now = Clock::now();
      std::vector<pollfd> all{{listen_, POLLIN, 0}};
      for (const Line& line : lines_) {
        const short want = frozen_ || now < line.not_before ? 0 : POLLIN;
        all.push_back({line.client, static_cast<short>(line.half_closed ? 0 : want), 0});
        all.push_back({line.server, want, 0});
      }
      if (::poll(all.data(), all.size(), 2) <= 0) continue;
      std::vector<Line> left;
      for (size_t i = 0; i < lines_.size(); ++i) {
        Line& line = lines_[i];
        bool alive = true;
        for (const size_t side : {size_t{0}, size_t{1}}) {
          const short got = all[1 + 2 * i + side].revents;
          if (alive && (got & POLLIN) != 0) alive = pass(line, side == 0);
          if (alive && (got & POLLIN) == 0 && (got & (POLLERR | POLLNVAL)) != 0) alive = false;
        }
        if (alive) {
          left.push_back(line);
        } else {
          close_line(line);
        }
      }
      lines_ = std::move(left);
      if (all[0].revents != 0) accept_one();
    }
    for (const Line& line : lines_) close_line(line);
  }

  const uint16_t server_port_;
  const Policy policy_;
  int listen_ = -1;
  std::vector<Line> lines_;
  std::mt19937 random_{7};
  std::atomic<bool> breaking_ = false;
  std::atomic<bool> frozen_ = false;
  std::atomic<bool> stopping_ = false;
  std::atomic<int> n_faults_ = 0;
  std::thread thread_;
};

}  // namespace patchbay::testing
