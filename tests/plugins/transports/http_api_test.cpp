// What OpenAI's API promises, over the plugin as it is loaded.
#include <set>

#include "http_fixture.hpp"

namespace patchbay {
namespace {

using nlohmann::json;
using testing::HttpClient;

struct HttpApi : testing::HttpTest {
  // The joined texts of a stream's choice, and what its last event says.
  struct Streamed {
    std::string text;
    std::string reasoning;
    std::string finish;
    json usage;
    size_t n_events = 0;
  };
  static Streamed joined(const HttpClient::Response& r, size_t index = 0) {
    Streamed s;
    const auto events = r.events();
    EXPECT_FALSE(events.empty()) << r.body;
    if (!events.empty()) {
      EXPECT_EQ(events.back(), "[DONE]");
    }
    for (size_t i = 0; i + 1 < events.size(); ++i) {
      const json e = json::parse(events[i]);
      if (!e.value("usage", json()).is_null()) s.usage = e["usage"];
      for (const json& c : e["choices"]) {
        if (c["index"] != index) continue;
        ++s.n_events;
        s.text += c.contains("delta") ? c["delta"].value("content", "") : c.value("text", "");
        if (c.contains("delta")) s.reasoning += c["delta"].value("reasoning_content", "");
        if (!c["finish_reason"].is_null()) s.finish = c["finish_reason"];
      }
    }
    return s;
  }
};

TEST_F(HttpApi, models_are_listed_and_found_by_name) {
  serve();
  HttpClient client(address);
  const auto list = client.get("/v1/models");
  EXPECT_EQ(list.status, 200);
  EXPECT_EQ(list.json()["data"][0]["id"], "echo");
  EXPECT_EQ(list.json()["data"][0]["object"], "model");
  EXPECT_EQ(client.get("/v1/models/echo").json()["id"], "echo");
  EXPECT_EQ(client.get("/v1/models/other").status, 404);
  EXPECT_EQ(client.complete(prompt("x", {{"model", "other"}})).status, 404);
  EXPECT_EQ(client.complete(prompt("x", {{"model", "echo"}})).status, 200);
}

TEST_F(HttpApi, a_completion_comes_whole) {
  serve();
  HttpClient client(address);
  const auto r = client.complete(prompt("an echo: é"));
  ASSERT_EQ(r.status, 200) << r.body;
  const json body = r.json();
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["choices"][0]["text"], "an echo: é");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(body["usage"]["prompt_tokens"], 11);
  EXPECT_EQ(body["usage"]["completion_tokens"], 11);
  EXPECT_EQ(body["usage"]["total_tokens"], 22);
  EXPECT_EQ(body["model"], "echo");
}

TEST_F(HttpApi, a_completion_has_16_tokens_unless_told_otherwise) {
  serve();
  HttpClient client(address);
  const auto r = client.complete({{"prompt", "0123456789abcdefghi"}});
  EXPECT_EQ(r.json()["choices"][0]["text"], "0123456789abcdef");
  EXPECT_EQ(r.json()["choices"][0]["finish_reason"], "length");
}

TEST_F(HttpApi, a_chat_comes_whole) {
  serve();
  HttpClient client(address);
  const auto r = client.chat(message("hi"));
  ASSERT_EQ(r.status, 200) << r.body;
  const json body = r.json();
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(body["choices"][0]["message"]["content"], "hi");
  EXPECT_FALSE(body["choices"][0]["message"].contains("reasoning_content"));
}

TEST_F(HttpApi, parts_of_text_are_joined_and_others_refused) {
  serve();
  HttpClient client(address);
  json request = message("");
  request["messages"][0]["content"] = {{{"type", "text"}, {"text", "one "}}, {{"type", "text"}, {"text", "two"}}};
  EXPECT_EQ(client.chat(request).json()["choices"][0]["message"]["content"], "one two");
  request["messages"][0]["content"] = {{{"type", "image_url"}, {"image_url", {{"url", "x"}}}}};
  const auto r = client.chat(request);
  EXPECT_EQ(r.status, 400);
  EXPECT_EQ(r.json()["error"]["param"], "messages[0].content");
}

TEST_F(HttpApi, a_stream_joined_is_the_whole) {
  serve();
  HttpClient client(address);
  const auto text = client.complete(prompt("streamed: 日本", {{"stream", true}}));
  EXPECT_EQ(text.status, 200);
  EXPECT_EQ(text.headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(joined(text).text, "streamed: 日本");
  EXPECT_EQ(joined(text).finish, "stop");
  const auto chat = client.chat(
      message("also", {{"stream", true}, {"stream_options", {{"include_usage", true}}}, {"max_tokens", 3}}));
  const Streamed s = joined(chat);
  EXPECT_EQ(s.text, "als");
  EXPECT_EQ(s.finish, "length");
  EXPECT_EQ(s.usage["completion_tokens"], 3);
  const json first = json::parse(chat.events()[0]);
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["choices"][0]["delta"]["role"], "assistant");
}

TEST_F(HttpApi, thinking_is_apart_from_the_answer) {
  serve();
  HttpClient client(address);
  const std::string text = "<think>\nFirst,\nthis.\n</think>\n\nThen that.";
  const json m = client.chat(message(text)).json()["choices"][0]["message"];
  EXPECT_EQ(m["reasoning_content"], "First,\nthis.");
  EXPECT_EQ(m["content"], "Then that.");
  const Streamed s = joined(client.chat(message(text, {{"stream", true}})));
  EXPECT_EQ(s.reasoning, "First,\nthis.");
  EXPECT_EQ(s.text, "Then that.");
  EXPECT_EQ(client.complete(prompt(text)).json()["choices"][0]["text"], text);
}

TEST_F(HttpApi, stop_strings_end_the_text_before_them) {
  serve();
  HttpClient client(address);
  EXPECT_EQ(client.complete(prompt("one two three", {{"stop", " th"}})).json()["choices"][0]["text"], "one two");
  const auto r = client.complete(prompt("one two three", {{"stop", {"zero", "two"}}, {"stream", true}}));
  EXPECT_EQ(joined(r).text, "one ");
  EXPECT_EQ(joined(r).finish, "stop");
}

TEST_F(HttpApi, n_choices_and_many_prompts_come_by_index) {
  serve();
  HttpClient client(address);
  const json whole = client.complete({{"prompt", {"first", "second"}}, {"n", 2}, {"seed", 7}}).json();
  ASSERT_EQ(whole["choices"].size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(whole["choices"][i]["index"], i);
    EXPECT_EQ(whole["choices"][i]["text"], i < 2 ? "first" : "second");
  }
  EXPECT_EQ(whole["usage"]["completion_tokens"], 22);
  const auto stream = client.complete({{"prompt", {"first", "second"}}, {"n", 2}, {"stream", true}});
  EXPECT_EQ(joined(stream, 1).text, "first");
  EXPECT_EQ(joined(stream, 3).text, "second");
  EXPECT_EQ(joined(stream, 3).finish, "stop");
}

TEST_F(HttpApi, prompts_may_be_token_ids) {
  serve();
  HttpClient client(address);
  EXPECT_EQ(client.complete({{"prompt", {72, 105}}}).json()["choices"][0]["text"], "Hi");
  const json two = client.complete({{"prompt", {{72, 105}, {256}}}}).json();
  EXPECT_EQ(two["choices"][1]["text"], "Hello");
  EXPECT_EQ(client.complete({{"prompt", {72, -1}}}).status, 400);
  EXPECT_EQ(client.complete({{"prompt", {72, 5000000000}}}).status, 400);
}

TEST_F(HttpApi, seeds_and_sampling_parameters_reach_the_engine) {
  serve();
  HttpClient client(address);
  ASSERT_EQ(client.complete(prompt("x", {{"seed", 41}, {"temperature", 0.5}, {"top_p", 1}})).status, 200);
  EXPECT_EQ(engine.last.seed, 41U);
  ASSERT_EQ(engine.last.sampling.size(), 1U);
  EXPECT_EQ(engine.last.sampling[0].name, "temperature");
  ASSERT_EQ(client.complete(prompt("x", {{"priority", 3}, {"ignore_eos", true}, {"user", "me"}})).status, 200);
  EXPECT_EQ(engine.last.priority, 3);
  const auto unknown = client.complete(prompt("x", {{"temprature", 0.5}}));
  EXPECT_EQ(unknown.status, 400);
  EXPECT_EQ(unknown.json()["error"]["param"], "sampling.temprature");
  EXPECT_EQ(client.complete(prompt("x", {{"top_p", 0.5}})).status, 400) << "no link of this chain has it";
}

TEST_F(HttpApi, log_probabilities_come_with_each_token) {
  serve();
  HttpClient client(address);
  const json chat = client.chat(message("é!", {{"logprobs", true}, {"top_logprobs", 2}})).json();
  const json content = chat["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 3U);  // bytes
  EXPECT_EQ(content[0]["bytes"], json::array({0xC3}));
  EXPECT_EQ(content[2]["token"], "!");
  EXPECT_EQ(content[2]["logprob"], -0.5);
  EXPECT_EQ(content[2]["top_logprobs"].size(), 2U);
  const json text = client.complete(prompt("é!", {{"logprobs", 1}})).json();
  const json l = text["choices"][0]["logprobs"];
  EXPECT_EQ(l["token_logprobs"], json::array({-0.5, -0.5, -0.5}));
  EXPECT_EQ(l["text_offset"], json::array({0, 1, 1}));
  EXPECT_EQ(l["top_logprobs"][2], json({{"!", -0.5}}));
}

TEST_F(HttpApi, what_it_does_not_do_is_refused_by_name) {
  serve();
  HttpClient client(address);
  const std::vector<std::pair<const char*, json>> kFields = {
      {"response_format", {{"type", "json_object"}}},
      {"tools", json::array({{{"type", "function"}}})},
      {"n", 1000000000},
      {"n", 0},
      {"max_tokens", 0},
      {"stop", 7},
      {"temperature", "hot"},
      {"stream", "yes"},
      {"logit_bias", {{"7", "x"}}},
      {"stream_options", {{"include_usage", true}}},
      {"top_logprobs", 3},
  };
  for (const auto& [field, value] : kFields) {
    const auto r = client.chat(message("x", {{field, value}}));
    EXPECT_EQ(r.status, 400) << field << ": " << r.body;
    EXPECT_EQ(r.json()["error"]["type"], "invalid_request_error");
    EXPECT_EQ(r.json()["error"]["param"].get<std::string>().rfind(field, 0), 0U) << r.body;
    EXPECT_NE(r.error().find("expected"), std::string::npos) << r.body;
  }
  EXPECT_EQ(client.chat(message("x", {{"response_format", {{"type", "text"}}}, {"tools", json::array()}})).status, 200);
  EXPECT_EQ(client.complete(prompt("x", {{"echo", true}})).status, 400);
}

TEST_F(HttpApi, wrong_json_is_400_with_its_place) {
  serve();
  HttpClient client(address);
  for (const std::string body : {"{", "[]", "nonsense", "{\"prompt\": \"x\",}", "\"\xFF\xFE\""}) {
    client.send(HttpClient::request("POST", "/v1/completions", body));
    const auto r = client.receive();
    EXPECT_EQ(r.status, 400) << body;
    EXPECT_EQ(r.json()["error"]["param"], "body") << r.body;
  }
  client.send(HttpClient::request("POST", "/v1/completions", std::string(100000, '[')));
  EXPECT_NE(client.receive().error().find("nested"), std::string::npos);
  EXPECT_EQ(client.chat(json::object()).json()["error"]["param"], "messages");
}

TEST_F(HttpApi, busy_is_429_and_draining_503) {
  engine.queue = 0;
  serve();
  HttpClient client(address);
  for (const bool stream : {false, true}) {
    const auto r = client.complete(prompt("x", {{"stream", stream}}));
    EXPECT_EQ(r.status, 429) << r.body;
    EXPECT_EQ(r.headers.at("retry-after"), "1");
    EXPECT_EQ(r.json()["error"]["type"], "rate_limit_error");
  }
  engine.queue = 10;
  EXPECT_EQ(client.complete(prompt("x")).status, 200);
  service->drain();
  EXPECT_EQ(client.complete(prompt("x")).status, 503);
}

TEST_F(HttpApi, a_failure_before_the_first_token_is_a_status_and_later_an_event) {
  engine.fail_at = 0;
  serve();
  HttpClient client(address);
  EXPECT_EQ(client.complete(prompt("abc", {{"stream", true}})).status, 500);
  engine.fail_at = 2;
  const auto r = client.complete(prompt("abc", {{"stream", true}}));
  EXPECT_EQ(r.status, 200);
  const auto events = r.events();
  ASSERT_GE(events.size(), 2U);
  EXPECT_NE(json::parse(events.back())["error"]["message"].get<std::string>().find("NaN"), std::string::npos);
  EXPECT_EQ(client.complete(prompt("abc")).status, 500);
}

TEST_F(HttpApi, metrics_are_in_prometheus_format) {
  serve();
  HttpClient client(address);
  ASSERT_EQ(client.complete(prompt("x")).status, 200);
  const auto r = client.get("/metrics");
  EXPECT_EQ(r.status, 200);
  EXPECT_NE(r.headers.at("content-type").find("version=0.0.4"), std::string::npos);
  EXPECT_NE(r.body.find("# TYPE patchbay_requests_done_total counter\npatchbay_requests_done_total 1\n"),
            std::string::npos)
      << r.body;
  EXPECT_NE(r.body.find("# TYPE patchbay_streams gauge\n"), std::string::npos);
}

TEST_F(HttpApi, metrics_have_labels_and_histograms_one_type_each) {
  engine.expert_tokens = {{6, 2}};
  serve();
  HttpClient client(address);
  ASSERT_EQ(client.complete(prompt("abc")).status, 200);
  const std::string text = client.get("/metrics").body;
  EXPECT_NE(text.find("patchbay_expert_tokens_total{layer=\"0\",expert=\"1\"} 2\n"), std::string::npos) << text;
  EXPECT_NE(text.find("# TYPE patchbay_first_token_seconds histogram\n"
                      "patchbay_first_token_seconds_bucket{le=\"0.0001\"} 1\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("patchbay_first_token_seconds_bucket{le=\"+Inf\"} 1\npatchbay_first_token_seconds_count 1\n"),
            std::string::npos)
      << text;
  std::set<std::string> types;
  for (size_t at = 0; (at = text.find("# TYPE ", at)) != std::string::npos; ++at) {
    EXPECT_TRUE(types.insert(text.substr(at, text.find('\n', at) - at)).second) << "twice";
  }
  EXPECT_GT(types.size(), 15U);
}

TEST_F(HttpApi, the_page_and_what_it_shows_are_served) {
  engine.expert_tokens = {{6, 2}};
  v1::Layer* layer = info.add_layers();
  layer->set_index(0);
  layer->set_router("topk");
  layer->set_n_experts(2);
  serve();
  HttpClient client(address);
  const auto page = client.get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(page.headers.at("content-type"), "text/html; charset=utf-8");
  EXPECT_NE(page.headers.at("content-security-policy").find("default-src 'none'"), std::string::npos);
  EXPECT_EQ(page.body.rfind("<!doctype html>", 0), 0U);
  EXPECT_NE(page.body.find("</html>"), std::string::npos);
  EXPECT_EQ(client.get("/patchbay/info").json()["layers"][0]["router"], "topk");
  const json telemetry = client.get("/patchbay/telemetry").json();
  EXPECT_EQ(telemetry["layers"][0]["tokens"], json::array({6, 2}));
  EXPECT_EQ(telemetry["state"], "serving");
}

TEST_F(HttpApi, health_is_false_within_2_s_of_a_hung_engine_and_true_again) {
  std::atomic<bool> hung = true;
  serve();
  engine.stop();
  engine.before_step = [&] {
    while (hung) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  engine.start();
  HttpClient client(address);
  EXPECT_EQ(client.get("/health").status, 200);
  HttpClient waiting(address);
  waiting.send(HttpClient::request("POST", "/v1/completions", prompt("x").dump()));
  ASSERT_TRUE(eventually([&] { return service->n_running() == 1; }));
  const auto began = std::chrono::steady_clock::now();
  while (client.get("/health").status == 200) {
    ASSERT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(3));
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_LE(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(2000));
  EXPECT_EQ(client.get("/health").json()["state"], "stalled");
  hung = false;
  EXPECT_EQ(waiting.receive().status, 200);
  EXPECT_TRUE(eventually([&] { return client.get("/health").status == 200; }));
}

}  // namespace
}  // namespace patchbay
