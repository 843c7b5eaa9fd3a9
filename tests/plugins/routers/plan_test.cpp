// What holds for every plan whatever the logits are, and what options are refused with which words.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>

#include "tests/support/test_compute.hpp"

namespace {

namespace test = patchbay::test;

using Options = std::vector<patchbay::GivenOption>;

moe_router_config layer(int64_t n_experts, int64_t n_zero_experts = 0) {
  auto config = moe::make<moe_router_config>();
  config.n_layers = 1;
  config.n_experts = n_experts;
  config.n_zero_experts = n_zero_experts;
  return config;
}

patchbay::GivenOption text(const char* key, const char* value) { return {key, std::string(value), ""}; }
patchbay::GivenOption number(const char* key, int64_t value) { return {key, value, ""}; }
patchbay::GivenOption real(const char* key, double value) { return {key, value, ""}; }
patchbay::GivenOption on(const char* key) { return {key, true, ""}; }

struct Case {
  const char* name;
  const char* plugin;
  Options options;
  bool sums_to_one;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// 16 experts everywhere.
std::vector<Case> cases() {
  return {
      {"softmax", "topk", {number("k", 4)}, true},
      {"as_is", "topk", {number("k", 4), text("renorm", "none")}, false},
      {"sigmoid", "topk", {number("k", 4), text("score", "sigmoid"), on("bias")}, true},
      {"sqrt_softplus", "topk", {number("k", 4), text("score", "sqrt_softplus")}, true},
      {"softmax_chosen", "topk", {number("k", 4), text("score", "softmax_chosen")}, true},
      {"sparse_mixer", "topk", {number("k", 4), text("score", "sparse_mixer"), real("sparse_eps", 0.2)}, false},
      {"ratio", "topk", {number("k", 6), text("dynamic", "ratio"), real("threshold", 0.5)}, true},
      {"ratio_with_bias", "topk", {number("k", 6), on("bias"), text("dynamic", "ratio"), real("threshold", 0.5)}, true},
      {"top_p", "topk", {number("k", 6), text("dynamic", "top_p"), real("threshold", 0.6), number("k_min", 2)}, true},
      {"grouped", "grouped", {number("k", 4), number("groups", 4), number("top_groups", 2)}, true},
      {"grouped_zero",
       "grouped",
       {number("k", 4), number("groups", 4), number("top_groups", 2), on("bias"), text("fill", "zero")},
       true},
      {"grouped_top_p",
       "grouped",
       {number("k", 4), number("groups", 4), number("top_groups", 2), text("score", "softmax"),
        text("dynamic", "top_p")},
       true},
      {"derived", "hierarchical", {number("k", 4)}, true},
      {"trained", "hierarchical", {number("k", 4), text("gate", "trained")}, false},
      {"expert_attention", "expert_attention", {number("k", 4)}, true},
  };
}

class PlanOf : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    std::vector<float> bias(16);
    for (size_t e = 0; e < bias.size(); ++e) bias[e] = 0.05F * static_cast<float>(e % 5) - 0.6F;
    auto made = test::TestRouter::create(compute_, GetParam().plugin, layer(16), GetParam().options, bias, 512);
    ASSERT_TRUE(made.ok()) << made.error().message;
    router_ = std::move(made).value();
  }
  [[nodiscard]] std::vector<float> random_logits(int64_t n, uint32_t seed, float spread) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0F, 1.0F);
    std::vector<float> logits(static_cast<size_t>(n * router_->spec().n_logits));
    for (float& l : logits) l = spread * normal(random);
    return logits;
  }

  test::Compute compute_;
  std::unique_ptr<test::TestRouter> router_;
};

TEST_P(PlanOf, ids_are_distinct_and_legal_and_weights_finite) {
  const int64_t k = router_->spec().k_max;
  for (const float spread : {0.0F, 0.01F, 1.0F, 30.0F, 500.0F}) {
    const auto plan = router_->route(random_logits(300, 7, spread));
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    for (size_t i = 0; i < 300; ++i) {
      const int32_t count = plan->count[i];
      ASSERT_GE(count, 1);
      ASSERT_LE(count, k);
      std::set<int32_t> seen;
      double sum = 0.0;
      for (int32_t j = 0; j < k; ++j) {
        const int32_t id = plan->ids[i * static_cast<size_t>(k) + static_cast<size_t>(j)];
        const float weight = plan->weights[i * static_cast<size_t>(k) + static_cast<size_t>(j)];
        ASSERT_TRUE(id >= 0 && id < 16) << id;
        ASSERT_TRUE(std::isfinite(weight)) << "spread " << spread << ", token " << i;
        if (j < count) {
          ASSERT_TRUE(seen.insert(id).second) << "twice: " << id;
        } else {
          ASSERT_EQ(weight, 0.0F);
        }
        sum += weight;
      }
      // With every score an underflow the sum has nothing to work with; up to a spread of 30 there is always one.
      if (GetParam().sums_to_one && spread <= 30.0F && !(std::fabs(sum - 1.0) <= 1e-5))
        FAIL() << "sum " << sum << ", spread " << spread;
    }
  }
}

