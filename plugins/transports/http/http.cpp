// The transport: options and life cycle. The work is in server.cpp.
#include <charconv>
#include <thread>

#include "moe/sdk/transport.hpp"
#include "moe/sdk/transport_support.hpp"
#include "server.hpp"

namespace httpd {

namespace {

struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;
};

moe::Result<HostPort> read_address(std::string_view bind) {
  const moe::Error wrong =
      moe::invalid("bind: expected HOST:PORT with a numeric host or localhost, got \"" + std::string(bind) + "\"");
  const size_t colon = bind.rfind(':');
  if (colon == std::string_view::npos) return wrong;
  std::string_view host = bind.substr(0, colon);
  const std::string_view port = bind.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  ErrorCode error;
  asio::ip::make_address(std::string(host), error);
  if (error && host != "localhost") return wrong;
  HostPort address{std::string(host), 0};
  const auto [end, bad] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (bad != std::errc() || end != port.data() + port.size()) return wrong;
  return address;
}

}  // namespace

class HttpTransport final : public moe::Transport {
 public:
  static constexpr const char* kName = "http";
  static constexpr const char* kDoc =
      "OpenAI's HTTP API, health, metrics and a page to look at; TLS and keys by option.";
  static constexpr moe_option kOptions[] = {
      moe::string_option("bind", "127.0.0.1:8080",
                         "Where to listen: HOST:PORT, a numeric host; port 0 takes a free one."),
      moe::bool_option("allow_remote", "false",
                       "Listen where other machines can reach it without asking them for a key."),
      moe::string_option("api_key_file", "", "A file with a key a line; requests need one of them. Empty: none.",
                         MOE_OPTION_RUNTIME),
      moe::string_option("tls_certificate", "", "PEM file with the certificate and its chain; empty: no TLS.",
                         MOE_OPTION_RUNTIME),
      moe::string_option("tls_key", "", "PEM file with the certificate's key.", MOE_OPTION_RUNTIME),
      moe::string_option("model_name", "", "What clients call the model; empty: its folder's name."),
      moe::int_option("max_connections", "1024", 1, 100000,
                      "Connections at one time; beyond, the one that has been idle longest is closed.",
                      MOE_OPTION_RUNTIME),
      moe::int_option("max_header_bytes", "16384", 512, 1 << 20, "The largest header of a request.", MOE_OPTION_RUNTIME,
                      "bytes"),
      moe::int_option("max_body_bytes", "4194304", 1024, 1 << 30, "The largest body of a request.", MOE_OPTION_RUNTIME,
                      "bytes"),
      moe::int_option("max_bodies_bytes", "67108864", 1024, int64_t{1} << 40,
                      "What the bodies that are being read may hold together.", MOE_OPTION_RUNTIME, "bytes"),
      moe::int_option("header_ms", "10000", 10, 3600000, "How long a request's header may take.", MOE_OPTION_RUNTIME,
                      "ms"),
      moe::int_option("body_ms", "30000", 10, 3600000, "How long a request's body may take.", MOE_OPTION_RUNTIME, "ms"),
      moe::int_option("idle_ms", "75000", 10, 86400000, "How long a connection may wait between requests.",
                      MOE_OPTION_RUNTIME, "ms"),
      moe::int_option("stalled_ms", "30000", 10, 86400000,
                      "A client that takes nothing for so long while a response waits is cut off.", MOE_OPTION_RUNTIME,
                      "ms"),
      moe::int_option("send_queue", "64", 1, 65536, "Events kept for a client that does not read.", MOE_OPTION_RUNTIME),
      moe::int_option("send_queue_bytes", "4194304", 1024, 1 << 30, "The same in bytes.", MOE_OPTION_RUNTIME, "bytes"),
  };

  ~HttpTransport() override { stop(std::chrono::milliseconds(0)); }

  static constexpr bool kReconfigures = true;

  moe::Status configure(const moe::Options& options) override {
    MOE_ASSIGN(options_, read(options));
    return {};
  }

  moe::Status reconfigure(const moe::Options& options) override {
    MOE_ASSIGN(const ServerOptions wanted, read(options));
    MOE_TRY(server_->reconfigure(wanted));
    options_ = wanted;
    return {};
  }

  moe::Status start(const moe_service& service) override {
    auto server = std::make_unique<Server>(options_, service);
    MOE_TRY(server->open());
    server_ = std::move(server);
    address_ = server_->address();
    thread_ = moe::thread_without_signals([this] { server_->run(); });
    return {};
  }

  void drain() override {
    if (server_ != nullptr) server_->drain();
  }

  void stop(std::chrono::milliseconds grace) override {
    if (!thread_.joinable()) return;
    server_->stop(grace);
    thread_.join();
    server_.reset();
  }

  [[nodiscard]] const char* address() const override { return address_.c_str(); }

 private:
  static moe::Result<ServerOptions> read(const moe::Options& options) {
    ServerOptions out;
    const auto size = [&](const char* key) { return static_cast<size_t>(options.integer(key)); };
    const auto time = [&](const char* key) { return std::chrono::milliseconds(options.integer(key)); };
    MOE_ASSIGN(const HostPort address, read_address(options.text("bind")));
    out.host = address.host;
    out.port = address.port;
    out.max_connections = size("max_connections");
    out.max_body_bytes_in_all = size("max_bodies_bytes");
    out.session = {size("max_header_bytes"), size("max_body_bytes"), time("header_ms"),
                   time("body_ms"),          time("idle_ms"),        time("stalled_ms")};
    out.queue = {size("send_queue"), size("send_queue_bytes")};
    out.model_name = options.text("model_name");
    MOE_TRY(read_security(options, out));
    return out;
  }

  static moe::Status read_security(const moe::Options& options, ServerOptions& out) {
    out.tls_certificate = options.text("tls_certificate");
    out.tls_key = options.text("tls_key");
    if (out.tls_certificate.empty() != out.tls_key.empty()) {
      return moe::invalid("tls_key: expected both tls_certificate and tls_key, got one of them");
    }
    const std::string key_file(options.text("api_key_file"));
    if (!key_file.empty()) {
      MOE_ASSIGN(out.keys, Keys::read(key_file));
    }
    if (!moe::is_loopback(out.host) && !out.keys.are_asked() && !options.flag("allow_remote")) {
      return moe::Error{MOE_PERMISSION_DENIED,
                        "bind: expected a loopback address (127.0.0.1, [::1]), got \"" + out.host +
                            "\", which others can reach; api_key_file asks them for a key, allow_remote = true lets "
                            "them in"};
    }
    return {};
  }

  ServerOptions options_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
  std::string address_;
};

}  // namespace httpd

MOE_PLUGIN("transport_http", "0.1.0", "Apache-2.0", "The Patchbay authors", httpd::HttpTransport)
