// Every published router that the built-in plugins cover, and every point on which engines disagree, against vectors
// that were computed from the models' own formulas (tests/data/routers/generate.py).
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/model/json/json.hpp"
#include "tests/support/test_compute.hpp"

namespace {

namespace test = patchbay::test;

using nlohmann::json;

const json& golden() {
  static const json cases = [] {
    auto parsed = patchbay::parse_json_file(PATCHBAY_SOURCE_DIR "/tests/data/routers/golden.json");
    if (!parsed.ok()) throw std::runtime_error(parsed.error().message);
    return std::move(parsed).value();
  }();
  return cases;
}

std::vector<patchbay::GivenOption> options_of(const json& object) {
  std::vector<patchbay::GivenOption> given;
  for (const auto& [key, value] : object.items()) {
    if (value.is_boolean()) {
      given.push_back({key, value.get<bool>(), ""});
    } else if (value.is_number_integer()) {
      given.push_back({key, value.get<int64_t>(), ""});
    } else if (value.is_number()) {
      given.push_back({key, value.get<double>(), ""});
    } else {
      given.push_back({key, value.get<std::string>(), ""});
    }
  }
  return given;
}

std::vector<float> flat(const json& rows) {
  std::vector<float> all;
  for (const auto& r : rows) {
    for (const auto& x : r) all.push_back(x.get<float>());
  }
  return all;
}

class Golden : public testing::TestWithParam<std::tuple<std::string, size_t>> {};

TEST_P(Golden, router_chooses_and_weighs_as_published) {
  const auto& [backend, at] = GetParam();
  const json& c = golden()[at];
  SCOPED_TRACE(c["name"].get<std::string>());
  test::Compute compute(backend);
  auto config = moe::make<moe_router_config>();
  config.n_layers = 1;
  config.n_experts = c["n_experts"];
  config.n_zero_experts = c["n_zero_experts"];
  const auto bias = c["bias"].is_null() ? std::vector<float>() : c["bias"].get<std::vector<float>>();
  auto router =
      test::TestRouter::create(compute, c["plugin"].get<std::string>(), config, options_of(c["options"]), bias);
  ASSERT_TRUE(router.ok()) << router.error().message;
  const auto plan = (*router)->route(flat(c["logits"]));
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  for (size_t i = 0; i < c["ids"].size(); ++i) {
    const auto ids = c["ids"][i].get<std::vector<int32_t>>();
    const auto weights = c["weights"][i].get<std::vector<double>>();
    ASSERT_EQ(plan->count[i], static_cast<int32_t>(ids.size())) << "token " << i;
    const size_t row = i * static_cast<size_t>(plan->k_max);
    for (size_t j = 0; j < ids.size(); ++j) {
      EXPECT_EQ(plan->ids[row + j], ids[j]) << "token " << i << ", choice " << j;
      const double got = plan->weights[row + j];
      // Logits are f32 and at most 128 long: a few ulp of the exponentials and of the sum.
      if (!(std::fabs(got - weights[j]) <= 4e-6 * std::fabs(weights[j])))
        ADD_FAILURE() << "token " << i << ", choice " << j << ": " << got << " for " << weights[j];
    }
    for (size_t j = ids.size(); j < static_cast<size_t>(plan->k_max); ++j) EXPECT_EQ(plan->weights[row + j], 0.0F);
  }
}

std::vector<size_t> indices() {
  std::vector<size_t> all(golden().size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  return all;
}

INSTANTIATE_TEST_SUITE_P(Routers, Golden,
                         testing::Combine(testing::ValuesIn(test::host_backends()), testing::ValuesIn(indices())),
                         [](const auto& each) {
                           return std::get<0>(each.param) + "_" +
                                  golden()[std::get<1>(each.param)]["name"].template get<std::string>();
                         });

}  // namespace
