// The engine's promises to a request: the same tokens in any company, exactly one end, and a clear no at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <thread>

#include "moe/sdk/logits.hpp"
#include "tests/e2e/engine_fixture.hpp"

namespace patchbay::e2e {
namespace {

constexpr int64_t kPrompt = 30;
constexpr int64_t kGenerated = 24;

// The i-th of a family of prompts that all differ.
std::vector<int32_t> prompt(int32_t i, int64_t n = kPrompt) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < n; ++t) ids.push_back(static_cast<int32_t>((t * 37 + i * 101 + t * t * (i + 3)) % 318) + 2);
  return ids;
}

Request request(int32_t i, double temperature, int64_t n_prompt = kPrompt) {
  Request r;
  r.prompt = prompt(i, n_prompt);
  r.max_tokens = kGenerated;
  r.seed = 1000 + static_cast<uint64_t>(i);
  r.sampling.push_back({"temperature", temperature});
  return r;
}

struct Case {
  const char* fixture;
  double temperature;
  const char* set = nullptr;  // a setting on top
};

// A router that looks back over its sequence: its state lies in the paged cache.
constexpr const char* kInputsRouter = "router={plugin=\"inputs\"}";  // fails what is not given as promised
constexpr const char* kContextRouter = "router={plugin=\"context\", mix=0.5, window=24}";

// The same with trained weights, and fewer positions than the requests have.
constexpr const char* kAttentionRouter = "router.window=24";

class Invariance : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int32_t kOthers = 32;

  [[nodiscard]] static std::vector<std::string> sets(std::vector<std::string> more = {}) {
    if (GetParam().set != nullptr) more.emplace_back(GetParam().set);
    return more;
  }

  // Request 0 alone.
  std::vector<int32_t> alone() {
    TestEngine engine(GetParam().fixture, sets());
    if (!engine.ok()) return {};
    Record record;
    EXPECT_TRUE(engine->submit(request(0, GetParam().temperature), &record).ok());
    engine.run();
    EXPECT_EQ(record.n_ends, 1);
    EXPECT_EQ(record.reason, FinishReason::kLength);
    EXPECT_EQ(record.tokens.size(), static_cast<size_t>(kGenerated));
    return record.tokens;
  }

  // Request 0 among others of other lengths, that come before and after it and while it runs.
  std::vector<Record> among_others(TestEngine& engine) {
    std::vector<Record> records(kOthers + 1);
    const auto submit = [&](int32_t i) {
      const int64_t length = i == 0 ? kPrompt : 5 + i * 7 % 60;
      auto id = engine->submit(request(i, GetParam().temperature, length), &records[static_cast<size_t>(i)]);
      EXPECT_TRUE(id.ok());
    };
    for (int32_t i = 1; i <= 10; ++i) submit(i);
    engine->step();
    submit(0);
    for (int32_t i = 11; i <= 20; ++i) submit(i);
    for (int n = 0; n < 5; ++n) engine->step();
    for (int32_t i = 21; i <= kOthers; ++i) submit(i);
    engine.run();
    for (const auto& r : records) {
      EXPECT_EQ(r.n_ends, 1);
      EXPECT_EQ(r.reason, FinishReason::kLength);
      EXPECT_FALSE(r.token_after_end);
      EXPECT_EQ(r.tokens.size(), static_cast<size_t>(kGenerated));
    }
    return records;
  }
};

TEST_P(Invariance, tokens_are_the_same_alone_and_among_32_others) {
  const auto want = alone();
  TestEngine engine(GetParam().fixture, sets());
  ASSERT_TRUE(engine.ok());
  EXPECT_EQ(among_others(engine)[0].tokens, want);
}

TEST_P(Invariance, tokens_are_the_same_when_the_prompt_is_read_in_chunks_of_7) {
  const auto want = alone();
  TestEngine engine(GetParam().fixture, sets({"engine.batch_tokens=7", "engine.batch_size=7"}));
  ASSERT_TRUE(engine.ok());
  Record record;
  ASSERT_TRUE(engine->submit(request(0, GetParam().temperature), &record).ok());
  const uint64_t before = engine->stats().steps;
  while (record.tokens.empty() && engine->step()) {
  }
  EXPECT_EQ(engine->stats().steps - before, static_cast<uint64_t>((kPrompt + 6) / 7));
  engine.run();
  EXPECT_EQ(record.tokens, want);
  EXPECT_EQ(among_others(engine)[0].tokens, want);
}