TEST_P(PlanOf, a_row_does_not_depend_on_its_neighbours) {
  const auto logits = random_logits(37, 11, 2.0F);
  const auto width = static_cast<size_t>(router_->spec().n_logits);
  const auto k = static_cast<size_t>(router_->spec().k_max);
  const auto all = router_->route(logits);
  ASSERT_TRUE(all.ok()) << all.error().message;
  for (size_t i = 0; i < 37; ++i) {
    const auto alone = router_->route(
        {logits.begin() + static_cast<int64_t>(i * width), logits.begin() + static_cast<int64_t>((i + 1) * width)});
    ASSERT_TRUE(alone.ok());
    EXPECT_TRUE(std::equal(alone->ids.begin(), alone->ids.end(), all->ids.begin() + static_cast<int64_t>(i * k)));
    EXPECT_TRUE(
        std::equal(alone->weights.begin(), alone->weights.end(), all->weights.begin() + static_cast<int64_t>(i * k)));
    EXPECT_EQ(alone->count[0], all->count[i]);
  }
}

class TieOf : public PlanOf {};  // where no bias breaks it

TEST_P(TieOf, equal_logits_go_to_the_lower_ids) {
  const auto plan = router_->route(random_logits(1, 3, 0.0F));
  ASSERT_TRUE(plan.ok());
  for (int32_t j = 0; j < plan->count[0]; ++j) EXPECT_EQ(plan->ids[static_cast<size_t>(j)], j);
}

TEST_P(PlanOf, a_nan_is_not_hidden_and_ids_stay_legal) {
  auto logits = random_logits(3, 5, 1.0F);
  logits[static_cast<size_t>(router_->spec().n_logits) + 6] = std::numeric_limits<float>::quiet_NaN();
  const auto plan = router_->route(logits);
  ASSERT_TRUE(plan.ok());
  const auto k = static_cast<size_t>(plan->k_max);
  for (const int32_t id : plan->ids) EXPECT_TRUE(id >= 0 && id < 16) << id;
  bool seen = false;
  for (size_t j = 0; j < k; ++j) {
    EXPECT_TRUE(std::isfinite(plan->weights[j]));
    EXPECT_TRUE(std::isfinite(plan->weights[2 * k + j]));
    seen = seen || std::isnan(plan->weights[k + j]);
  }
  EXPECT_TRUE(seen);
}

// A host may run that operation in the place of route().
TEST_P(PlanOf, is_that_of_the_operation_that_the_router_names) {
  if (router_->op_extension() == nullptr) {
    EXPECT_STREQ(GetParam().plugin, "expert_attention");  // the only one here that decides on the host
    return;
  }
  auto logits = random_logits(50, 13, 2.0F);
  logits[6] = std::numeric_limits<float>::quiet_NaN();
  const auto plan = router_->route(logits);
  const auto by_op = router_->route_by_op(compute_, logits);
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  ASSERT_TRUE(by_op.ok()) << by_op.error().message;
  EXPECT_EQ(by_op->ids, plan->ids);
  EXPECT_EQ(by_op->count, plan->count);
  EXPECT_EQ(std::memcmp(by_op->weights.data(), plan->weights.data(), plan->weights.size() * sizeof(float)), 0);
}

TEST_P(PlanOf, no_tokens_are_no_error) { EXPECT_TRUE(router_->route({}).ok()); }

std::vector<Case> unbiased_cases() {
  std::vector<Case> all = cases();
  std::erase_if(all, [](const Case& c) {
    return std::any_of(c.options.begin(), c.options.end(), [](const auto& given) { return given.key == "bias"; });
  });
  return all;
}

INSTANTIATE_TEST_SUITE_P(Routers, TieOf, testing::ValuesIn(unbiased_cases()),
                         [](const auto& each) { return each.param.name; });
INSTANTIATE_TEST_SUITE_P(Routers, PlanOf, testing::ValuesIn(cases()), [](const auto& each) { return each.param.name; });

// --- what a router declares
// --------------------------------------------------------------------------------------------------

