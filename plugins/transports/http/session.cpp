#include "session.hpp"

#include <boost/beast/core/string.hpp>
#include <ctime>

#include "errors.hpp"

namespace httpd {

namespace http = boost::beast::http;

namespace {

constexpr size_t kChunkBytes = 16 * 1024;
constexpr size_t kMostPipelined = 64 * 1024;  // read ahead while a response is made: it is how a client's end is seen
constexpr std::chrono::milliseconds kLinger{1000};

std::string date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  return {text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc)};
}

std::string chunk(std::string_view part) {
  char size[20];
  const int n = std::snprintf(size, sizeof size, "%zx\r\n", part.size());
  std::string out(size, static_cast<size_t>(n));
  out += part;
  return out += "\r\n";
}

Response error_response(int status, const std::string& message) {
  return {status, "application/json", error_body(status, message), {}};
}

}  // namespace

Session::Session(SessionHost& host, std::unique_ptr<Socket> socket)
    : host_(host), socket_(std::move(socket)), since_(Clock::now()), chunk_(kChunkBytes) {}

Session::~Session() { host_.release_body(n_reserved_); }

void Session::enter(State state, std::optional<std::chrono::milliseconds> limit) {
  state_ = state;
  since_ = Clock::now();
  deadline_ = limit ? std::optional(since_ + *limit) : std::nullopt;
}

void Session::start() {
  enter(State::kHandshake, host_.limits().header);
  socket_->handshake([self = shared_from_this()](ErrorCode error) {
    if (self->is_closed()) return;
    if (error) return self->close();
    self->begin_request(self->host_.limits().header);
    self->read();
  });
}

void Session::begin_request(std::chrono::milliseconds limit) {
  enter(State::kIdle, limit);
  exchange_.reset();
  complete_ = false;
  header_checked_ = false;
  host_.release_body(std::exchange(n_reserved_, 0));
  parser_.emplace();
  parser_->eager(true);
  parser_->header_limit(static_cast<uint32_t>(host_.limits().header_bytes));
  parser_->body_limit(host_.limits().body_bytes);
}

void Session::read() {
  if (reading_ || is_closed() || (state_ == State::kResponding && in_.size() >= kMostPipelined)) return;
  reading_ = true;
  socket_->read_some(asio::buffer(chunk_),
                     [self = shared_from_this()](ErrorCode error, size_t n) { self->on_read(error, n); });
}

void Session::on_read(ErrorCode error, size_t n) {
  reading_ = false;
  if (is_closed()) return;
  if (error) return close();
  if (state_ != State::kLingering) {
    try {
      in_.append(chunk_.data(), n);
      if (state_ != State::kResponding) parse();
    } catch (const std::bad_alloc&) {
      if (state_ == State::kResponding) return close();
      refuse_without_memory();
    }
  }
  read();
}

void Session::parse() {
  if (in_.empty()) return;
  if (state_ == State::kIdle) enter(State::kHeader, host_.limits().header);
  ErrorCode error;
  in_.erase(0, parser_->put(asio::buffer(in_), error));
  if (parser_->is_header_done() && !check_header()) return;
  if (error && error != http::error::need_more) return on_parse_error(error);
  // What arrived with a request stays in the parser until the whole is there.
  const size_t n_body = parser_->is_header_done() ? parser_->get().body().size() : 0;
  if (n_body > n_reserved_) {
    if (!host_.reserve_body(n_body - n_reserved_)) {
      return refuse(error_response(503, "body: expected room for it, got none: too many are being read"));
    }
    n_reserved_ = n_body;
  }
  if (!parser_->is_done()) return;
  const Request request = parser_->release();
  enter(State::kResponding, std::nullopt);
  exchange_ = host_.handle(request, *this);
}

// Once a request: false if it was refused.
bool Session::check_header() {
  if (std::exchange(header_checked_, true)) return true;
  const Request& header = parser_->get();
  head_only_ = header.method() == http::verb::head;
  old_ = header.version() < 11;
  keep_alive_ = header.keep_alive();
  if (auto refusal = host_.refuse(header)) {
    refuse(std::move(*refusal));
    return false;
  }
  if (parser_->is_done()) return true;
  enter(State::kBody, host_.limits().body);
  if (!old_ && boost::beast::iequals(header[http::field::expect], "100-continue")) {
    out_ += "HTTP/1.1 100 Continue\r\n\r\n";
    flush();
  }
  return true;
}