TEST_P(Invariance, tokens_are_the_same_after_preemption) {
  // 12 pages of 16 tokens: the longest request needs 6 of them, and up to 33 requests want a share.
  TestEngine small(GetParam().fixture, sets({"engine.cache_tokens=192"}));
  TestEngine ample(GetParam().fixture, sets());
  ASSERT_TRUE(small.ok() && ample.ok());
  const auto preempted = among_others(small);
  const auto want = among_others(ample);
  int64_t n_preempted = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(preempted[i].tokens, want[i].tokens)
        << "request " << i << ", preempted " << preempted[i].usage.n_preempted << " times";
    n_preempted += preempted[i].usage.n_preempted;
    EXPECT_EQ(want[i].usage.n_preempted, 0);
  }
  EXPECT_GT(n_preempted, 0);
  EXPECT_EQ(small->stats().preemptions, static_cast<uint64_t>(n_preempted));
  EXPECT_EQ(small->stats().cache_pages_used, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, Invariance,
                         ::testing::Values(Case{"deepseek_v3", 0.0}, Case{"deepseek_v3", 1.0}, Case{"gpt_oss", 0.0},
                                           Case{"gpt_oss", 1.0}, Case{"mixtral", 0.0}, Case{"mixtral", 1.0},
                                           Case{"mixtral", 0.0, kContextRouter}, Case{"mixtral", 0.0, kInputsRouter},
                                           Case{"deepseek_v3", 1.0, kContextRouter},
                                           Case{"reasoner_attention", 0.0, kAttentionRouter},
                                           Case{"reasoner_attention", 1.0}, Case{"reasoner_dynamic", 0.0}),
                         [](const auto& test) {
                           return std::string(test.param.fixture) +
                                  (test.param.temperature > 0 ? "_sampled" : "_greedy") +
                                  (test.param.set == kContextRouter     ? "_context_router"
                                   : test.param.set == kInputsRouter    ? "_inputs_router"
                                   : test.param.set == kAttentionRouter ? "_short_window"
                                                                        : "");
                         });

TEST(ContextRouter, chooses_otherwise_than_without_a_past) {
  std::vector<std::vector<int32_t>> tokens;
  for (const char* mix : {"0", "0.9"}) {
    TestEngine engine("mixtral", {std::string("router={plugin=\"context\", window=24, mix=") + mix + "}"});
    ASSERT_TRUE(engine.ok());
    Record record;
    ASSERT_TRUE(engine->submit(request(0, 0), &record).ok());
    engine.run();
    tokens.push_back(record.tokens);
  }
  EXPECT_NE(tokens[0], tokens[1]);
}

// 8 requests at once on a model; what each said.
std::vector<std::vector<int32_t>> said(const std::vector<std::string>& sets) {
  TestEngine engine("mixtral", sets);
  if (!engine.ok()) return {};
  std::array<Record, 8> records;
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_TRUE(engine->submit(request(static_cast<int32_t>(i), 0), &records[i]).ok());
  }
  engine.run();
  std::vector<std::vector<int32_t>> tokens;
  for (const Record& r : records) {
    EXPECT_EQ(r.reason, FinishReason::kLength);
    tokens.push_back(r.tokens);
  }
  return tokens;
}

TEST(PlanLimits, a_capacity_that_nothing_exceeds_changes_nothing_and_a_small_one_does) {
  const auto want = said({});
  ASSERT_EQ(want.size(), 8U);
  EXPECT_EQ(said({"plan.capacity=100"}), want);
  EXPECT_EQ(said({"plan.capacity=100", "plan.overflow=\"weight\""}), want);
  const auto by_position = said({"plan.capacity=0.5"});
  const auto by_weight = said({"plan.capacity=0.5", "plan.overflow=\"weight\""});
  EXPECT_NE(by_position, want);
  EXPECT_NE(by_weight, want);
  EXPECT_NE(by_weight, by_position);
  EXPECT_EQ(said({"plan.capacity=0.5"}), by_position) << "the same company, the same tokens";
  EXPECT_NE(said({"layer=[{match=\"1\",plan={capacity=0.5}}]"}), want);
}

