// The connection's side: limits, keys, TLS, clients that stall, vanish or send nonsense.
#include <fstream>

#include "http_fixture.hpp"

namespace patchbay {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HttpClient;
using testing::HttpTest;

TEST_F(HttpTest, a_connection_serves_many_requests_also_sent_ahead) {
  serve();
  EXPECT_EQ(address.rfind("http://127.0.0.1:", 0), 0U) << address;
  HttpClient client(address);
  std::string three;
  for (const char* text : {"one", "two", "three"}) {
    three += HttpClient::request("POST", "/v1/completions", prompt(text).dump());
  }
  client.send(three);
  for (const char* text : {"one", "two", "three"}) {
    EXPECT_EQ(client.receive().json()["choices"][0]["text"], text);
  }
}

TEST_F(HttpTest, a_request_may_come_byte_by_byte_and_in_chunks) {
  serve();
  HttpClient client(address);
  for (const char c : HttpClient::request("POST", "/v1/completions", prompt("slow").dump())) client.send({&c, 1});
  EXPECT_EQ(client.receive().json()["choices"][0]["text"], "slow");
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n8\r\n{\"prompt\r\n");
  client.send("8\r\n\": \"hi\"}\r\n0\r\n\r\n");
  EXPECT_EQ(client.receive().json()["choices"][0]["text"], "hi");
}

TEST_F(HttpTest, old_clients_get_a_stream_that_ends_with_the_connection) {
  serve();
  HttpClient client(address);
  const std::string body = prompt("old", {{"stream", true}}).dump();
  client.send("POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  const auto r = client.receive();
  EXPECT_FALSE(r.headers.contains("transfer-encoding"));
  EXPECT_EQ(r.events().back(), "[DONE]");
}

TEST_F(HttpTest, a_client_that_asks_first_is_told_to_go_on) {
  serve();
  HttpClient client(address);
  const std::string body = prompt("large").dump();
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
      "Content-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_EQ(client.receive().status, 100);
  client.send(body);
  EXPECT_EQ(client.receive().json()["choices"][0]["text"], "large");
}

TEST_F(HttpTest, wrong_paths_methods_and_types_are_refused_and_the_server_goes_on) {
  serve();
  EXPECT_EQ(HttpClient(address).get("/nowhere").status, 404);
  EXPECT_EQ(HttpClient(address).get("/v1/completions").status, 405);
  EXPECT_EQ(HttpClient(address).post("/health", json::object()).headers["allow"], "GET");
  HttpClient typed(address);
  typed.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(typed.receive().status, 415);
  for (const std::string& request :
       {std::string("\x16\x03\x01 a TLS hello"), std::string("GET\r\n\r\n"), std::string(200, '\0'),
        std::string("GET / HTTP/9.9\r\n\r\n"),
        std::string("POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n"),
        std::string(
            "POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        std::string("POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef")}) {
    HttpClient bad(address);
    bad.send(request);
    EXPECT_EQ(bad.receive().status, 400) << request;
    EXPECT_TRUE(bad.is_closed());
  }
  EXPECT_EQ(HttpClient(address).complete(prompt("unharmed")).status, 200);
}

TEST_F(HttpTest, headers_and_bodies_beyond_the_limits_are_refused) {
  serve({{"max_header_bytes", "2000"}, {"max_body_bytes", "5000"}, {"max_bodies_bytes", "8000"}});
  HttpClient header(address);
  header.send("GET /health HTTP/1.1\r\nX: " + std::string(5000, 'x') + "\r\n\r\n");
  EXPECT_EQ(header.receive().status, 431);
  HttpClient endless(address);  // its end never comes
  endless.send("GET /health HTTP/1.1\r\n");
  while (endless.send("X: y\r\n")) {
  }
  EXPECT_TRUE(endless.is_closed());
  HttpClient body(address);
  EXPECT_EQ(body.complete(prompt(std::string(6000, 'x'))).status, 413);
  HttpClient chunked(address);
  chunked.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 4; ++i) chunked.send("600\r\n" + std::string(0x600, ' ') + "\r\n");
  EXPECT_EQ(chunked.receive().status, 413);
  // Two bodies of 4500 bytes, both unfinished: the second finds no room.
  const std::string part =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 4600\r\n\r\n" +
      std::string(4500, ' ');
  HttpClient first(address);
  first.send(part);
  std::this_thread::sleep_for(milliseconds(50));
  HttpClient second(address);
  second.send(part);
  EXPECT_EQ(second.receive().status, 503);
  first.close();
  EXPECT_TRUE(eventually([&] { return HttpClient(address).complete(prompt(std::string(4000, 'x'))).status == 200; }));
}

TEST_F(HttpTest, slow_requests_and_idle_connections_end) {
  serve({{"header_ms", "200"}, {"body_ms", "300"}, {"idle_ms", "100"}});
  HttpClient silent(address);
  HttpClient header(address);
  header.send("GET /health HTT");
  HttpClient body(address);
  body.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{");
  HttpClient idle(address);
  EXPECT_EQ(idle.get("/health").status, 200);
  EXPECT_TRUE(silent.is_closed());
  EXPECT_EQ(header.receive().status, 408);
  EXPECT_TRUE(header.is_closed());
  EXPECT_EQ(body.receive().status, 408);
  EXPECT_TRUE(idle.is_closed());
}

TEST_F(HttpTest, a_client_that_vanishes_frees_its_slot_at_once) {
  engine.endless = true;
  step = milliseconds(1);
  serve();
  for (const bool stream : {true, false}) {
    HttpClient client(address);
    client.send(HttpClient::request("POST", "/v1/completions", prompt("endless", {{"stream", stream}}).dump()));
    ASSERT_TRUE(eventually([&] { return service->n_running() == 1; }));
    if (stream) {
      EXPECT_TRUE(client.read_until("data: "));
    }
    client.close();
    const auto began = std::chrono::steady_clock::now();
    ASSERT_TRUE(eventually([&] { return service->n_running() == 0; }));
    EXPECT_LT(std::chrono::steady_clock::now() - began, milliseconds(1000));
  }
  EXPECT_TRUE(eventually([&] { return n_connections() == 1; })) << "the plugin's own";
}

TEST_F(HttpTest, a_reader_that_stalls_is_cut_and_the_others_lose_nothing) {
  engine.endless = true;
  step = std::chrono::microseconds(100);
  serve({{"send_queue", "4"}, {"stalled_ms", "300"}});
  HttpClient stalled(address, 4096);
  stalled.send(HttpClient::request("POST", "/v1/completions",
                                   prompt(std::string(2000, 'x'), {{"stream", true}, {"logprobs", 100}}).dump()));
  HttpClient other(address);
  const auto r = other.complete(prompt("abcdefg", {{"max_tokens", 3000}, {"stream", true}}));
  size_t n = 0;
  for (const auto& e : r.events()) {
    if (e != "[DONE]") n += json::parse(e)["choices"][0]["text"].get<std::string>().size();
  }
  EXPECT_EQ(n, 3000U);
  EXPECT_TRUE(eventually([&] { return service->n_running() == 0; }));
  EXPECT_TRUE(eventually([&] { return n_connections() == 1; }));
}

TEST_F(HttpTest, a_reader_that_pauses_gets_everything) {
  ServiceOptions options;
  options.hold.events = 100000;
  options.hold.bytes = 1 << 30;
  serve({{"send_queue", "4"}}, options);
  HttpClient client(address, 4096);
  const std::string text(3000, 'a');
  client.send(
      HttpClient::request("POST", "/v1/completions", prompt(text, {{"stream", true}, {"logprobs", 50}}).dump()));
  ASSERT_TRUE(eventually([&] { return engine.stats().steps > 100 && service->n_running() == 0; }));
  std::string got;
  for (const auto& e : client.receive().events()) {
    if (e != "[DONE]") got += json::parse(e)["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(got, text);
}

TEST_F(HttpTest, beyond_the_limit_the_oldest_idle_connection_makes_room) {
  serve({{"max_connections", "3"}});
  HttpClient oldest(address);
  ASSERT_EQ(oldest.get("/health").status, 200);
  HttpClient second(address);
  ASSERT_EQ(second.get("/health").status, 200);
  HttpClient third(address);
  ASSERT_EQ(third.get("/health").status, 200);
  HttpClient fourth(address);
  EXPECT_EQ(fourth.get("/health").status, 200);
  EXPECT_TRUE(oldest.is_closed());
  EXPECT_EQ(second.get("/health").status, 200);
}

TEST_F(HttpTest, half_open_connections_by_the_thousand_harm_nobody) {
  serve({{"max_connections", "64"}});
  HttpClient good(address);
  std::deque<std::unique_ptr<HttpClient>> flood;
  for (int i = 0; i < 2000; ++i) {
    flood.push_back(std::make_unique<HttpClient>(address));
    flood.back()->send("GET /health HTTP/1.1\r\nX: ");
    if (flood.size() > 200) flood.pop_front();
    if (i % 50 == 0) {
      HttpClient fresh(address);
      ASSERT_EQ(fresh.complete(prompt("served")).json()["choices"][0]["text"], "served") << i;
    }
  }
}

TEST_F(HttpTest, keys_are_asked_for_everything_but_health) {
  const std::string file = ::testing::TempDir() + "http_keys_" + std::to_string(getpid());
  std::ofstream(file) << "# for tests\n\nsecret-key-number-1\n  secret-key-number-2  \n";
  chmod(file.c_str(), 0600);
  serve({{"api_key_file", file}});
  HttpClient client(address);
  EXPECT_EQ(client.get("/health").status, 200);
  for (const char* header : {"", "Authorization: Bearer \r\n", "Authorization: Bearer secret-key-number-3\r\n",
                             "Authorization: secret-key-number-1\r\n", "Authorization: Bearer # for tests\r\n"}) {
    const auto r = HttpClient(address).get("/v1/models", header);
    EXPECT_EQ(r.status, 401) << header;
    EXPECT_EQ(r.headers.at("www-authenticate"), "Bearer");
    EXPECT_EQ(r.json()["error"]["code"], "invalid_api_key");
    EXPECT_EQ(HttpClient(address).get("/metrics", header).status, 401);
    EXPECT_EQ(HttpClient(address).post("/v1/completions", prompt("x"), header).status, 401);
  }
  for (const char* key : {"secret-key-number-1", "secret-key-number-2"}) {
    EXPECT_EQ(client.get("/v1/models", std::string("Authorization: Bearer ") + key + "\r\n").status, 200);
  }
  stop();
  std::ofstream(file) << "short\n";
  EXPECT_NE(create({{"api_key_file", file}}).find("line 1: expected a key of at least 16 bytes"), std::string::npos);
  std::ofstream(file) << "# none\n";
  EXPECT_NE(create({{"api_key_file", file}}).find("got none"), std::string::npos);
  chmod(file.c_str(), 0666);
  EXPECT_NE(create({{"api_key_file", file}}).find("only its owner"), std::string::npos);
  EXPECT_NE(create({{"api_key_file", file + ".missing"}}).find("can be read"), std::string::npos);
  unlink(file.c_str());
}

TEST_F(HttpTest, addresses_that_others_can_reach_need_a_key_or_permission) {
  for (const char* bind : {"0.0.0.0:0", "[::]:0", "192.168.1.7:80"}) {
    EXPECT_NE(create({{"bind", bind}}).find("allow_remote"), std::string::npos) << bind;
    EXPECT_EQ(create({{"bind", bind}, {"allow_remote", "true"}}), "") << bind;
    table->destroy(std::exchange(transport, nullptr));
  }
  for (const char* bind : {"127.0.0.1:0", "localhost:8080", "[::1]:1", "127.9.9.9:65535"}) {
    EXPECT_EQ(create({{"bind", bind}}), "") << bind;
    table->destroy(std::exchange(transport, nullptr));
  }
  for (const char* bind : {"", ":8080", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
                           "http://127.0.0.1:1", "example.org:80", "127.0.0.1:80x"}) {
    EXPECT_NE(create({{"bind", bind}}).find("expected HOST:PORT"), std::string::npos) << bind;
  }
}

TEST_F(HttpTest, an_address_in_use_is_an_error_that_names_it) {
  serve();
  const std::string used = address.substr(std::string("http://").size());
  moe_transport_instance* first = std::exchange(transport, nullptr);
  ASSERT_EQ(create({{"bind", used}}), "");
  char text[512] = "";
  moe_message message{text, sizeof text, 0};
  EXPECT_EQ(table->start(transport, service->abi(), &message), MOE_UNAVAILABLE);
  EXPECT_NE(std::string(text).find(used), std::string::npos) << text;
  table->destroy(std::exchange(transport, first));
}

TEST_F(HttpTest, draining_closes_connections_after_their_response_and_stop_waits_for_it) {
  engine.endless = true;
  step = milliseconds(1);
  serve();
  HttpClient client(address);
  client.send(
      HttpClient::request("POST", "/v1/completions", prompt("abc", {{"stream", true}, {"max_tokens", 300}}).dump()));
  ASSERT_TRUE(client.read_until("data: "));
  table->drain(transport);
  EXPECT_TRUE(eventually([&] { return HttpClient(address).get("/health").status == 503; }));
  const auto began = std::chrono::steady_clock::now();
  stop(20000);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
  const auto r = client.receive();
  EXPECT_EQ(r.events().size(), 302U);  // tokens, the end, [DONE]
  EXPECT_TRUE(client.is_closed());
}

TEST_F(HttpTest, stop_waits_no_longer_than_its_grace) {
  engine.endless = true;
  step = milliseconds(1);
  serve();
  HttpClient client(address);
  client.send(HttpClient::request("POST", "/v1/completions", prompt("abc").dump()));
  ASSERT_TRUE(eventually([&] { return service->n_running() == 1; }));
  const auto began = std::chrono::steady_clock::now();
  stop(200);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(3));
  EXPECT_TRUE(client.is_closed());
}

}  // namespace
}  // namespace patchbay