TEST(RouterSpec, declares_what_the_options_need) {
  test::Compute compute;
  const std::vector<float> bias(24, 0.0F);
  auto plain = test::TestRouter::create(compute, "topk", layer(16), {number("k", 3)}).value();
  EXPECT_EQ(plain->spec().n_weights, 0U);
  EXPECT_EQ(plain->spec().n_logits, 16);
  EXPECT_EQ(plain->spec().k_max, 3);
  EXPECT_EQ(plain->spec().dynamic, 0);
  EXPECT_EQ(plain->spec().inputs, 0U);
  EXPECT_EQ(plain->spec().weight_on, MOE_WEIGHT_ON_OUTPUT);
  auto all = test::TestRouter::create(compute, "topk", layer(16, 8),
                                      {on("bias"), text("dynamic", "top_p"), text("weight_on", "input")}, bias)
                 .value();
  ASSERT_EQ(all->spec().n_weights, 1U);
  EXPECT_STREQ(all->spec().weights[0].role, "bias");
  EXPECT_EQ(all->spec().weights[0].n_out, 24);
  EXPECT_EQ(all->spec().weights[0].placement, MOE_PLACE_DEVICE);
  EXPECT_EQ(all->spec().n_logits, 24);
  EXPECT_EQ(all->spec().dynamic, 1);
  EXPECT_EQ(all->spec().weight_on, MOE_WEIGHT_ON_INPUT);
  auto trained = test::TestRouter::create(compute, "hierarchical", layer(16), {text("gate", "trained")}).value();
  EXPECT_EQ(trained->spec().n_logits, 20);
  auto derived = test::TestRouter::create(compute, "hierarchical", layer(16), {}).value();
  EXPECT_EQ(derived->spec().n_logits, 16);
}

// --- options that do not fit
// -----------------------------------------------------------------------------------------------

struct Refusal {
  const char* name;
  const char* plugin;
  int64_t n_experts;
  Options options;
  const char* message;
};

class Refused : public testing::TestWithParam<Refusal> {};

TEST_P(Refused, option_is_named_with_what_was_expected) {
  const Refusal& r = GetParam();
  test::Compute compute;
  const auto made = test::TestRouter::create(compute, r.plugin, layer(r.n_experts), r.options, std::vector<float>(64));
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, MOE_INVALID_ARGUMENT);
  EXPECT_EQ(made.error().message, r.message);
}

INSTANTIATE_TEST_SUITE_P(
    Routers, Refused,
    testing::Values(Refusal{"k", "topk", 8, {number("k", 9)}, "k: expected at most 8 (the layer's experts), got 9"},
                    Refusal{"k_min",
                            "topk",
                            8,
                            {number("k", 3), number("k_min", 4), text("dynamic", "ratio")},
                            "k_min: expected at most 3 (k), got 4"},
                    Refusal{"no_experts", "topk", 0, {}, "n_experts: expected at least 1 expert in the layer, got 0"},
                    Refusal{"sparse_bias",
                            "topk",
                            8,
                            {text("score", "sparse_mixer"), on("bias")},
                            "bias: expected false with score = \"sparse_mixer\", got true"},
                    Refusal{"sparse_dynamic",
                            "topk",
                            8,
                            {text("score", "sparse_mixer"), text("dynamic", "top_p")},
                            "dynamic: expected \"none\" with score = \"sparse_mixer\", got top_p"},
                    Refusal{"groups",
                            "grouped",
                            10,
                            {number("groups", 4)},
                            "groups: expected a divisor of 10 (the layer's experts), got 4"},
                    Refusal{"more_groups_than_experts",
                            "grouped",
                            4,
                            {number("groups", 8)},
                            "groups: expected a divisor of 4 (the layer's experts), got 8"},
                    Refusal{"top_groups",
                            "grouped",
                            8,
                            {number("groups", 4), number("top_groups", 5)},
                            "top_groups: expected at most 4 (groups), got 5"},
                    Refusal{"k_in_groups",
                            "grouped",
                            16,
                            {number("k", 5), number("groups", 4), number("top_groups", 1)},
                            "k: expected at most 4 (the experts of 1 groups), got 5"},
                    Refusal{"lone_top2",
                            "grouped",
                            8,
                            {number("groups", 8)},
                            "group_score: expected \"max\" where a group has one expert, got top2_sum"},
                    Refusal{"hierarchical_k",
                            "hierarchical",
                            16,
                            {number("k", 9)},
                            "k: expected at most 8 (the experts of 2 groups), got 9"}),
    [](const auto& each) { return each.param.name; });

TEST(Hash, table_of_a_checkpoint_names_different_experts_of_the_layer) {
  test::Compute compute("reference");
  auto config = layer(4);
  config.n_vocab = 2;
  const Options options = {number("k", 2), on("table")};
  const auto open = [&](const std::vector<float>& table) {
    return test::TestRouter::create(compute, "hash", config, options, table);
  };
  EXPECT_TRUE(open({0, 3, 2, 1}).ok());
  for (const auto& [table, message] :
       {std::pair{std::vector<float>{0, 1, 2, 4}, "table: token 1: expected an expert's id below 4, got 4.000000"},
        std::pair{std::vector<float>{0, 1.5, 2, 3}, "table: token 0: expected an expert's id below 4, got 1.500000"},
        std::pair{std::vector<float>{0, 1, 3, 3}, "table: token 1: expected different experts, got 3 twice"}}) {
    const auto router = open(table);
    ASSERT_FALSE(router.ok());
    EXPECT_NE(router.error().message.find(message), std::string::npos) << router.error().message;
  }
}

}  // namespace