TEST(PlanLimits, a_bias_that_follows_the_load_changes_what_is_chosen_and_needs_a_logit_for_each_expert) {
  EXPECT_NE(said({"plan.balance=0.5"}), said({}));
  auto settings = load_settings("", {"plan.balance=0.1", "router={plugin=\"cosine\"}"});
  ASSERT_TRUE(settings.ok());
  settings->model.path = fixture_dir("mixtral");
  settings->architecture_paths.emplace_back(PATCHBAY_SOURCE_DIR "/configs/architectures");
  settings->backends = {{"cpu", {}, "test"}};
  Host host(1);
  RegistryOptions plugins;
  plugins.search_paths = {PATCHBAY_BINARY_DIR "/lib/patchbay/plugins"};
  plugins.probe_program = PATCHBAY_BINARY_DIR "/bin/patchbay";
  const auto model = Model::load(*settings, PluginRegistry::scan(std::move(plugins), host), host, {});
  ASSERT_FALSE(model.ok());
  EXPECT_NE(model.error().message.find(
                "plan.balance: expected a router with a logit for each of the 8 experts, got one with 0"),
            std::string::npos)
      << model.error().message;
}

TEST(Sampling, another_seed_gives_another_text_and_the_same_seed_the_same) {
  TestEngine engine("mixtral");
  ASSERT_TRUE(engine.ok());
  std::array<Record, 3> records;
  for (size_t i = 0; i < records.size(); ++i) {
    Request r = request(0, 1.0);
    r.seed = i == 2 ? 7 : 5;
    ASSERT_TRUE(engine->submit(std::move(r), &records[i]).ok());
  }
  engine.run();
  EXPECT_EQ(records[0].tokens, records[1].tokens);
  EXPECT_NE(records[0].tokens, records[2].tokens);
}

TEST(Cancel, a_running_request_ends_once_and_its_pages_are_free) {
  TestEngine engine("mixtral");
  ASSERT_TRUE(engine.ok());
  Record cancelled, other;
  const auto id = engine->submit(request(0, 0), &cancelled);
  ASSERT_TRUE(id.ok() && engine->submit(request(1, 0), &other).ok());
  while (cancelled.tokens.size() < 3 && engine->step()) {
  }
  const size_t n_before = cancelled.tokens.size();
  engine->cancel(*id);
  engine->cancel(*id);
  engine->step();
  EXPECT_EQ(cancelled.n_ends, 1);
  EXPECT_EQ(cancelled.reason, FinishReason::kCancelled);
  EXPECT_EQ(cancelled.tokens.size(), n_before);
  engine->cancel(*id);
  engine.run();
  EXPECT_EQ(cancelled.n_ends, 1);
  EXPECT_FALSE(cancelled.token_after_end);
  EXPECT_EQ(other.reason, FinishReason::kLength);
  EXPECT_EQ(engine->stats().cache_pages_used, 0);
  EXPECT_EQ(engine->stats().requests_cancelled, 1U);
  EXPECT_TRUE(engine->idle());
}

TEST(Cancel, a_request_that_waits_ends_once_without_a_token) {
  TestEngine engine("mixtral", {"engine.batch_size=1"});
  ASSERT_TRUE(engine.ok());
  Record running, waiting, unseen;
  ASSERT_TRUE(engine->submit(request(0, 0), &running).ok());
  const auto id = engine->submit(request(1, 0), &waiting);
  ASSERT_TRUE(id.ok());
  engine->step();
  ASSERT_EQ(engine->stats().n_waiting, 1);
  const auto early = engine->submit(request(2, 0), &unseen);  // cancelled before any step has seen it
  ASSERT_TRUE(early.ok());
  engine->cancel(*early);
  engine->cancel(*id);
  engine->step();
  engine.run();
  for (const Record* r : {&waiting, &unseen}) {
    EXPECT_EQ(r->n_ends, 1);
    EXPECT_EQ(r->reason, FinishReason::kCancelled);
    EXPECT_TRUE(r->tokens.empty());
  }
  EXPECT_EQ(running.reason, FinishReason::kLength);
}

