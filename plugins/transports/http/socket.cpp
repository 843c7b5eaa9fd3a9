#include "socket.hpp"

#include <boost/asio/ssl.hpp>

namespace httpd {

namespace {

using Tcp = asio::ip::tcp;

void shut(Tcp::socket& socket, Tcp::socket::shutdown_type what) {
  ErrorCode ignored;  // it may be gone already
  socket.shutdown(what, ignored);
}

class PlainSocket final : public Socket {
 public:
  explicit PlainSocket(Tcp::socket&& accepted) : socket_(std::move(accepted)) {}
  void handshake(std::function<void(ErrorCode)> done) override { done({}); }
  void read_some(asio::mutable_buffer to, Done done) override { socket_.async_read_some(to, std::move(done)); }
  void write_some(asio::const_buffer from, Done done) override { socket_.async_write_some(from, std::move(done)); }
  void finish_writing() override { shut(socket_, Tcp::socket::shutdown_send); }
  void close() override {
    ErrorCode ignored;
    socket_.close(ignored);
  }

 private:
  Tcp::socket socket_;
};

class TlsSocket final : public Socket {
 public:
  TlsSocket(Tcp::socket&& accepted, asio::ssl::context& context) : stream_(std::move(accepted), context) {}
  void handshake(std::function<void(ErrorCode)> done) override {
    stream_.async_handshake(asio::ssl::stream_base::server, std::move(done));
  }
  void read_some(asio::mutable_buffer to, Done done) override { stream_.async_read_some(to, std::move(done)); }
  void write_some(asio::const_buffer from, Done done) override { stream_.async_write_some(from, std::move(done)); }
  // Every response says its own length, so that a missing close_notify hides nothing; waiting for the client's would
  // only keep the handle.
  void finish_writing() override { shut(stream_.next_layer(), Tcp::socket::shutdown_send); }
  void close() override {
    ErrorCode ignored;
    stream_.next_layer().close(ignored);
  }

 private:
  asio::ssl::stream<Tcp::socket> stream_;
};

class PlainFactory final : public SocketFactory {
 public:
  std::unique_ptr<Socket> make(Tcp::socket&& accepted) override {
    return std::make_unique<PlainSocket>(std::move(accepted));
  }
};

class TlsFactory final : public SocketFactory {
 public:
  TlsFactory() : context_(asio::ssl::context::tls_server) {
    context_.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 |
                         asio::ssl::context::no_tlsv1_1 | SSL_OP_NO_RENEGOTIATION);
  }
  moe::Status load(const std::string& certificate, const std::string& key) {
    ErrorCode error;
    context_.use_certificate_chain_file(certificate, error);
    if (error) return moe::invalid("tls_certificate: expected a PEM file, got " + certificate + ": " + error.message());
    context_.use_private_key_file(key, asio::ssl::context::pem, error);
    if (error) return moe::invalid("tls_key: expected the certificate's PEM key, got " + key + ": " + error.message());
    return {};
  }
  std::unique_ptr<Socket> make(Tcp::socket&& accepted) override {
    return std::make_unique<TlsSocket>(std::move(accepted), context_);
  }

 private:
  asio::ssl::context context_;
};

}  // namespace

std::unique_ptr<SocketFactory> SocketFactory::plain() { return std::make_unique<PlainFactory>(); }

moe::Result<std::unique_ptr<SocketFactory>> SocketFactory::tls(const std::string& certificate, const std::string& key) {
  auto factory = std::make_unique<TlsFactory>();
  MOE_TRY(factory->load(certificate, key));
  return std::unique_ptr<SocketFactory>(std::move(factory));
}

}  // namespace httpd
