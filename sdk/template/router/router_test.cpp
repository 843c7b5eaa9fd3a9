// What this router does, beside what every router must.
#include "router.cpp"
#include "moe/sdk/testing.hpp"

int main() {
  moe::testing::RouterOf<MyRouter> router({.n_experts = 4}, {{"k", "2"}});
  const auto plan = router.route({0.0F, 2.0F, -1.0F, 2.0F});
  MOE_EXPECT(plan.ids == (std::vector<int32_t>{1, 3}));  // best first, ties to the lower id
  MOE_EXPECT_NEAR(plan.weights[0], 0.5F, 1e-6F);
  MOE_EXPECT_NEAR(plan.weights[0] + plan.weights[1], 1.0F, 1e-6F);

  const moe::testing::RouterOf<MyRouter> too_many({.n_experts = 4}, {{"k", "5"}});
  MOE_EXPECT(too_many.error().find("k:") == 0);
  return moe::testing::result();
}