TEST(Queue, a_full_queue_says_resource_exhausted_at_once_and_harms_nobody) {
  constexpr size_t kRoom = 2 + 3;
  TestEngine engine("mixtral", {"engine.batch_size=2", "engine.queue=3"});
  ASSERT_TRUE(engine.ok());
  std::vector<Record> records(kRoom);
  for (size_t i = 0; i < kRoom; ++i)
    ASSERT_TRUE(engine->submit(request(static_cast<int32_t>(i), 0), &records[i]).ok()) << i;
  Record refused;
  const auto full = engine->submit(request(99, 0), &refused);
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.error().code, MOE_RESOURCE_EXHAUSTED);
  engine->step();
  EXPECT_EQ(engine->submit(request(99, 0), &refused).error().code, MOE_RESOURCE_EXHAUSTED);
  engine.run();
  EXPECT_EQ(refused.n_ends, 0);
  for (const auto& r : records) EXPECT_EQ(r.reason, FinishReason::kLength);
  EXPECT_TRUE(engine->submit(request(99, 0), &refused).ok());
  engine.run();
  EXPECT_EQ(refused.n_ends, 1);
}

TEST(Deadline, a_request_past_its_deadline_fails_with_deadline_exceeded_and_its_neighbour_goes_on) {
  TestEngine engine("mixtral");
  ASSERT_TRUE(engine.ok());
  Record late, other, in_time;
  Request r = request(0, 0);
  r.deadline = std::chrono::steady_clock::now() - std::chrono::milliseconds(1);
  ASSERT_TRUE(engine->submit(std::move(r), &late).ok());
  ASSERT_TRUE(engine->submit(request(1, 0), &other).ok());
  Request soon = request(2, 0);
  soon.deadline = std::chrono::steady_clock::now() + std::chrono::hours(1);
  ASSERT_TRUE(engine->submit(std::move(soon), &in_time).ok());
  engine.run();
  EXPECT_EQ(late.n_ends, 1);
  EXPECT_EQ(late.reason, FinishReason::kFailed);
  ASSERT_TRUE(late.error.has_value());
  EXPECT_EQ(late.error->code, MOE_DEADLINE_EXCEEDED);
  EXPECT_TRUE(late.tokens.empty());
  EXPECT_EQ(other.reason, FinishReason::kLength);
  EXPECT_EQ(in_time.reason, FinishReason::kLength);
}

TEST(Deadline, one_that_would_pass_in_the_queue_is_refused_at_once) {
  TestEngine engine("mixtral", {"engine.batch_size=1"});
  ASSERT_TRUE(engine.ok());
  std::vector<Record> records(6);
  ASSERT_TRUE(engine->submit(request(0, 0), &records[0]).ok());  // tells how long one takes
  engine.run();
  for (size_t i = 1; i < 5; ++i) ASSERT_TRUE(engine->submit(request(static_cast<int32_t>(i), 0), &records[i]).ok());
  engine->step();
  Record refused;
  Request hasty = request(9, 0);
  hasty.deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
  const auto no = engine->submit(std::move(hasty), &refused);
  ASSERT_FALSE(no.ok());
  EXPECT_EQ(no.error().code, MOE_RESOURCE_EXHAUSTED);
  EXPECT_NE(no.error().message.find("deadline"), std::string::npos);
  Request patient = request(5, 0);
  patient.deadline = std::chrono::steady_clock::now() + std::chrono::hours(1);
  EXPECT_TRUE(engine->submit(std::move(patient), &records[5]).ok());
  engine.run();
  for (const auto& r : records) EXPECT_EQ(r.reason, FinishReason::kLength);
  EXPECT_EQ(refused.n_ends, 0);
}

