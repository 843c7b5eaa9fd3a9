// What this expert does, beside what every expert must.
#include "expert.cpp"
#include "moe/sdk/testing.hpp"

int main() {
  // One dimension, two experts of width 1: y = down * silu(gate x) * up x.
  moe::testing::ExpertOf<MyExpert> expert({.d_model = 1, .n_experts = 2, .k_max = 1, .d_expert = 1}, {},
                                          {{"gate", {1, 2}}, {"up", {3, 4}}, {"down", {5, 6}}});
  const auto silu = [](float x) { return x / (1 + std::exp(-x)); };
  const auto y = expert.forward({0.5F, 0.5F}, {0, 1}, {1.0F, 2.0F});
  MOE_EXPECT_NEAR(y[0], 5 * silu(0.5F) * 1.5F, 1e-5F);
  MOE_EXPECT_NEAR(y[1], 2 * 6 * silu(1.0F) * 2.0F, 1e-5F);
  return moe::testing::result();
}
