#include "server.hpp"

#include <boost/asio/post.hpp>
#include <ctime>
#include <vector>

#include "errors.hpp"
#include "moe/sdk/transport_support.hpp"

namespace httpd {

namespace {

constexpr std::chrono::milliseconds kTick{200};
constexpr int kBacklog = 1024;

moe::Result<std::unique_ptr<SocketFactory>> factory_of(const ServerOptions& options) {
  if (options.tls_certificate.empty()) return SocketFactory::plain();
  return SocketFactory::tls(options.tls_certificate, options.tls_key);
}

}  // namespace

Server::Server(const ServerOptions& options, const moe_service& service) : options_(options), service_(service) {}

Server::~Server() {
  // Handlers that never ran hold sessions, and sessions know this.
  finish_all();
  io_.stop();
}

moe::Status Server::open() {
  MOE_ASSIGN(sockets_, factory_of(options_));
  MOE_TRY(query_.open(service_));
  patchbay::v1::ClientMessage question;
  question.mutable_info();
  MOE_ASSIGN(const auto answer, query_.ask(question));
  info_ = answer.info();
  if (!options_.model_name.empty()) info_.set_model(options_.model_name);
  started_s_ = std::time(nullptr);

  ErrorCode error;
  const std::string host = options_.host == "localhost" ? "127.0.0.1" : options_.host;
  const Tcp::endpoint endpoint(asio::ip::make_address(host, error), options_.port);
  if (!error) acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(Tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(kBacklog, error);
  if (error) {
    return moe::Error{MOE_UNAVAILABLE, options_.host + ":" + std::to_string(options_.port) +
                                           ": expected to bind, got \"" + error.message() + "\""};
  }
  const std::string shown = endpoint.address().is_v6() ? "[" + host + "]" : options_.host;
  address_ = (options_.tls_certificate.empty() ? "http://" : "https://") + shown + ":" +
             std::to_string(acceptor_.local_endpoint().port());
  accept();
  tick();
  return {};
}

void Server::run() noexcept {
  while (true) {
    try {
      io_.run();
      return;
    } catch (const std::exception& e) {  // out of memory: the next handler may have it again
      moe::log(MOE_LOG_ERROR, "http", std::string("I/O: ") + e.what());
    }
  }
}

moe::Status Server::reconfigure(const ServerOptions& options) {
  MOE_ASSIGN(std::unique_ptr<SocketFactory> factory, factory_of(options));
  if (options.tls_certificate.empty() == address_.starts_with("https")) {
    return moe::precondition("tls_certificate: expected TLS on or off as before, got a change: this needs a restart");
  }
  asio::post(io_, [this, options, sockets = std::shared_ptr<SocketFactory>(std::move(factory))] {
    options_ = options;
    sockets_ = sockets;
  });
  return {};
}

void Server::drain() {
  asio::post(io_, [this] { closing_ = true; });
}

void Server::stop(std::chrono::milliseconds grace) {
  asio::post(io_, [this, grace] {
    stopping_ = closing_ = true;
    stop_deadline_ = Clock::now() + grace;
    ErrorCode ignored;
    acceptor_.close(ignored);
    timer_.cancel();  // looks at once
  });
}

void Server::accept() {
  acceptor_.async_accept([this](ErrorCode error, Tcp::socket socket) { on_accepted(error, std::move(socket)); });
}

void Server::on_accepted(ErrorCode error, Tcp::socket socket) {
  if (stopping_ || !acceptor_.is_open()) return;
  if (error) {  // most likely out of file handles
    moe::count("http_accept_failures_total");
    if (make_room()) return accept();
    accept_later_ = true;  // at once it would fail again, and again
    return;
  }
  if (sessions_.size() >= options_.max_connections && !make_room()) {
    moe::count("http_connections_refused_total");  // all are being answered; the socket closes
    return accept();
  }
  ErrorCode ignored;
  socket.set_option(Tcp::no_delay(true), ignored);
  socket.non_blocking(true, ignored);
  auto session = std::make_shared<Session>(static_cast<SessionHost&>(*this), sockets_->make(std::move(socket)));
  sessions_.emplace(session.get(), session);
  session->start();
  accept();
}

// Closes the connection that has waited longest without a whole request, if there is one.
bool Server::make_room() {
  std::shared_ptr<Session> oldest;
  for (const auto& [key, session] : sessions_) {
    if (session->is_waiting() && (oldest == nullptr || session->since() < oldest->since())) oldest = session;
  }
  if (oldest == nullptr) return false;
  moe::count("http_connections_evicted_total");
  oldest->close();
  return true;
}

void Server::tick() {
  const auto now = Clock::now();
  std::vector<std::shared_ptr<Session>> all;
  for (const auto& [key, session] : sessions_) all.push_back(session);
  for (const auto& session : all) {
    session->check(now);
    if (stopping_) session->finish();
  }
  if (stopping_ && (sessions_.empty() || now >= stop_deadline_)) {
    finish_all();
    io_.stop();
    return;
  }
  if (std::exchange(accept_later_, false)) accept();
  timer_.expires_after(kTick);
  timer_.async_wait([this](ErrorCode) { tick(); });
}

void Server::finish_all() {
  while (!sessions_.empty()) {
    const std::shared_ptr<Session> session = sessions_.begin()->second;
    session->close();
  }
}

bool Server::reserve_body(size_t n_bytes) {
  if (n_body_bytes_ + n_bytes > options_.max_body_bytes_in_all) return false;
  n_body_bytes_ += n_bytes;
  return true;
}

}  // namespace httpd