TEST(Priority, the_higher_goes_first_where_requests_wait) {
  TestEngine engine("mixtral", {"engine.batch_size=1"});
  ASSERT_TRUE(engine.ok());
  std::array<Record, 4> records;
  const std::array<int32_t, 4> priorities = {0, 0, 5, -1};
  for (size_t i = 0; i < records.size(); ++i) {
    Request r = request(static_cast<int32_t>(i), 0);
    r.priority = priorities[i];
    ASSERT_TRUE(engine->submit(std::move(r), &records[i]).ok());
    if (i == 0) engine->step();  // it runs already
  }
  std::vector<size_t> order;
  while (engine->step()) {
    for (size_t i = 0; i < records.size(); ++i) {
      if (records[i].n_ends == 1 && std::find(order.begin(), order.end(), i) == order.end()) order.push_back(i);
    }
  }
  EXPECT_EQ(order, (std::vector<size_t>{0, 2, 1, 3}));
}

TEST(Faults, not_a_number_fails_its_request_and_its_neighbours_are_bit_for_bit_the_same) {
  const std::vector<std::string> chain = {R"(sampler=[{plugin="poison"}, {plugin="temperature"}, {plugin="pick"}])"};
  const auto run = [&](bool poisoned) {
    TestEngine engine("mixtral", chain);
    std::vector<Record> records(8);
    for (size_t i = 0; i < records.size(); ++i) {
      Request r = request(static_cast<int32_t>(i), 1.0);
      if (poisoned && i % 3 == 1) r.sampling.push_back({"poison", static_cast<int64_t>(3 * i)});
      EXPECT_TRUE(engine->submit(std::move(r), &records[i]).ok());
    }
    engine.run();
    EXPECT_EQ(engine->stats().cache_pages_used, 0);
    return records;
  };
  const auto healthy = run(false);
  const auto poisoned = run(true);
  for (size_t i = 0; i < healthy.size(); ++i) {
    if (i % 3 != 1) {
      EXPECT_EQ(poisoned[i].tokens, healthy[i].tokens) << i;
      continue;
    }
    EXPECT_EQ(poisoned[i].n_ends, 1);
    EXPECT_EQ(poisoned[i].reason, FinishReason::kFailed);
    ASSERT_TRUE(poisoned[i].error.has_value());
    EXPECT_NE(poisoned[i].error->message.find("NaN"), std::string::npos) << poisoned[i].error->message;
    const std::vector<int32_t> before(healthy[i].tokens.begin(),
                                      healthy[i].tokens.begin() + static_cast<std::ptrdiff_t>(3 * i));
    EXPECT_EQ(poisoned[i].tokens, before) << "what came before it is right";
  }
}

TEST(Threaded, every_request_ends_once_when_many_threads_submit_and_cancel) {
  constexpr int32_t kThreads = 4;
  constexpr int32_t kEach = 6;
  TestEngine engine("mixtral", {"engine.batch_size=4"});
  ASSERT_TRUE(engine.ok());
  std::vector<Record> records(static_cast<size_t>(kThreads * kEach));
  engine->start();
  std::vector<std::thread> threads;
  for (int32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int32_t i = 0; i < kEach; ++i) {
        const auto id = engine->submit(request(t * kEach + i, 0), &records[static_cast<size_t>(t * kEach + i)]);
        EXPECT_TRUE(id.ok());
        if (id.ok() && i % 2 == 1) engine->cancel(*id);
      }
    });
  }
  for (auto& t : threads) t.join();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!engine->idle() && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  engine->stop();
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i].n_ends, 1) << i;
    EXPECT_FALSE(records[i].token_after_end) << i;
    const bool left_alone = i % kEach % 2 == 0;
    EXPECT_TRUE(!left_alone || records[i].reason == FinishReason::kLength) << i;
  }
}

TEST(Refused, a_wrong_request_is_refused_with_what_is_wrong) {
  TestEngine engine("mixtral");
  ASSERT_TRUE(engine.ok());
  Record sink;
  Request empty = request(0, 0);
  empty.prompt.clear();
  Request outside = request(0, 0);
  outside.prompt[3] = 320;
  Request longer = request(0, 0, 600);
  Request unknown = request(0, 0);
  unknown.sampling.push_back({"temprature", 1.0});
  for (const auto& [wrong, part] :
       {std::pair{empty, "got none"}, {outside, "320"}, {longer, "600"}, {unknown, "temperature"}}) {
    const auto result = engine->submit(wrong, &sink);
    ASSERT_FALSE(result.ok()) << part;
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  }
  EXPECT_FALSE(engine->step());
  EXPECT_EQ(sink.n_ends, 0);
}

