// A client of an HTTP transport: OpenAI's completions, streamed (server-sent events, chunked).
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

#include "core/model/json/json.hpp"
#include "tools/conformance/transport_client.hpp"

namespace patchbay::conformance {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

class HttpClient final : public TransportClient {
 public:
  explicit HttpClient(int fd) : fd_(fd) {}
  ~HttpClient() override { hang_up(); }

  moe::Status send(const std::string& bytes) override {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t n = ::send(fd_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (n <= 0) return moe::Error{MOE_UNAVAILABLE, "client: the connection has ended"};
      at += static_cast<size_t>(n);
    }
    return {};
  }
  moe::Result<std::optional<std::string>> receive(milliseconds patience) override {
    pollfd p{fd_, POLLIN, 0};
    if (::poll(&p, 1, static_cast<int>(patience.count())) <= 0) return std::optional<std::string>();
    char buffer[65536];
    const ssize_t n = ::recv(fd_, buffer, sizeof(buffer), 0);
    if (n <= 0) return moe::Error{MOE_UNAVAILABLE, "client: the connection was closed by the other side"};
    return std::optional(std::string(buffer, static_cast<size_t>(n)));
  }
  moe::Status generate(uint64_t, const std::string& text, int64_t max_tokens) override {
    constexpr int64_t kMany = 100000;
    const std::string body =
        json{{"prompt", text}, {"max_tokens", max_tokens > 0 ? max_tokens : kMany}, {"stream", true}}.dump();
    return send(
        fmt::format("POST /v1/completions HTTP/1.1\r\nHost: check\r\nContent-Type: application/json\r\nContent-Length: "
                    "{}\r\n\r\n{}",
                    body.size(), body));
  }
  moe::Status cancel(uint64_t) override {  // there is no other way in HTTP
    hang_up();
    return {};
  }
  moe::Result<StreamRead> read_stream(uint64_t, milliseconds patience) override {
    MOE_ASSIGN(const std::string head, until("\r\n\r\n", patience));
    if (head.rfind("HTTP/1.1 200", 0) != 0)
      return moe::data_loss("response: expected 200, got " + head.substr(0, head.find('\r')));
    StreamRead out;
    std::string events;
    while (true) {  // chunks, the last one empty
      MOE_ASSIGN(const std::string size, until("\r\n", patience));
      size_t n = 0;
      if (std::from_chars(size.data(), size.data() + size.size(), n, 16).ec != std::errc())
        return moe::data_loss("chunk: expected its size, got " + size);
      MOE_ASSIGN(std::string chunk, exactly(n + 2, patience));
      events += chunk.substr(0, n);
      if (n == 0) break;
    }
    for (size_t at = 0; (at = events.find("data: ", at)) != std::string::npos;) {
      const size_t end = events.find("\n\n", at);
      const std::string data = events.substr(at + 6, end - at - 6);
      at = end;
      if (data == "[DONE]") return out;
      auto event = parse_json(data);
      if (!event.ok()) return event.error();
      for (const auto& choice : event->value("choices", json::array())) out.text += choice.value("text", "");
      ++out.n_tokens;
    }
    return moe::data_loss("stream: expected [DONE] at its end, got none");
  }

 private:
  void hang_up() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  moe::Status more(milliseconds patience) {
    MOE_ASSIGN(const auto bytes, receive(patience));
    if (!bytes)
      return moe::Error{MOE_DEADLINE_EXCEEDED,
                        fmt::format("response: expected more within {} ms, got nothing", patience.count())};
    in_ += *bytes;
    return {};
  }
  // What comes before `mark`, which goes.
  moe::Result<std::string> until(const std::string& mark, milliseconds patience) {
    while (in_.find(mark) == std::string::npos) MOE_TRY(more(patience));
    const size_t at = in_.find(mark);
    std::string out = in_.substr(0, at);
    in_.erase(0, at + mark.size());
    return out;
  }
  moe::Result<std::string> exactly(size_t n, milliseconds patience) {
    while (in_.size() < n) MOE_TRY(more(patience));
    std::string out = in_.substr(0, n);
    in_.erase(0, n);
    return out;
  }

  int fd_;
  std::string in_;
};

}  // namespace

moe::Result<std::unique_ptr<TransportClient>> connect_http(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint16_t port = 0;
  std::from_chars(address.data() + colon + 1, address.data() + address.size(), port);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) {
    const std::string why = std::strerror(errno);
    if (fd >= 0) ::close(fd);
    return moe::Error{MOE_UNAVAILABLE, address + ": could not connect: " + why};
  }
  return std::unique_ptr<TransportClient>(std::make_unique<HttpClient>(fd));
}

}  // namespace patchbay::conformance
