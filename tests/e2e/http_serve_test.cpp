// The real server over HTTP, on the quickstart model.
#include <memory>
#include <nlohmann/json.hpp>

#include "server.hpp"
#include "tests/plugins/transports/http_client.hpp"

namespace patchbay {
namespace {

using e2e::eventually;
using e2e::kWithHttp;
using e2e::leave_room;
using e2e::run_program;
using e2e::Server;
using nlohmann::json;
using testing::HttpClient;

constexpr const char* kQuestion = "What is 293 + 85?";

json question(json more = json::object()) {
  more["messages"] = {{{"role", "user"}, {"content", kQuestion}}};
  more["temperature"] = 0;
  return more;
}

// A stream that lasts as long as the context.
json long_request() {
  return {{"prompt", "Count: "}, {"max_tokens", 1000}, {"ignore_eos", true}, {"seed", 1}, {"stream", true}};
}

std::string text_of(const HttpClient::Response& r) {
  std::string text;
  for (const auto& e : r.events()) {
    if (e != "[DONE]") text += json::parse(e)["choices"][0].value("text", "");
  }
  return text;
}

TEST(HttpServe, a_chat_gives_what_run_prints_with_the_thinking_apart) {
  const auto alone =
      run_program({"run", "--model", e2e::quickstart_model(), "--chat", kQuestion, "--json", "--temperature", "0"});
  ASSERT_EQ(alone.exit_code, 0) << alone.err;
  const std::string want = json::parse(alone.out)["text"];
  const Server server(kWithHttp);
  HttpClient client(server.address_of("http"));
  const json body = client.chat(question()).json();
  const json message = body["choices"][0]["message"];
  const std::string content = message["content"];
  const std::string reasoning = message["reasoning_content"];
  EXPECT_EQ(content, "378");
  EXPECT_EQ(want, reasoning + "\n</think>\n\n" + content);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(body["model"], "model");
  EXPECT_GT(body["usage"]["completion_tokens_details"]["reasoning_tokens"], 10);
  EXPECT_LT(body["usage"]["completion_tokens_details"]["reasoning_tokens"], body["usage"]["completion_tokens"]);
}

TEST(HttpServe, the_first_signal_finishes_streams_and_ends_with_0) {
  Server server(kWithHttp);
  const std::string http = server.address_of("http");
  HttpClient client(http);
  const std::string whole = text_of(client.complete(long_request()));
  ASSERT_GT(whole.size(), 500U);
  client.send(HttpClient::request("POST", "/v1/completions", long_request().dump()));
  ASSERT_TRUE(client.read_until("data: "));
  server.program.signal(SIGTERM);
  EXPECT_EQ(text_of(client.receive()), whole);
  const auto ended = server.program.wait();
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
}

TEST(HttpServe, a_client_that_vanishes_frees_its_slot) {
  const Server server({"--listen", "http=127.0.0.1:0", "--set", "engine.batch_size=1"});
  for (int i = 0; i < 3; ++i) {
    HttpClient client(server.address_of("http"));
    client.send(HttpClient::request("POST", "/v1/completions", long_request().dump()));
    EXPECT_TRUE(client.read_until("data: "));
  }
  HttpClient client(server.address_of("http"));
  EXPECT_TRUE(eventually([&] { return client.get("/health").json()["running"] == 0; }));
  EXPECT_EQ(client.chat(question()).json()["choices"][0]["message"]["content"], "378");
}

TEST(HttpServe, out_of_file_handles_streams_go_on_and_newcomers_take_the_place_of_idle_connections) {
  const Server server(kWithHttp);
  const std::string http = server.address_of("http");
  const std::string alone = text_of(HttpClient(http).complete(long_request()));
  HttpClient streaming(http);
  streaming.send(HttpClient::request("POST", "/v1/completions", long_request().dump()));
  ASSERT_TRUE(streaming.read_until("data: "));
  leave_room(server, RLIMIT_NOFILE, 4);
  std::vector<std::unique_ptr<HttpClient>> silent;
  for (int i = 0; i < 30; ++i) silent.push_back(std::make_unique<HttpClient>(http));
  HttpClient late(http);
  late.patience = std::chrono::seconds(60);
  EXPECT_EQ(late.chat(question()).json()["choices"][0]["message"]["content"], "378");
  EXPECT_EQ(text_of(streaming.receive()), alone);
  EXPECT_NE(late.get("/metrics").body.find("http_accept_failures_total"), std::string::npos);
}

#ifndef PATCHBAY_SANITIZED  // a sanitizer ends a program that gets no memory
TEST(HttpServe, out_of_memory_requests_are_refused_typed_and_it_keeps_serving) {
  const Server server(
      {"--set", R"(transport=[{plugin="http",max_bodies_bytes=1073741824}])", "--listen", "http=127.0.0.1:0"});
  const std::string http = server.address_of("http");
  const std::string alone = text_of(HttpClient(http).complete(long_request()));
  HttpClient streaming(http);
  streaming.send(HttpClient::request("POST", "/v1/completions", long_request().dump()));
  ASSERT_TRUE(streaming.read_until("data: "));
  leave_room(server, RLIMIT_AS, 16 << 20);
  const std::string large =
      HttpClient::request("POST", "/v1/completions", json({{"prompt", std::string(4000000, 'x')}}).dump());
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 40; ++i) {  // all but the last byte: the server holds what has come
    clients.push_back(std::make_unique<HttpClient>(http));
    clients.back()->send(std::string_view(large).substr(0, large.size() - 1));
  }
  int n_without_room = 0;
  for (auto& client : clients) {
    client->send(std::string_view(large).substr(large.size() - 1));
    const auto response = client->receive();
    // 400: it was read, and the prompt is longer than the context. 429: no memory further in.
    EXPECT_TRUE(response.status == 400 || response.status == 429 || response.status == 503)
        << response.status << response.body;
    n_without_room += response.error().find("memory") != std::string::npos ? 1 : 0;
  }
  EXPECT_GT(n_without_room, 0);
  clients.clear();
  EXPECT_EQ(text_of(streaming.receive()), alone);
  HttpClient after(http);
  EXPECT_EQ(after.chat(question()).json()["choices"][0]["message"]["content"], "378");
}
#endif

// OpenAI's own client, where Python has it: PATCHBAY_PYTHON names another interpreter than python3.
TEST(HttpServe, the_openai_python_client_works_unchanged) {
  const char* given = std::getenv("PATCHBAY_PYTHON");
  const std::string python = given != nullptr ? given : "python3";
  if (std::system((python + " -c 'import openai' 2>/dev/null").c_str()) != 0)
    GTEST_SKIP() << python << " has no openai";
  const Server server(kWithHttp);
  const std::string command =
      python + " " PATCHBAY_SOURCE_DIR "/tests/e2e/openai_client.py " + server.address_of("http");
  EXPECT_EQ(std::system(command.c_str()), 0);
}

}  // namespace
}  // namespace patchbay
