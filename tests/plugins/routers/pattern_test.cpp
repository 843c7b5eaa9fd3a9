// Test routers: the loads are those that each pattern promises, whatever the tokens are.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "tests/support/test_compute.hpp"

namespace {

namespace test = patchbay::test;
using Options = std::vector<patchbay::GivenOption>;
using Choices = std::vector<std::set<int32_t>>;

constexpr int64_t kExperts = 6;

moe_router_config layer(int64_t at = 0) {
  auto config = moe::make<moe_router_config>();
  config.layer = at;
  config.n_experts = kExperts;
  return config;
}

Options options(const char* pattern, int64_t k, Options more = {}) {
  more.push_back({"pattern", std::string(pattern), ""});
  more.push_back({"k", k, ""});
  return more;
}

class Pattern : public testing::Test {
 protected:
  // The experts of a call's tokens, which are at these positions.
  Choices route(const Options& given, const std::vector<int32_t>& positions, int64_t at = 0) {
    auto router = test::TestRouter::create(compute_, "pattern", layer(at), given);
    if (!router.ok()) throw std::runtime_error(router.error().message);
    EXPECT_EQ((*router)->spec().n_logits, 0);
    EXPECT_EQ((*router)->spec().n_weights, 0U);
    const auto plan = (*router)->route({}, positions);
    if (!plan.ok()) throw std::runtime_error(plan.error().message);
    Choices all;
    for (size_t i = 0; i < positions.size(); ++i) {
      const auto row = plan->ids.begin() + static_cast<int64_t>(i) * plan->k_max;
      all.emplace_back(row, row + plan->k_max);
      EXPECT_EQ(std::ssize(all.back()), plan->k_max) << "distinct";
      EXPECT_EQ(plan->count[i], plan->k_max);
      for (int64_t j = 0; j < plan->k_max; ++j)
        EXPECT_EQ(plan->weights[i * static_cast<size_t>(plan->k_max) + static_cast<size_t>(j)],
                  1.0F / static_cast<float>(plan->k_max));
    }
    return all;
  }
  static std::vector<int32_t> positions(size_t n, int32_t first = 0) {
    std::vector<int32_t> all(n);
    std::iota(all.begin(), all.end(), first);
    return all;
  }
  static std::vector<double> loads(const Choices& choices) {
    std::vector<double> load(kExperts);
    for (const auto& row : choices) {
      for (const int32_t e : row) ++load[static_cast<size_t>(e)];
    }
    return load;
  }
  // Loads of n tokens against the probability that a token has the expert: within five standard deviations.
  static void expect_loads(const std::vector<double>& load, const std::vector<double>& probability, double n) {
    for (size_t e = 0; e < load.size(); ++e) {
      const double p = probability[e];
      if (!(std::fabs(load[e] - n * p) <= 5 * std::sqrt(n * p * (1 - p))))
        ADD_FAILURE() << "expert " << e << ": " << load[e] << " for " << n * p;
    }
  }

  test::Compute compute_;
};

TEST_F(Pattern, uniform_gives_every_expert_the_same_load) {
  constexpr size_t kTokens = 20'000;
  expect_loads(loads(route(options("uniform", 2), positions(kTokens))), std::vector<double>(kExperts, 2.0 / kExperts),
               kTokens);
}

TEST_F(Pattern, zipf_gives_loads_that_fall_by_its_law) {
  constexpr size_t kTokens = 20'000;
  std::vector<double> p;  // of the first draw: e^-1.5
  for (int e = 1; e <= kExperts; ++e) p.push_back(1 / std::pow(e, 1.5));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  const Options one = options("zipf", 1, {{"exponent", 1.5, ""}});
  expect_loads(loads(route(one, positions(kTokens))), p, kTokens);
  std::vector<double> of_two = p;  // first, or second after another
  for (size_t e = 0; e < p.size(); ++e) {
    for (size_t first = 0; first < p.size(); ++first) of_two[e] += first == e ? 0 : p[first] * p[e] / (1 - p[first]);
  }
  const Options two = options("zipf", 2, {{"exponent", 1.5, ""}});
  expect_loads(loads(route(two, positions(kTokens))), of_two, kTokens);
}

TEST_F(Pattern, random_choices_are_a_function_of_seed_layer_and_position) {
  const auto of = [&](int64_t seed, int64_t at, const std::vector<int32_t>& where) {
    return route(options("uniform", 2, {{"seed", seed, ""}}), where, at);
  };
  const Choices whole = of(1, 0, positions(40));
  const Choices late = of(1, 0, positions(15, 25));
  EXPECT_TRUE(std::equal(late.begin(), late.end(), whole.begin() + 25)) << "in another batch";
  EXPECT_NE(of(2, 0, positions(40)), whole);
  EXPECT_NE(of(1, 1, positions(40)), whole);
}

TEST_F(Pattern, round_robin_goes_by_position) {
  EXPECT_EQ(route(options("round_robin", 4), {0, 1, 2, 1, 3}),
            (Choices{{0, 1, 2, 3}, {4, 5, 0, 1}, {2, 3, 4, 5}, {4, 5, 0, 1}, {0, 1, 2, 3}}));
}

TEST_F(Pattern, balanced_loads_of_a_step_differ_by_one_at_most) {
  for (const int64_t k : {1, 2, 4, 6}) {
    for (const size_t n : {1, 5, 6, 37}) {
      const auto load = loads(route(options("balanced", k), std::vector<int32_t>(n, 9)));
      EXPECT_LE(*std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()), 1.0)
          << "k " << k << ", " << n << " tokens";
    }
  }
}

TEST_F(Pattern, balanced_steps_of_one_token_take_turns) {
  const Options given = options("balanced", 2);
  EXPECT_EQ(route(given, {4})[0], (std::set<int32_t>{2, 3}));
  EXPECT_EQ(route(given, {5})[0], (std::set<int32_t>{4, 5}));
  EXPECT_EQ(route(given, {6, 4}), (Choices{{0, 1}, {2, 3}}));
}

TEST_F(Pattern, fixed_takes_the_rows_of_its_table_in_turn) {
  const Options given = options("fixed", 2, {{"experts", std::vector<int64_t>{5, 0, 1, 2, 3, 2}, ""}});
  EXPECT_EQ(route(given, {0, 1, 2, 3, 100}), (Choices{{0, 5}, {1, 2}, {2, 3}, {0, 5}, {1, 2}}));
}

TEST_F(Pattern, what_does_not_fit_is_refused_by_name) {
  const auto refusal = [&](const Options& given) {
    const auto router = test::TestRouter::create(compute_, "pattern", layer(), given);
    EXPECT_FALSE(router.ok());
    return router.ok() ? "" : router.error().message;
  };
  const auto fixed = [&](std::vector<int64_t> experts) {
    return refusal(options("fixed", 2, {{"experts", std::move(experts), ""}}));
  };
  EXPECT_EQ(refusal(options("uniform", 7)), "k: expected at most 6 (the layer's experts), got 7");
  EXPECT_EQ(refusal(options("fixed", 2)), "experts: expected rows of 2 (k) experts, got 0 numbers");
  EXPECT_EQ(fixed({0, 1, 2}), "experts: expected rows of 2 (k) experts, got 3 numbers");
  EXPECT_EQ(fixed({0, 6}), "experts: expected ids from 0 to 5, got 6");
  EXPECT_EQ(fixed({-1, 5}), "experts: expected ids from 0 to 5, got -1");
  EXPECT_EQ(fixed({0, 1, 3, 3}), "experts: expected different experts in a row, got 3 twice");
}

}  // namespace
