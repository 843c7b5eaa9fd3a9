// One HTTP connection: reads requests within limits, writes their responses one after the other. [I/O thread]
#pragma once

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "socket.hpp"

namespace httpd {

using Clock = std::chrono::steady_clock;
using Request = boost::beast::http::request<boost::beast::http::string_body>;

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // further ones
};

struct SessionLimits {
  size_t header_bytes = 0;
  size_t body_bytes = 0;
  std::chrono::milliseconds header{0};   // from a connection's or a request's first byte to the end of its header
  std::chrono::milliseconds body{0};     // from there to the end of the body
  std::chrono::milliseconds idle{0};     // between requests
  std::chrono::milliseconds stalled{0};  // a reader that takes nothing
};

// A response that takes time, while it is made. Destroyed when it is complete or the client has gone.
class Exchange {
 public:
  virtual ~Exchange() = default;
  // What was written has gone out: more may be written.
  virtual void on_room() = 0;
  // Called about once a second.
  virtual void on_tick(Clock::time_point now) = 0;
};

class Session;

// What the connections of one server share.
class SessionHost {
 public:
  virtual ~SessionHost() = default;
  [[nodiscard]] virtual const SessionLimits& limits() const = 0;
  // Whether requests of this header will be answered at all, before the body is read: the refusal, or nothing.
  virtual std::optional<Response> refuse(const Request& header) = 0;
  // A whole request. Responds at once and returns null, or returns who will.
  virtual std::unique_ptr<Exchange> handle(const Request& request, Session& session) = 0;
  // Takes (or gives back) room for bodies that are being read. False: there is none.
  virtual bool reserve_body(size_t n_bytes) = 0;
  virtual void release_body(size_t n_bytes) = 0;
  // Whether connections are closed after their response.
  [[nodiscard]] virtual bool is_closing() const = 0;
  virtual void on_closed(Session& session) = 0;
};

class Session final : public std::enable_shared_from_this<Session> {
 public:
  Session(SessionHost& host, std::unique_ptr<Socket> socket);
  ~Session();

  void start();
  // Acts on what is overdue.
  void check(Clock::time_point now);
  // At once. What is being answered is abandoned.
  void close();
  // Nothing more is read; closes when what is being answered has been sent.
  void finish();
  // Whether it only waits for a request, or for the beginning of one; and since when.
  [[nodiscard]] bool is_waiting() const { return state_ < State::kBody; }
  [[nodiscard]] Clock::time_point since() const { return since_; }
  [[nodiscard]] bool is_closed() const { return state_ == State::kClosed; }

  // A response at once, or in parts: begin, write..., end.
  void respond(const Response& response);
  void begin(const Response& head);  // without its body
  void write(std::string_view part);
  void end();
  // Whether to write more now, or to wait for Exchange::on_room.
  [[nodiscard]] bool has_room() const { return !writing_; }

 private:
  enum class State { kHandshake, kIdle, kHeader, kBody, kResponding, kLingering, kClosed };
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  void enter(State state, std::optional<std::chrono::milliseconds> limit);
  void begin_request(std::chrono::milliseconds limit);
  void read();
  void on_read(ErrorCode error, size_t n);
  void parse();
  bool check_header();
  void on_parse_error(ErrorCode error);
  void refuse(Response response);
  void refuse_without_memory();
  void put_head(const Response& head, const std::string& framing);
  void flush();
  void on_written(ErrorCode error, size_t n);
  void on_flushed();
  void linger();

  SessionHost& host_;
  std::unique_ptr<Socket> socket_;
  State state_ = State::kHandshake;
  Clock::time_point since_;  // of the state
  std::optional<Clock::time_point> deadline_;

  bool reading_ = false;
  std::vector<char> chunk_;
  std::string in_;  // read, not parsed
  std::optional<Parser> parser_;
  size_t n_reserved_ = 0;
  bool header_checked_ = false;

  std::unique_ptr<Exchange> exchange_;
  bool head_only_ = false;  // HEAD
  bool old_ = false;        // HTTP/1.0: no chunks
  bool keep_alive_ = false;
  bool chunked_ = false;
  bool complete_ = false;  // the response is all in out_

  std::string out_;       // to be written next
  std::string sending_;   // being written
  size_t n_sent_ = 0;     // of sending_
  bool writing_ = false;  // a write runs
  Clock::time_point last_sent_;
};

}  // namespace httpd
