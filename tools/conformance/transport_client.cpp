#include "tools/conformance/transport_client.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <zmq.hpp>

#include "patchbay.pb.h"

extern char** environ;

namespace patchbay::conformance {
namespace {

using std::chrono::milliseconds;

moe::Error ended(const std::string& why) { return {MOE_UNAVAILABLE, "client: the connection has ended: " + why}; }

class ZmqClient final : public TransportClient {
 public:
  explicit ZmqClient(const std::string& address) : socket_(context_, zmq::socket_type::dealer) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::rcvhwm, 100);
    socket_.set(zmq::sockopt::ipv6, true);
    socket_.connect(address);
  }
  moe::Status send(const std::string& message) override {
    if (!socket_.send(zmq::buffer(message), zmq::send_flags::dontwait)) return ended("no room to send");
    return {};
  }
  moe::Result<std::optional<std::string>> receive(milliseconds patience) override {
    socket_.set(zmq::sockopt::rcvtimeo, static_cast<int>(patience.count()));
    zmq::message_t frame;
    if (!socket_.recv(frame)) return std::optional<std::string>();
    if (frame.more()) return moe::data_loss("client: expected one frame a message, got several");
    return std::optional(frame.to_string());
  }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_;
};

// Messages with 4 bytes of length before them, over file descriptors.
class FramedClient : public TransportClient {
 public:
  FramedClient(int in, int out) : in_(in), out_(out) {}
  ~FramedClient() override {
    if (out_ != in_) ::close(out_);
    ::close(in_);
  }
  moe::Status send(const std::string& message) override {
    const auto n = static_cast<uint32_t>(message.size());
    std::string frame(sizeof(n), '\0');
    std::memcpy(frame.data(), &n, sizeof(n));
    frame += message;
    for (size_t at = 0; at < frame.size();) {
      const ssize_t sent = ::write(out_, frame.data() + at, frame.size() - at);
      if (sent <= 0) return ended(std::strerror(errno));
      at += static_cast<size_t>(sent);
    }
    return {};
  }
  moe::Result<std::optional<std::string>> receive(milliseconds patience) override {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (true) {
      if (auto message = take()) return std::optional(std::move(*message));
      const auto left = std::chrono::duration_cast<milliseconds>(deadline - std::chrono::steady_clock::now()).count();
      pollfd p{in_, POLLIN, 0};
      if (left <= 0 || ::poll(&p, 1, static_cast<int>(left)) <= 0) return std::optional<std::string>();
      char buffer[65536];
      const ssize_t n = ::read(in_, buffer, sizeof(buffer));
      if (n <= 0) return ended(n < 0 ? std::strerror(errno) : "closed by the other side");
      buffer_.append(buffer, static_cast<size_t>(n));
    }
  }

 private:
  std::optional<std::string> take() {
    uint32_t n = 0;
    if (buffer_.size() < sizeof(n)) return std::nullopt;
    std::memcpy(&n, buffer_.data(), sizeof(n));
    if (buffer_.size() < sizeof(n) + n) return std::nullopt;
    std::string message = buffer_.substr(sizeof(n), n);
    buffer_.erase(0, sizeof(n) + n);
    return message;
  }
  int in_;
  int out_;
  std::string buffer_;
};

class CommandClient final : public FramedClient {
 public:
  CommandClient(int in, int out, pid_t pid) : FramedClient(in, out), pid_(pid) {}
  ~CommandClient() override {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_;
};

moe::Result<std::unique_ptr<TransportClient>> connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return moe::invalid(path + ": too long for a socket");
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const std::string why = std::strerror(errno);
    if (fd >= 0) ::close(fd);
    return moe::Error{MOE_UNAVAILABLE, path + ": could not connect: " + why};
  }
  return std::unique_ptr<TransportClient>(std::make_unique<FramedClient>(fd, fd));
}

