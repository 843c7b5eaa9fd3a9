// What each message is answered with.
#include "core/service/service.hpp"

#include "service_fixture.hpp"

namespace patchbay {
namespace {

using testing::Reader;
using testing::ServiceTest;

TEST_F(ServiceTest, a_request_is_answered_by_numbered_events_and_one_end) {
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(5, "hello", [](v1::Generate* g) { g->set_max_tokens(4); }).ok());
  run();
  const auto s = reader.stream(5);
  EXPECT_EQ(s.text, "hell");
  EXPECT_EQ(s.ids, testing::bytes_of("hell"));
  ASSERT_TRUE(s.ended);
  EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(s.end.usage().n_prompt(), 5);
  EXPECT_EQ(s.end.usage().n_generated(), 4);
  EXPECT_FALSE(s.end.has_error());
  EXPECT_EQ(metric("patchbay_requests_done_total"), 1);
}

TEST_F(ServiceTest, a_request_reaches_the_engine_field_by_field) {
  Reader reader(*service);
  ASSERT_TRUE(reader
                  .generate(1, "x",
                            [](v1::Generate* g) {
                              g->set_text("xy");
                              g->set_max_tokens(9);
                              (*g->mutable_sampling())["temperature"].set_number(0.25);
                              g->set_seed(77);
                              g->set_priority(-3);
                              g->set_deadline_ms(60'000);
                              g->set_logprobs(2);
                              g->set_trace_routing(true);
                            })
                  .ok());
  const Request& r = engine.last;
  EXPECT_EQ(r.prompt, testing::bytes_of("xy"));
  EXPECT_EQ(r.max_tokens, 9);
  ASSERT_EQ(r.sampling.size(), 1U);
  EXPECT_EQ(r.sampling[0].name, "temperature");
  EXPECT_EQ(std::get<double>(r.sampling[0].value), 0.25);
  EXPECT_EQ(r.seed, 77U);
  EXPECT_EQ(r.priority, -3);
  EXPECT_EQ(r.top_logprobs, 2);
  EXPECT_TRUE(r.trace_routing);
  EXPECT_EQ(r.stop_ids, std::vector<int32_t>{testing::kEnd});
  ASSERT_TRUE(r.deadline.has_value());
  const auto left = *r.deadline - std::chrono::steady_clock::now();
  EXPECT_GT(left, std::chrono::seconds(50));
  EXPECT_LE(left, std::chrono::seconds(60));
  run();
  const auto m = reader.messages();
  ASSERT_EQ(m.size(), 3U);
  EXPECT_EQ(m[0].tokens().logprobs(0).logprob(), -0.5F);
  EXPECT_EQ(m[0].tokens().logprobs(0).token(), "x");
  EXPECT_EQ(m[0].tokens().logprobs(0).top_size(), 2);
  EXPECT_EQ(m[0].tokens().logprobs(0).top(1).token(), "x");
  EXPECT_EQ(m[0].tokens().experts(0).ids_size(), 4);
  EXPECT_EQ(m[0].tokens().experts(0).ids(0), 3);
}

TEST_F(ServiceTest, logprobs_and_routing_are_absent_unless_asked_for) {
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "x").ok());
  EXPECT_EQ(engine.last.top_logprobs, -1);
  run();
  EXPECT_EQ(reader.messages()[0].tokens().logprobs_size(), 0);
  EXPECT_EQ(reader.messages()[0].tokens().experts_size(), 0);
}

TEST_F(ServiceTest, a_stop_string_ends_the_text_and_is_named) {
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "one, two", [](v1::Generate* g) { g->add_stop(", "); }).ok());
  run();
  const auto s = reader.stream(1);
  EXPECT_EQ(s.text, "one");
  EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(s.end.stop(), ", ");
}

