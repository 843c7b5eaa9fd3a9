// An old plugin in a newer host, and a new one in an older host: what both know works, and what one does not know is
// refused by name. This file is built twice, from the headers of both versions, each with a host's loading code of that
// version.
#include <gtest/gtest.h>

#include "core/plugin/library.hpp"
#include "core/plugin/options.hpp"
#include "moe/sdk/growth.hpp"
#include "moe/sdk/router.hpp"
#include "tests/e2e/program.hpp"
#include "tools/conformance/check_host.hpp"

namespace patchbay {
namespace {

constexpr bool kNewHost = MOE_ABI_MINOR >= 1;

struct Plugin {
  const char* name;
  const char* file;
  bool is_new;
};
void PrintTo(const Plugin& p, std::ostream* out) { *out << p.name; }  // not its addresses, which ctest would print

class Versions : public ::testing::TestWithParam<Plugin> {
 protected:
  void SetUp() override {
#if MOE_ABI_MINOR >= 1
    host_ = *kit_.get();
    host_.struct_size = sizeof(host_);
    host_.next_service = [](void*) { return int64_t{3}; };
#else
    host_ = *kit_.get();
#endif
    auto loaded = Library::load(GetParam().file, &host_);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    library_ = std::move(loaded).value();
    const auto components = library_->components(MOE_ROUTER_ID);
    ASSERT_EQ(components.size(), 1U);
    table_ = reinterpret_cast<const moe_router*>(components[0]);
  }
  [[nodiscard]] bool both_new() const { return kNewHost && GetParam().is_new; }
  moe_router_config layer() {
    auto config = moe::make<moe_router_config>();
    config.n_layers = 1;
    config.n_experts = 4;
#if MOE_ABI_MINOR >= 1
    config.next_config = 5;
#endif
    return config;
  }

  conformance::CheckHost kit_{1};
  moe_host host_{};
  std::shared_ptr<Library> library_;
  const moe_router* table_ = nullptr;
  moe::MessageBuffer message_;
};

TEST_P(Versions, its_options_are_read_whatever_the_size_of_their_rows) {
  auto given = check_options(table_->component, {{"weight", 0.25, ""}}, "versioned");
  ASSERT_TRUE(given.ok()) << given.error().message;
  ASSERT_EQ(given->size(), 3U);
  EXPECT_EQ(given->values()[0].value.i, 2);
  EXPECT_EQ(given->values()[1].value.f, 0.25);
  EXPECT_EQ(given->values()[2].value.i, 1);
  const auto wrong = check_options(table_->component, {{"wieght", 0.25, ""}}, "versioned");
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.error().message.find("did you mean \"weight\"?"), std::string::npos) << wrong.error().message;
}

TEST_P(Versions, what_both_know_works) {
  const auto options = check_options(table_->component, {}, "versioned");
  const auto config = layer();
  moe_router_instance* instance = nullptr;
  ASSERT_EQ(table_->create(&host_, &config, options->data(), options->size(), &instance, message_.get()), MOE_OK)
      << message_.text();
  auto spec = moe::make<moe_router_spec>();
  ASSERT_EQ(table_->describe(instance, &spec, message_.get()), MOE_OK) << message_.text();
  ASSERT_TRUE(moe::check_struct(&spec, "spec").ok());
  EXPECT_EQ(spec.k_max, 2);
  EXPECT_EQ(spec.n_logits, 4);
  ASSERT_EQ(spec.n_weights, 2U);
  EXPECT_STREQ(moe::nth(spec.weights, 1).role, "second");
  const float values[2][4] = {{0, 0.125F, 0, 0}, {0, 0.25F, 0, 0}};
  const moe_bound_weight bound[2] = {{"first", nullptr, values[0]}, {"second", nullptr, values[1]}};
  auto compute = moe::make<moe_compute>();
  uint64_t workspace = 1;
  ASSERT_EQ(table_->prepare(instance, &compute, bound, 2, 1, &workspace, message_.get()), MOE_OK) << message_.text();
  float logits[4] = {1, 2, 3, 4};
  int32_t zero[1] = {0};
  int32_t ids[2] = {-1, -1};
  float weights[2] = {};
  int32_t count[1] = {};
  auto args = moe::make<moe_route_args>();
  args.n_tokens = 1;
  args.logits = moe::tensor(logits, {1, 4});
  args.token_ids = args.positions = args.sequences = moe::tensor(zero, {1});
  args.plan.ids = moe::tensor(ids, {1, 2});
  args.plan.weights = moe::tensor(weights, {1, 2});
  args.plan.count = moe::tensor(count, {1});
#if MOE_ABI_MINOR >= 1
  args.next_args = 2;
#endif
  ASSERT_EQ(table_->route(instance, &args, message_.get()), MOE_OK) << message_.text();
  EXPECT_EQ(ids[0], 0);
  EXPECT_EQ(ids[1], 1);
  EXPECT_EQ(weights[1], 0.5F);
  // The logit, the weights, and, where both sides are new, what both of them know: 100 * 5 + 10000 * 3 + 1000 * 2.
  EXPECT_EQ(weights[0], 1.375F + (both_new() ? 32500.0F : 0.0F));
  table_->destroy(instance);
}

TEST_P(Versions, what_one_side_does_not_know_is_refused_by_name) {
  const auto options = check_options(table_->component, {}, "versioned");
  auto config = layer();
  config.must_understand = 1;  // of a later version
  moe_router_instance* instance = nullptr;
  EXPECT_EQ(table_->create(&host_, &config, options->data(), options->size(), &instance, message_.get()),
            MOE_UNIMPLEMENTED);
  EXPECT_NE(message_.text().find("config: asks for something unknown"), std::string::npos) << message_.text();
  EXPECT_EQ(instance, nullptr);
}

const auto kPlugins =
    ::testing::Values(Plugin{"old_plugin", OLD_PLUGIN, false}, Plugin{"new_plugin", NEW_PLUGIN, true});
const auto kByName = [](const auto& test) { return std::string(test.param.name); };
#if MOE_ABI_MINOR >= 1
INSTANTIATE_TEST_SUITE_P(NewHost, Versions, kPlugins, kByName);
#else
INSTANTIATE_TEST_SUITE_P(OldHost, Versions, kPlugins, kByName);

// The program, which is an old host, and a model's layers of the shape that the plugin wants are another matter: it is
// found and described.
TEST(OldProgram, lists_and_checks_a_new_plugin) {
  const auto inspected =
      e2e::run_program({"plugins", "inspect", "versioned", "--set", "plugins.paths=[\"" VERSIONS "/new\"]"});
  EXPECT_EQ(inspected.exit_code, 0) << inspected.err;
  EXPECT_NE(inspected.out.find("1.1"), std::string::npos) << inspected.out;
  for (const char* key : {"k = 2", "weight = 0.5", "flag = true"})
    EXPECT_NE(inspected.out.find(key), std::string::npos) << inspected.out;
}

TEST(OldProgram, refuses_by_name_a_plugin_that_cannot_do_without_the_next_version) {
  const auto listed = e2e::run_program({"plugins", "list", "--set", "plugins.paths=[\"" VERSIONS "/needs\"]"});
  EXPECT_EQ(listed.exit_code, 0) << listed.err;
  EXPECT_NE(
      listed.out.find(
          "needs_next.so: ABI: expected a plugin for hosts from 1.0 to 1.0, got one that needs 1.1 (versioned 1.0.0)"),
      std::string::npos)
      << listed.out;
}
#endif

}  // namespace
}  // namespace patchbay
