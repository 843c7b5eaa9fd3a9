// TLS, as the plugin is loaded, with OpenSSL's own client.
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <memory>

#include "http_fixture.hpp"

namespace patchbay {
namespace {

using testing::HttpClient;
using testing::HttpTest;

constexpr const char* kCertificate = PATCHBAY_SOURCE_DIR "/tests/data/tls/certificate.pem";
constexpr const char* kKey = PATCHBAY_SOURCE_DIR "/tests/data/tls/key.pem";

// One request over TLS, with the server's certificate checked; empty: the handshake failed.
std::string over_tls(const std::string& address, const std::string& request, int newest_version) {
  const std::string at = address.substr(std::string("https://").size());
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  SSL_CTX_set_max_proto_version(context.get(), newest_version);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  EXPECT_EQ(SSL_CTX_load_verify_locations(context.get(), kCertificate, nullptr), 1);
  const std::unique_ptr<BIO, decltype(&BIO_free_all)> bio(BIO_new_ssl_connect(context.get()), BIO_free_all);
  BIO_set_conn_hostname(bio.get(), at.c_str());
  if (BIO_do_connect(bio.get()) != 1 || BIO_do_handshake(bio.get()) != 1) {
    ERR_clear_error();
    return "";
  }
  BIO_write(bio.get(), request.data(), static_cast<int>(request.size()));
  std::string response;
  char buffer[4096];
  for (int n = 0; (n = BIO_read(bio.get(), buffer, sizeof buffer)) > 0;)
    response.append(buffer, static_cast<size_t>(n));
  ERR_clear_error();  // the server closes without a close_notify: its length has told the end
  return response;
}

TEST_F(HttpTest, tls_serves_streams_and_refuses_what_is_older_than_1_2) {
  serve({{"tls_certificate", kCertificate}, {"tls_key", kKey}});
  EXPECT_EQ(address.rfind("https://127.0.0.1:", 0), 0U) << address;
  const std::string request = HttpClient::request("POST", "/v1/completions",
                                                  prompt("secret", {{"stream", true}}).dump(), "Connection: close\r\n");
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const std::string response = over_tls(address, request, version);
    EXPECT_EQ(response.rfind("HTTP/1.1 200 OK\r\n", 0), 0U) << response;
    EXPECT_NE(response.find("data: [DONE]"), std::string::npos);
  }
  EXPECT_EQ(over_tls(address, request, TLS1_1_VERSION), "");
}

TEST_F(HttpTest, without_tls_a_tls_port_answers_nothing_and_goes_on) {
  serve({{"tls_certificate", kCertificate}, {"tls_key", kKey}, {"header_ms", "200"}});
  HttpClient plain(address);
  plain.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(plain.receive().status, 0);
  EXPECT_TRUE(plain.is_closed());
  HttpClient silent(address);
  EXPECT_TRUE(silent.is_closed()) << "a handshake has its time too";
  EXPECT_NE(over_tls(address, HttpClient::request("GET", "/health", "", "Connection: close\r\n"), TLS1_3_VERSION), "");
}

TEST_F(HttpTest, wrong_certificates_and_keys_are_named) {
  EXPECT_NE(create({{"tls_certificate", kCertificate}}).find("expected both"), std::string::npos);
  const auto start = [&](const char* certificate, const char* key) {
    EXPECT_EQ(create({{"bind", "127.0.0.1:0"}, {"tls_certificate", certificate}, {"tls_key", key}}), "");
    service = std::make_unique<Service>(engine, *model, metrics, info);
    char text[512] = "";
    moe_message message{text, sizeof text, 0};
    EXPECT_EQ(table->start(transport, service->abi(), &message), MOE_INVALID_ARGUMENT);
    table->destroy(std::exchange(transport, nullptr));
    return std::string(text);
  };
  EXPECT_NE(start("/nowhere.pem", kKey).find("tls_certificate: expected a PEM file, got /nowhere.pem"),
            std::string::npos);
  EXPECT_NE(start(kCertificate, kCertificate).find("tls_key: "), std::string::npos);
}

}  // namespace
}  // namespace patchbay
