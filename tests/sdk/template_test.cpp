// The templates do what their first lines say, and what they may be compared with does too.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmath>
#include <mutex>

#include "moe/abi/sampler.h"
#include "moe/abi/transport.h"
#include "tests/support/test_expert.hpp"

namespace {

namespace test = patchbay::test;

std::filesystem::path template_file(const std::string& kind) {
  return std::filesystem::path(TEMPLATES) / ("my_" + kind + ".so");
}

template <typename T>
patchbay::Component<T> load(const char* id, const std::string& kind) {
  return test::load<T>(template_file(kind), id, "my_" + kind);
}

class EveryTemplate : public testing::TestWithParam<patchbay::Kind> {};

TEST_P(EveryTemplate, has_one_component_with_a_sound_table) {
  const auto library = patchbay::Library::load(template_file(GetParam().word), test::host().abi());
  ASSERT_TRUE(library.ok()) << library.error().message;
  const auto components = (*library)->components(GetParam().id);
  ASSERT_EQ(components.size(), 1U);
  EXPECT_EQ(components[0]->name, "my_" + std::string(GetParam().word));
  const auto sound = patchbay::check_option_table(*components[0]);
  EXPECT_TRUE(sound.ok()) << sound.error().message;
}

INSTANTIATE_TEST_SUITE_P(Sdk, EveryTemplate, testing::ValuesIn(patchbay::kKinds),
                         [](const auto& each) { return each.param.word; });

std::vector<float> some_logits(size_t n) {
  std::vector<float> logits(n);
  for (size_t i = 0; i < n; ++i) logits[i] = 3.0F * static_cast<float>(std::sin(1.7 * static_cast<double>(i * i)));
  return logits;
}

moe_router_config router_layer() {
  auto config = moe::make<moe_router_config>();
  config.n_experts = 8;
  return config;
}

TEST(RouterTemplate, chooses_as_topk_does) {
  test::Compute compute;
  const auto logits = some_logits(8 * 20);
  const std::vector<patchbay::GivenOption> k = {{"k", int64_t{3}, ""}};
  auto mine = test::TestRouter::create(compute, load<moe_router>(MOE_ROUTER_ID, "router"), router_layer(), k).value();
  EXPECT_NE(mine->spec().inputs & static_cast<uint32_t>(MOE_INPUT_HOST), 0U);
  const auto got = mine->route(logits);
  const auto want = test::TestRouter::create(compute, "topk", router_layer(), k).value()->route(logits);
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->ids, want->ids);
  for (size_t i = 0; i < got->weights.size(); ++i) EXPECT_NEAR(got->weights[i], want->weights[i], 1e-6);
  const auto too_many = test::TestRouter::create(compute, load<moe_router>(MOE_ROUTER_ID, "router"), router_layer(),
                                                 {{"k", int64_t{9}, ""}});
  EXPECT_FALSE(too_many.ok());
}

moe_expert_config expert_layer() {
  auto config = moe::make<moe_expert_config>();
  config.d_model = 20;
  config.n_experts = config.n_local_experts = 4;
  config.k_max = 2;
  config.d_expert = 12;
  config.activation = MOE_F32;
  return config;
}

std::vector<float> forward(test::Compute& compute, patchbay::Component<moe_expert> table) {
  auto expert = test::TestExpert::create(compute, std::move(table), expert_layer(), {});
  if (!expert.ok()) throw std::runtime_error(expert.error().message);
  return (*expert)->forward((*expert)->random_input(9, 4));
}

TEST(ExpertTemplate, computes_as_swiglu_does) {
  test::Compute compute;
  const auto want =
      forward(compute, test::load<moe_expert>(test::plugin_file("expert_swiglu"), MOE_EXPERT_ID, "swiglu"));
  EXPECT_EQ(forward(compute, load<moe_expert>(MOE_EXPERT_ID, "expert")), want);
}

TEST(BackendTemplate, computes_as_reference_does) {
  test::Compute reference;
  test::Compute mine(template_file("backend"), "my_backend");
  EXPECT_EQ(forward(mine, load<moe_expert>(MOE_EXPERT_ID, "expert")),
            forward(reference, load<moe_expert>(MOE_EXPERT_ID, "expert")));
}

TEST(SamplerTemplate, takes_out_a_token_that_came_too_often_in_a_row) {
  const auto link = load<moe_sampler>(MOE_SAMPLER_ID, "sampler");
  const auto options = patchbay::check_options(link.header(), {{"times", int64_t{3}, ""}}, "my_sampler").value();
  moe_sampler_state* state = nullptr;
  ASSERT_EQ(link->create(options.data(), options.size(), 5, &state, nullptr), MOE_OK);
  const auto is_removed = [&](std::vector<int32_t> history, int64_t n_prompt) {
    float logits[5] = {1, 2, 3, 4, 5};
    moe_sample_row row{};
    row.state = state;
    row.logits = logits;
    row.history = history.data();
    row.n_history = static_cast<int64_t>(history.size());
    row.n_prompt = n_prompt;
    row.picked = -1;
    auto args = moe::make<moe_sample_args>();
    args.n_rows = 1;
    args.n_vocab = 5;
    args.rows = &row;
    EXPECT_EQ(link->apply(&args, nullptr), MOE_OK);
    return std::isinf(logits[2]);
  };
  EXPECT_FALSE(is_removed({}, 0));
  EXPECT_FALSE(is_removed({2, 2}, 0));
  EXPECT_TRUE(is_removed({2, 2, 2}, 0));
  EXPECT_FALSE(is_removed({2, 2, 2}, 1));
  EXPECT_TRUE(is_removed({1, 2, 2, 2}, 1));
  EXPECT_FALSE(is_removed({2, 2, 1, 2}, 0));
  link->destroy(state);
}