TEST_F(ServiceTest, wrong_requests_end_with_an_error_that_names_the_field) {
  Reader reader(*service);
  uint64_t id = 0;
  const auto error = [&](const std::function<void(v1::Generate*)>& make) {
    EXPECT_TRUE(reader.generate(++id, "x", make).ok());
    const auto s = reader.stream(id);
    EXPECT_TRUE(s.ended);
    EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_FAILED);
    EXPECT_EQ(s.end.error().code(), v1::CODE_INVALID_ARGUMENT);
    return s.end.error().message();
  };
  EXPECT_NE(error([](auto* g) { g->set_max_tokens(-1); }).find("max_tokens"), std::string::npos);
  EXPECT_NE(error([](auto* g) { g->set_deadline_ms(-1); }).find("deadline_ms"), std::string::npos);
  EXPECT_NE(error([](auto* g) { g->set_deadline_ms(INT64_MAX); }).find("deadline_ms"), std::string::npos);
  EXPECT_NE(error([](auto* g) { g->set_logprobs(1'000'000); }).find("logprobs"), std::string::npos);
  EXPECT_NE(error([](auto* g) { g->clear_prompt(); }).find("prompt"), std::string::npos);
  EXPECT_NE(error([](auto* g) { g->mutable_ids()->clear_ids(); }).find("prompt"), std::string::npos);
  EXPECT_NE(error([](auto* g) { g->mutable_chat(); }).find("chat.messages"), std::string::npos);
  EXPECT_NE(error([](auto* g) { g->add_stop(""); }).find("stop"), std::string::npos);
  EXPECT_NE(error([](auto* g) { (*g->mutable_sampling())["tempratur"].set_number(1); }).find("tempratur"),
            std::string::npos);
  EXPECT_NE(error([](auto* g) { (*g->mutable_sampling())["temperature"]; }).find("temperature"), std::string::npos);
  EXPECT_NE(error([](auto* g) { (*g->mutable_sampling())["temperature"].set_number(NAN); }).find("finite"),
            std::string::npos);
  EXPECT_TRUE(engine.idle());
  EXPECT_EQ(service->n_running(), 0U);
  EXPECT_TRUE(reader.generate(1, "x").ok());  // and their numbers are free again
  run();
  EXPECT_EQ(reader.last().end().reason(), v1::FINISH_REASON_STOP);
}

TEST_F(ServiceTest, a_running_number_is_refused_without_harm_to_its_stream) {
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "abc").ok());
  engine.step();
  ASSERT_TRUE(reader.generate(1, "xyz").ok());
  EXPECT_EQ(reader.last().sequence(), 0U);
  EXPECT_EQ(reader.last().error().code(), v1::CODE_ALREADY_EXISTS);
  run();
  EXPECT_EQ(reader.stream(1).text, "abc");
  ASSERT_TRUE(reader.generate(0, "xyz").ok());
  EXPECT_EQ(reader.last().error().code(), v1::CODE_INVALID_ARGUMENT);
}

TEST_F(ServiceTest, two_connections_may_use_the_same_number) {
  Reader a(*service);
  Reader b(*service);
  ASSERT_TRUE(a.generate(1, "from a").ok());
  ASSERT_TRUE(b.generate(1, "from b!").ok());
  run();
  EXPECT_EQ(a.stream(1).text, "from a");
  EXPECT_EQ(b.stream(1).text, "from b!");
}

TEST_F(ServiceTest, a_failure_of_the_engine_arrives_typed_after_the_tokens_before_it) {
  engine.fail_at = 2;
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "abcd").ok());
  run();
  const auto s = reader.stream(1);
  EXPECT_EQ(s.text, "ab");
  EXPECT_EQ(s.end.reason(), v1::FINISH_REASON_FAILED);
  EXPECT_EQ(s.end.error().code(), v1::CODE_DATA_LOSS);
  EXPECT_EQ(metric("patchbay_requests_failed_total"), 1);
}

TEST_F(ServiceTest, a_full_queue_is_busy_at_once) {
  engine.queue = 1;
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "ab").ok());
  ASSERT_TRUE(reader.generate(2, "ab").ok());
  EXPECT_EQ(reader.stream(2).end.error().code(), v1::CODE_RESOURCE_EXHAUSTED);
  run();
  EXPECT_EQ(reader.stream(1).text, "ab");
}

TEST_F(ServiceTest, draining_refuses_new_requests_and_finishes_the_others) {
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "abc").ok());
  service->drain();
  ASSERT_TRUE(reader.generate(2, "abc").ok());
  EXPECT_EQ(reader.stream(2).end.error().code(), v1::CODE_UNAVAILABLE);
  run();
  EXPECT_EQ(reader.stream(1).text, "abc");
  EXPECT_EQ(service->health().state(), v1::Health::STATE_DRAINING);
}