// Counts what the engine asks of a model.
class CountedModel final : public Model {
 public:
  struct Calls {
    int whole = 0;
    int largest = 0;
    bool broken = false;  // every row
  };
  CountedModel(std::shared_ptr<Model> model, Calls& calls) : model_(std::move(model)), calls_(calls) {
    spec_ = model_->spec();
    limits_ = model_->limits();
    context_ = model_->context();
    n_moe_layers_ = model_->n_moe_layers();
    max_logit_rows_ = model_->max_logit_rows();
    layers_ = model_->layers();
  }
  moe::Result<float*> forward(const Batch& batch) override {
    ++calls_.whole;
    return model_->forward(batch);
  }
  moe::Result<const int32_t*> forward_to_largest(const Batch& batch) override {
    ++calls_.largest;
    MOE_ASSIGN(const int32_t* found, model_->forward_to_largest(batch));
    largest_.assign(found, found + batch.logit_rows.size());
    if (calls_.broken) std::fill(largest_.begin(), largest_.end(), -1);
    return largest_.data();
  }
  PlanView plan(int64_t moe_layer) override { return model_->plan(moe_layer); }
  moe::Result<std::span<const float>> plan_weights(int64_t moe_layer) override {
    return model_->plan_weights(moe_layer);
  }
  std::vector<Device*> devices() override { return model_->devices(); }

 private:
  std::shared_ptr<Model> model_;
  Calls& calls_;
  std::vector<int32_t> largest_;
};

class LargestLogits : public ::testing::Test {
 protected:
  static TestEngine::Wrap counted(CountedModel::Calls& calls) {
    return [&calls](std::shared_ptr<Model> model) { return std::make_shared<CountedModel>(std::move(model), calls); };
  }
  // What becomes of requests that start together.
  static std::vector<Record> run(const std::vector<Request>& requests, const TestEngine::Wrap& wrap) {
    std::vector<Record> records(requests.size());
    TestEngine engine("olmoe", {}, wrap);
    if (!engine.ok()) return records;
    for (size_t i = 0; i < requests.size(); ++i) EXPECT_TRUE(engine->submit(requests[i], &records[i]).ok());
    engine.run();
    return records;
  }
};

TEST_F(LargestLogits, are_the_backends_to_find_while_every_request_takes_them) {
  std::vector<Request> requests = {request(0, 0.0), request(1, 0.0, 7)};
  CountedModel::Calls calls;
  const auto records = run(requests, counted(calls));
  EXPECT_EQ(calls.whole, 0);
  EXPECT_GE(calls.largest, kGenerated);
  for (Request& r : requests) r.top_logprobs = 0;  // then the samplers choose
  const auto want = run(requests, {});
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(records[i].tokens.size(), static_cast<size_t>(kGenerated));
    EXPECT_EQ(records[i].tokens, want[i].tokens) << i;
  }
}

TEST_F(LargestLogits, are_not_enough_where_anybody_draws_or_wants_probabilities) {
  Request with_probabilities = request(1, 0.0);
  with_probabilities.top_logprobs = 2;
  for (const Request& other : {request(1, 0.8), with_probabilities}) {
    CountedModel::Calls calls;
    const auto records = run({request(0, 0.0), other}, counted(calls));
    EXPECT_EQ(calls.largest, 0);
    EXPECT_GE(calls.whole, kGenerated);
    EXPECT_EQ(records[0].tokens, run({request(0, 0.0)}, {})[0].tokens);
    EXPECT_EQ(records[1].tokens, run({other}, {})[0].tokens);
  }
}

TEST_F(LargestLogits, of_which_none_may_be_chosen_fail_their_request) {
  CountedModel::Calls calls;
  calls.broken = true;
  const auto records = run({request(0, 0.0)}, counted(calls));
  EXPECT_EQ(records[0].n_ends, 1);
  EXPECT_EQ(records[0].reason, FinishReason::kFailed);
  ASSERT_TRUE(records[0].error);
  EXPECT_NE(records[0].error->message.find("expected finite numbers"), std::string::npos) << records[0].error->message;
}

}  // namespace
}  // namespace patchbay::e2e