void Session::on_parse_error(ErrorCode error) {
  if (error == http::error::header_limit) {
    return refuse(error_response(
        431, "header: expected at most " + std::to_string(host_.limits().header_bytes) + " bytes, got more"));
  }
  if (error == http::error::body_limit) {
    return refuse(error_response(
        413, "body: expected at most " + std::to_string(host_.limits().body_bytes) + " bytes, got more"));
  }
  refuse(error_response(400, "request: expected HTTP/1.1, got something else (" + error.message() + ")"));
}

// What has come of the request is let go first: the answer needs room too.
void Session::refuse_without_memory() {
  in_ = std::string();
  parser_.emplace();
  host_.release_body(std::exchange(n_reserved_, 0));
  refuse(error_response(503, "server: expected memory for the request, got none"));
}

// Without having read all of the request, so the connection cannot go on.
void Session::refuse(Response response) {
  keep_alive_ = false;
  enter(State::kResponding, std::nullopt);
  respond(response);
}

void Session::put_head(const Response& head, const std::string& framing) {
  keep_alive_ = keep_alive_ && !host_.is_closing();
  out_ += "HTTP/1.1 " + std::to_string(head.status) + " ";
  out_ += std::string(http::obsolete_reason(static_cast<http::status>(head.status)));
  out_ += "\r\nDate: " + date() + "\r\nContent-Type: " + head.content_type + "\r\n" + framing;
  out_ += keep_alive_ ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  for (const auto& [name, value] : head.headers) out_ += name + ": " + value + "\r\n";
  out_ += "\r\n";
}

void Session::respond(const Response& response) {
  put_head(response, "Content-Length: " + std::to_string(response.body.size()) + "\r\n");
  if (!head_only_) out_ += response.body;
  complete_ = true;
  flush();
}

void Session::begin(const Response& head) {
  chunked_ = !old_;
  if (old_) keep_alive_ = false;  // the end of the connection is the end of the body
  put_head(head, chunked_ ? "Transfer-Encoding: chunked\r\n" : "");
  flush();
}

void Session::write(std::string_view part) {
  if (part.empty() || head_only_) return;
  out_ += chunked_ ? chunk(part) : std::string(part);
  flush();
}

void Session::end() {
  if (chunked_ && !head_only_) out_ += "0\r\n\r\n";
  complete_ = true;
  flush();
}

void Session::flush() {
  if (writing_ || is_closed() || out_.empty()) return;
  sending_ = std::exchange(out_, {});
  n_sent_ = 0;
  writing_ = true;
  last_sent_ = Clock::now();
  socket_->write_some(asio::buffer(sending_),
                      [self = shared_from_this()](ErrorCode error, size_t n) { self->on_written(error, n); });
}

void Session::on_written(ErrorCode error, size_t n) {
  if (is_closed()) return;
  if (error) return close();
  last_sent_ = Clock::now();
  n_sent_ += n;
  if (n_sent_ < sending_.size()) {
    socket_->write_some(asio::buffer(sending_) + n_sent_,
                        [self = shared_from_this()](ErrorCode e, size_t more) { self->on_written(e, more); });
    return;
  }
  writing_ = false;
  sending_.clear();
  if (!out_.empty()) return flush();
  on_flushed();
}

void Session::on_flushed() {
  if (state_ != State::kResponding) return;  // a "100 Continue"
  if (!complete_) {
    if (exchange_ != nullptr) exchange_->on_room();
    return;
  }
  if (!keep_alive_ || host_.is_closing()) return linger();
  begin_request(host_.limits().idle);
  parse();
  read();
}

// A connection that is closed while its client still sends is reset, and the client may lose the response: what it
// sends is read for a moment.
void Session::linger() {
  exchange_.reset();
  socket_->finish_writing();
  enter(State::kLingering, kLinger);
  read();
}

void Session::check(Clock::time_point now) {
  if (is_closed()) return;
  if (writing_ && now - last_sent_ > host_.limits().stalled) return close();
  if (exchange_ != nullptr) exchange_->on_tick(now);
  if (is_closed() || !deadline_ || now < *deadline_) return;
  const bool begun = state_ == State::kHeader || state_ == State::kBody;
  if (!begun) return close();
  refuse(error_response(408, "request: expected all of it by now, got only a part"));
}

void Session::finish() {
  if (is_waiting() || state_ == State::kLingering) close();
}

void Session::close() {
  if (is_closed()) return;
  const auto self = shared_from_this();  // to the end of this call
  enter(State::kClosed, std::nullopt);
  exchange_.reset();
  socket_->close();
  host_.on_closed(*this);
}

}  // namespace httpd
