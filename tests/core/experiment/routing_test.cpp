#include "core/experiment/routing.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace patchbay {
namespace {

TEST(RoutingStatistics, entropy_overlap_and_experts_a_token_are_those_of_the_tokens) {
  RoutingStatistics s;
  // Two tokens: even weights (1 bit) and all on one (0 bits); then one expert alone.
  const std::vector<int32_t> first = {0, 1, 2, 3}, second = {1, 5, 2, -1};
  const std::vector<float> w1 = {0.5F, 0.5F, 1, 0}, w2 = {1, 1, 7, 0};
  s.add(0, first, w1, 2, 8);
  s.add(1, second, w2, 2, 8);
  const auto doc = s.json();
  EXPECT_DOUBLE_EQ(doc["layers"][0]["entropy_bits"], 0.5);
  EXPECT_DOUBLE_EQ(doc["layers"][1]["entropy_bits"], 0.5);
  EXPECT_DOUBLE_EQ(doc["layers"][1]["overlap"], (0.5 + 1) / 2);
  EXPECT_DOUBLE_EQ(doc["layers"][1]["experts_a_token"], 1.5);
  EXPECT_DOUBLE_EQ(doc["overlap"], 0.75);
  EXPECT_DOUBLE_EQ(doc["overlap_by_chance"], 2.0 / 8);
  EXPECT_EQ(doc["layers"][1]["load"], (std::vector<uint64_t>{0, 1, 1, 0, 0, 1, 0, 0}));
}

TEST(RoutingStatistics, pieces_of_a_text_add_up_to_the_whole) {
  RoutingStatistics whole, pieces;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  for (int i = 0; i < 60; ++i) {
    ids.push_back(i * 7 % 13);
    weights.push_back(0.1F + static_cast<float>(i % 5));
  }
  for (size_t layer = 0; layer < 3; ++layer) whole.add(layer, ids, weights, 3, 13);
  for (size_t begin = 0; begin < 60; begin += 15) {
    for (size_t layer = 0; layer < 3; ++layer) {
      pieces.add(layer, std::span(ids).subspan(begin, 15), std::span(weights).subspan(begin, 15), 3, 13);
    }
  }
  EXPECT_EQ(whole.json(), pieces.json());
}

TEST(RoutingStatistics, a_model_without_experts_has_none) {
  EXPECT_FALSE(RoutingStatistics().json().contains("entropy_bits"));
}

}  // namespace
}  // namespace patchbay