TEST_F(ServiceTest, info_health_and_metrics_are_answered_under_the_number_of_the_question) {
  Reader reader(*service);
  v1::ClientMessage m;
  m.set_request(9);
  m.mutable_info();
  ASSERT_TRUE(reader.send(m).ok());
  EXPECT_EQ(reader.last().request(), 9U);
  EXPECT_EQ(reader.last().sequence(), 0U);
  EXPECT_EQ(reader.last().info().model(), "echo");
  EXPECT_EQ(reader.last().info().context(), 4096);
  EXPECT_TRUE(reader.last().info().has_text());
  EXPECT_FALSE(reader.last().info().has_chat());
  m.mutable_health();
  ASSERT_TRUE(reader.send(m).ok());
  EXPECT_EQ(reader.last().health().state(), v1::Health::STATE_SERVING);
  metrics.add("my_total", 3);
  m.mutable_metrics();
  ASSERT_TRUE(reader.send(m).ok());
  const v1::Metrics all = reader.last().metrics();
  const auto& list = all.metrics();
  EXPECT_TRUE(std::is_sorted(list.begin(), list.end(), [](auto& a, auto& b) { return a.name() < b.name(); }));
  EXPECT_EQ(metric("my_total"), 3);
  EXPECT_EQ(metric("patchbay_connections"), 1);
}

TEST_F(ServiceTest, telemetry_and_metrics_tell_the_load_of_every_expert) {
  engine.expert_tokens = {{6, 2}, {4, 4}};
  v1::Info info;
  info.add_layers()->set_index(0);  // dense
  for (const int32_t index : {1, 2}) {
    v1::Layer* layer = info.add_layers();
    layer->set_index(index);
    layer->set_n_experts(2);
  }
  service = std::make_unique<Service>(engine, *model, metrics, info);
  const v1::Telemetry t = service->telemetry();
  ASSERT_EQ(t.layers_size(), 2);
  EXPECT_EQ(t.layers(0).index(), 1);
  EXPECT_EQ(t.layers(0).tokens(0), 6U);
  EXPECT_DOUBLE_EQ(t.layers(0).max_over_mean(), 1.5);
  EXPECT_DOUBLE_EQ(t.layers(1).entropy(), 1);
  EXPECT_EQ(t.health().state(), v1::Health::STATE_SERVING);
  EXPECT_GE(service->telemetry().time_s(), t.time_s());
  std::map<std::string, double> by_name;
  const v1::Metrics all = service->metrics();
  for (const auto& m : all.metrics()) {
    std::string name = m.name();
    for (const auto& l : m.labels()) name += " " + l.name() + "=" + l.value();
    by_name[name] = m.value();
  }
  EXPECT_EQ(by_name.at("patchbay_expert_tokens_total layer=1 expert=0"), 6);
  EXPECT_EQ(by_name.at("patchbay_expert_tokens_total layer=2 expert=1"), 4);
  EXPECT_EQ(by_name.at("patchbay_layer_load_max_over_mean layer=1"), 1.5);
  EXPECT_EQ(by_name.at("patchbay_engine_step_seconds_count"), 0);
}

TEST_F(ServiceTest, metrics_of_plugins_are_among_the_others) {
  ServiceOptions options;
  options.more_metrics = [] { return std::map<std::string, double>{{"plugin_gauge", 2}, {"plugin_total", 7}}; };
  make(options);
  const v1::Metrics all = service->metrics();
  int n = 0;
  for (const auto& m : all.metrics()) {
    if (m.name() == "plugin_gauge") n += m.value() == 2 && !m.counter() ? 1 : 0;
    if (m.name() == "plugin_total") n += m.value() == 7 && m.counter() ? 1 : 0;
  }
  EXPECT_EQ(n, 2);
}

TEST_F(ServiceTest, the_server_bounds_the_tokens_of_a_request) {
  ServiceOptions options;
  options.max_tokens = 5;
  make(options);
  engine.endless = true;
  Reader reader(*service);
  for (const int64_t asked : {0, 3, 100}) {
    ASSERT_TRUE(
        reader.generate(static_cast<uint64_t>(asked) + 1, "ab", [&](v1::Generate* g) { g->set_max_tokens(asked); })
            .ok());
    run();
    EXPECT_EQ(reader.stream(static_cast<uint64_t>(asked) + 1).ids.size(), asked == 3 ? 3U : 5U);
  }
}

