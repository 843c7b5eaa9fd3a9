// The I/O thread: accepts connections, keeps them within bounds, and answers what they ask.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>
#include <unordered_map>

#include "completion.hpp"
#include "keys.hpp"
#include "query.hpp"
#include "session.hpp"

namespace httpd {

struct ServerOptions {
  std::string host;  // a number, or localhost
  uint16_t port = 0;
  size_t max_connections = 1024;
  size_t max_body_bytes_in_all = 0;
  SessionLimits session;
  moe::OutboxBounds queue;
  std::string tls_certificate;  // empty: no TLS
  std::string tls_key;
  std::string model_name;  // empty: what the service says
  Keys keys;
};

class Server final : private SessionHost {
 public:
  Server(const ServerOptions& options, const moe_service& service);
  ~Server() override;

  // Binds. [main thread]
  moe::Status open();
  // Where it listens: "http://127.0.0.1:8080".
  [[nodiscard]] const std::string& address() const { return address_; }

  // Serves until stop() was called and what runs is answered or the grace is over. [I/O thread]
  void run() noexcept;
  // Takes the limits, keys and certificate of `options`; certificate and key are read. [any thread, after open]
  moe::Status reconfigure(const ServerOptions& options);
  // Connections are closed after their response. [any thread]
  void drain();
  // [any thread, once]
  void stop(std::chrono::milliseconds grace);

 private:
  using Tcp = asio::ip::tcp;

  // SessionHost
  [[nodiscard]] const SessionLimits& limits() const override { return options_.session; }
  std::optional<Response> refuse(const Request& header) override;
  std::unique_ptr<Exchange> handle(const Request& request, Session& session) override;
  bool reserve_body(size_t n_bytes) override;
  void release_body(size_t n_bytes) override { n_body_bytes_ -= n_bytes; }
  [[nodiscard]] bool is_closing() const override { return closing_; }
  void on_closed(Session& session) override { sessions_.erase(&session); }

  void accept();
  void on_accepted(ErrorCode error, Tcp::socket socket);
  bool make_room();
  void tick();
  void finish_all();

  Response list_models() const;
  Response model(std::string_view name) const;
  Response health();
  Response metrics();
  Response telemetry();
  moe::Result<std::unique_ptr<Exchange>> complete(const Request& request, bool chat, Session& session);

  ServerOptions options_;
  const moe_service& service_;
  asio::io_context io_{1};
  Tcp::acceptor acceptor_{io_};
  asio::steady_timer timer_{io_};
  std::shared_ptr<SocketFactory> sockets_;
  Query query_;
  patchbay::v1::Info info_;
  int64_t started_s_ = 0;  // since the epoch
  std::string address_;
  std::unordered_map<Session*, std::shared_ptr<Session>> sessions_;
  size_t n_body_bytes_ = 0;
  bool closing_ = false;
  bool accept_later_ = false;  // with the next tick
  bool stopping_ = false;
  Clock::time_point stop_deadline_ = Clock::time_point::max();
};

}  // namespace httpd