moe::Result<std::unique_ptr<TransportClient>> start_command(const std::string& command, const std::string& address) {
  int to[2], from[2];
  if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) return moe::exhausted("client: no pipes");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to[0], 0);
  posix_spawn_file_actions_adddup2(&actions, from[1], 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);  // what it says is not the plugin's doing
  std::string line = command + " \"$0\"";
  std::string shell = "/bin/sh", flag = "-c", argument = address;
  char* argv[] = {shell.data(), flag.data(), line.data(), argument.data(), nullptr};
  std::vector<char*> envp;
  for (char** e = environ; *e != nullptr; ++e) {
    if (std::strncmp(*e, "LD_PRELOAD=", 11) != 0) envp.push_back(*e);
  }
  envp.push_back(nullptr);
  pid_t pid = 0;
  const int failed = posix_spawn(&pid, shell.c_str(), &actions, nullptr, argv, envp.data());
  posix_spawn_file_actions_destroy(&actions);
  ::close(to[0]);
  ::close(from[1]);
  if (failed != 0) {
    ::close(to[1]);
    ::close(from[0]);
    return moe::not_found(fmt::format("--client: {}: {}", command, std::strerror(failed)));
  }
  return std::unique_ptr<TransportClient>(std::make_unique<CommandClient>(from[0], to[1], pid));
}

}  // namespace

moe::Result<std::unique_ptr<TransportClient>> TransportClient::connect(const std::string& address,
                                                                       const std::string& command) {
  if (!command.empty()) return start_command(command, address);
  if (address.rfind("http://", 0) == 0) return connect_http(address);
  if (address.rfind("unix://", 0) == 0) return connect_unix(address.substr(7));
  if (address.rfind("tcp://", 0) == 0 || address.rfind("ipc://", 0) == 0) {
    try {
      return std::unique_ptr<TransportClient>(std::make_unique<ZmqClient>(address));
    } catch (const zmq::error_t& e) {
      return moe::Error{MOE_UNAVAILABLE, fmt::format("{}: {}", address, e.what())};
    }
  }
  return moe::unimplemented(fmt::format("{}: no client for such an address is known; --client gives one", address));
}

moe::Status TransportClient::generate(uint64_t request, const std::string& text, int64_t max_tokens) {
  v1::ClientMessage m;
  m.set_request(request);
  m.mutable_generate()->set_text(text);
  m.mutable_generate()->set_max_tokens(max_tokens);
  return send(m.SerializeAsString());
}
moe::Status TransportClient::cancel(uint64_t request) {
  v1::ClientMessage m;
  m.set_request(request);
  m.mutable_cancel();
  return send(m.SerializeAsString());
}

moe::Result<StreamRead> TransportClient::read_stream(uint64_t request, milliseconds patience) {
  StreamRead out;
  uint64_t sequence = 0;
  while (true) {
    MOE_ASSIGN(const auto bytes, receive(patience));
    if (!bytes)
      return moe::Error{MOE_DEADLINE_EXCEEDED, fmt::format("stream {}: expected its next event within {} ms, got none",
                                                           request, patience.count())};
    v1::ServerMessage m;
    if (!m.ParseFromString(*bytes))
      return moe::data_loss(fmt::format("stream {}: expected a ServerMessage, got other bytes", request));
    if (m.request() != request || m.sequence() == 0) continue;
    if (m.sequence() != ++sequence)
      return moe::data_loss(fmt::format("stream {}: expected event {}, got {}", request, sequence, m.sequence()));
    if (m.has_end()) {
      out.cancelled = m.end().reason() == v1::FINISH_REASON_CANCELLED;
      return out;
    }
    if (m.tokens().index() != out.n_tokens)
      return moe::data_loss(
          fmt::format("stream {}: expected token {}, got {}", request, out.n_tokens, m.tokens().index()));
    out.n_tokens += m.tokens().ids_size();
    out.text += m.tokens().text();
  }
}

}  // namespace patchbay::conformance