TEST_F(ServiceTest, health_says_stalled_only_while_work_makes_no_progress) {
  ServiceOptions options;
  options.stalled_after = std::chrono::milliseconds(20);
  make(options);
  Reader reader(*service);
  std::this_thread::sleep_for(std::chrono::milliseconds(40));
  EXPECT_EQ(service->health().state(), v1::Health::STATE_SERVING);  // nothing to do is no stall
  ASSERT_TRUE(reader.generate(1, "abc").ok());
  EXPECT_EQ(service->health().state(), v1::Health::STATE_SERVING);  // nor is work that has just come
  std::this_thread::sleep_for(std::chrono::milliseconds(40));
  EXPECT_EQ(service->health().state(), v1::Health::STATE_STALLED);
  EXPECT_GT(service->health().seconds_since_progress(), 0.02);
  engine.step();
  EXPECT_EQ(service->health().state(), v1::Health::STATE_SERVING);
  run();
}

TEST_F(ServiceTest, control_is_refused_unless_allowed) {
  v1::ClientMessage m;
  m.set_request(3);
  m.mutable_control()->mutable_drain();
  {
    Reader reader(*service);
    ASSERT_TRUE(reader.send(m).ok());
    EXPECT_EQ(reader.last().error().code(), v1::CODE_PERMISSION_DENIED);
    EXPECT_FALSE(service->draining());
  }
  ServiceOptions options;
  options.allow_control = true;
  make(options);
  Reader reader(*service);
  ASSERT_TRUE(reader.send(m).ok());
  EXPECT_TRUE(reader.last().has_control_done());
  EXPECT_TRUE(service->draining());
  m.mutable_control()->clear_action();
  ASSERT_TRUE(reader.send(m).ok());
  EXPECT_EQ(reader.last().error().code(), v1::CODE_UNIMPLEMENTED);
}

TEST_F(ServiceTest, garbage_is_refused_and_harms_nobody) {
  Reader reader(*service);
  ASSERT_TRUE(reader.generate(1, "abc").ok());
  for (const std::string& bytes : {std::string("\xFF\xFF\xFF"), std::string(1000, '\x12'), std::string("\x08"),
                                   std::string("\x12\x03\x0A\x01\xFF", 5)}) {
    const auto status = service->submit(reader.id, bytes);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, MOE_INVALID_ARGUMENT);
  }
  EXPECT_EQ(reader.size(), 0U);
  ASSERT_TRUE(service->submit(reader.id, "").ok());  // the empty message is a message, of a body that is not known
  EXPECT_EQ(reader.last().error().code(), v1::CODE_UNIMPLEMENTED);
  run();
  EXPECT_EQ(reader.stream(1).text, "abc");
  EXPECT_EQ(metric("patchbay_messages_malformed_total"), 4);
  EXPECT_EQ(service->submit(12345, "").error().code, MOE_NOT_FOUND);
}

TEST_F(ServiceTest, the_c_interface_reports_errors_as_text) {
  const moe_service* abi = service->abi();
  char text[64];
  moe_message message{text, sizeof text, 0};
  EXPECT_EQ(abi->submit(abi->self, 99, "x", 1, &message), MOE_NOT_FOUND);
  EXPECT_NE(std::string(text).find("connection 99"), std::string::npos);
  uint64_t id = 0;
  moe_sink sink{};
  EXPECT_EQ(abi->open(abi->self, &sink, &id, &message), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(abi->get_extension(abi->self, "no.such/1"), nullptr);
  abi->resume(abi->self, 99);
  abi->close(abi->self, 99);
}

TEST_F(ServiceTest, connections_are_counted_and_bounded) {
  ServiceOptions options;
  options.connections = 2;
  make(options);
  Reader a(*service);
  {
    Reader b(*service);
    moe_sink sink = moe::make<moe_sink>();
    sink.deliver = [](void*, const void*, uint64_t) -> moe_status { return MOE_OK; };
    EXPECT_EQ(service->open(sink).error().code, MOE_RESOURCE_EXHAUSTED);
  }
  Reader c(*service);
}

}  // namespace
}  // namespace patchbay
