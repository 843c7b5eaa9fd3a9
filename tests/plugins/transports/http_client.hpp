// A raw HTTP client: bytes out, responses in, with patience.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace patchbay::testing {

class HttpClient {
 public:
  struct Response {
    int status = 0;                              // 0: none came
    std::map<std::string, std::string> headers;  // names in small letters
    std::string body;
    [[nodiscard]] nlohmann::json json() const { return nlohmann::json::parse(body, nullptr, false); }
    [[nodiscard]] std::string error() const { return json()["error"].value("message", ""); }
    // The data of a stream's events.
    [[nodiscard]] std::vector<std::string> events() const {
      std::vector<std::string> all;
      for (size_t at = 0; (at = body.find("data: ", at)) != std::string::npos;) {
        const size_t end = body.find("\n\n", at);
        all.push_back(body.substr(at + 6, end - at - 6));
        at = end;
      }
      return all;
    }
  };

  // `address`: "http://127.0.0.1:PORT". `receive_bytes`: the kernel's buffer, for readers that stall.
  explicit HttpClient(const std::string& address, int receive_bytes = 0) {
    const size_t colon = address.rfind(':');
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_bytes > 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
  }
  ~HttpClient() { close(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  // False: the server has closed.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  static std::string request(const std::string& method, const std::string& path, const std::string& body = "",
                             const std::string& headers = "") {
    std::string text = method + " " + path + " HTTP/1.1\r\nHost: test\r\n" + headers;
    if (!body.empty())
      text += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
    return text + "\r\n" + body;
  }
  Response get(const std::string& path, const std::string& headers = "") {
    send(request("GET", path, "", headers));
    return receive();
  }
  Response post(const std::string& path, const nlohmann::json& body, const std::string& headers = "") {
    send(request("POST", path, body.dump(), headers));
    return receive();
  }
  Response complete(const nlohmann::json& body) { return post("/v1/completions", body); }
  Response chat(const nlohmann::json& body) { return post("/v1/chat/completions", body); }

  Response receive() {
    Response r;
    if (!read_until("\r\n\r\n")) return r;
    parse_head(r);
    if (r.headers.contains("transfer-encoding")) {
      read_chunks(r.body);
    } else if (r.headers.contains("content-length")) {
      r.body = take(std::stoul(r.headers["content-length"]));
    } else if (r.status != 100) {
      while (read_more()) {
      }
      r.body = std::exchange(in_, {});
    }
    return r;
  }
  // Whether the server closes within the patience.
  bool is_closed() {
    while (read_more()) {
    }
    return closed_;
  }
  // Reads until this text has come; it stays to be received.
  bool read_until(const std::string& text) {
    while (in_.find(text) == std::string::npos) {
      if (!read_more()) return false;
    }
    return true;
  }
  std::chrono::milliseconds patience{10000};

 private:
  bool read_more() {
    pollfd p{fd_, POLLIN, 0};
    if (::poll(&p, 1, static_cast<int>(patience.count())) <= 0) return false;
    char buffer[65536];
    const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    closed_ = closed_ || n <= 0;
    if (n > 0) in_.append(buffer, static_cast<size_t>(n));
    return n > 0;
  }
  std::string take(size_t n) {
    while (in_.size() < n && read_more()) {
    }
    const std::string out = in_.substr(0, n);
    in_.erase(0, n);
    return out;
  }
  std::string take_line() {
    if (!read_until("\r\n")) return {};
    const size_t end = in_.find("\r\n");
    const std::string line = in_.substr(0, end);
    in_.erase(0, end + 2);
    return line;
  }
  void parse_head(Response& r) {
    r.status = std::stoi(take_line().substr(9));
    for (std::string line = take_line(); !line.empty(); line = take_line()) {
      const size_t colon = line.find(':');
      std::string name = line.substr(0, colon);
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      r.headers[name] = line.substr(colon + 2);
    }
  }
  void read_chunks(std::string& body) {
    while (true) {
      const std::string size = take_line();
      if (size.empty()) {
        ADD_FAILURE() << "a chunked body ended without its last chunk";
        return;
      }
      const size_t n = std::stoul(size, nullptr, 16);
      body += take(n);
      take_line();
      if (n == 0) return;
    }
  }

  int fd_ = -1;
  std::string in_;
  bool closed_ = false;
};

}  // namespace patchbay::testing