// A service that sends every message back, and counts how often a reader was full.
class Echo {
 public:
  Echo() : service_(moe::make<moe_service>()) {
    service_.self = this;
    service_.open = [](void* self, const moe_sink* sink, uint64_t* connection, moe_message*) -> moe_status {
      static_cast<Echo*>(self)->sink_ = *sink;
      *connection = 1;
      return MOE_OK;
    };
    service_.submit = [](void* self, uint64_t, const void* message, uint64_t n_bytes, moe_message*) -> moe_status {
      auto* echo = static_cast<Echo*>(self);
      return echo->sink_.deliver(echo->sink_.context, message, n_bytes);
    };
    service_.resume = [](void*, uint64_t) {};
    service_.close = [](void* self, uint64_t) { ++static_cast<Echo*>(self)->n_closed; };
  }
  const moe_service* get() { return &service_; }
  int n_closed = 0;

 private:
  moe_service service_;
  moe_sink sink_{};
};

class TransportTemplate : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "patchbay_template_" + std::to_string(getpid()) + ".sock";
    const auto options = patchbay::check_options(table_.header(), {{"path", path_, ""}}, "my_transport").value();
    ASSERT_EQ(table_->create(test::host().abi(), options.data(), options.size(), &instance_, nullptr), MOE_OK);
    ASSERT_EQ(table_->start(instance_, echo_.get(), message_.get()), MOE_OK) << message_.text();
  }
  void TearDown() override { table_->destroy(instance_); }

  [[nodiscard]] int connect_client() const {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::copy(path_.begin(), path_.end(), address.sun_path);
    EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  static std::string framed(const std::string& body) {
    const auto n = static_cast<uint32_t>(body.size());
    return std::string(reinterpret_cast<const char*>(&n), sizeof(n)) + body;
  }
  static std::string receive(int fd, size_t n) {
    std::string got(n, '\0');
    return recv(fd, got.data(), n, MSG_WAITALL) == static_cast<ssize_t>(n) ? got : "";
  }

  patchbay::Component<moe_transport> table_ = load<moe_transport>(MOE_TRANSPORT_ID, "transport");
  moe_transport_instance* instance_ = nullptr;
  moe::MessageBuffer message_;
  Echo echo_;
  std::string path_;
};

TEST_F(TransportTemplate, carries_messages_both_ways_for_one_client_after_the_other) {
  EXPECT_EQ(table_->address(instance_), "unix://" + path_);
  for (int client = 0; client < 2; ++client) {
    const int fd = connect_client();
    const std::string sent = framed("one") + framed("") + framed(std::string(100000, 'x'));
    ASSERT_EQ(send(fd, sent.data(), sent.size(), 0), static_cast<ssize_t>(sent.size()));
    EXPECT_EQ(receive(fd, sent.size()), sent);
    close(fd);
  }
  table_->stop(instance_, 100);
  EXPECT_EQ(echo_.n_closed, 2);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(TransportTemplate, hangs_up_on_a_length_beyond_the_limit) {
  const int fd = connect_client();
  const std::string sent = "\xff\xff\xff\xff";
  ASSERT_EQ(send(fd, sent.data(), sent.size(), 0), 4);
  EXPECT_EQ(receive(fd, 1), "");
  close(fd);
  table_->stop(instance_, 100);
}

TEST_F(TransportTemplate, stops_while_a_client_is_connected) {
  const int fd = connect_client();
  const std::string sent = framed("x");
  ASSERT_EQ(send(fd, sent.data(), sent.size(), 0), 5);
  EXPECT_EQ(receive(fd, 5), sent);
  table_->stop(instance_, 100);
  EXPECT_EQ(echo_.n_closed, 1);
  close(fd);
}

TEST_F(TransportTemplate, says_why_it_cannot_listen) {
  const auto options = patchbay::check_options(table_.header(), {{"path", path_, ""}}, "my_transport").value();
  moe_transport_instance* second = nullptr;
  ASSERT_EQ(table_->create(test::host().abi(), options.data(), options.size(), &second, nullptr), MOE_OK);
  EXPECT_EQ(table_->start(second, echo_.get(), message_.get()), MOE_UNAVAILABLE);
  EXPECT_EQ(message_.text(), path_ + ": could not listen: Address already in use");
  table_->destroy(second);
  table_->stop(instance_, 100);
}

}  // namespace
