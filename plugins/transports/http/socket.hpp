// A connection's bytes, plain or TLS. [I/O thread]
#pragma once

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <string>

#include "moe/sdk/result.hpp"

namespace httpd {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;

class Socket {
 public:
  using Done = std::function<void(ErrorCode, size_t)>;
  virtual ~Socket() = default;

  // Done with handlers as in Asio; what runs when the socket is closed ends with an error.
  virtual void handshake(std::function<void(ErrorCode)> done) = 0;
  virtual void read_some(asio::mutable_buffer to, Done done) = 0;
  virtual void write_some(asio::const_buffer from, Done done) = 0;
  // Nothing more will be written. The client may still send.
  virtual void finish_writing() = 0;
  virtual void close() = 0;
};

// Makes sockets of accepted connections.
class SocketFactory {
 public:
  virtual ~SocketFactory() = default;
  virtual std::unique_ptr<Socket> make(asio::ip::tcp::socket&& accepted) = 0;

  static std::unique_ptr<SocketFactory> plain();
  // TLS 1.2 or later with a certificate chain and its key, PEM files. MOE_INVALID_ARGUMENT names the file and what is
  // wrong with it.
  static moe::Result<std::unique_ptr<SocketFactory>> tls(const std::string& certificate, const std::string& key);
};

}  // namespace httpd
