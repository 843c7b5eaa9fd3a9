// What this link does, beside what every link must.
#include "sampler.cpp"
#include "moe/sdk/testing.hpp"

int main() {
  moe::testing::LinkOf<MySampler> link(4, {{"times", "2"}});
  const std::vector<float> logits = {0, 1, 2, 3};
  MOE_EXPECT(link.apply(logits, {3, 3}, 0)[3] == moe::kRemoved);
  MOE_EXPECT(link.apply(logits, {3, 3}, 1) == logits);  // the prompt does not count
  MOE_EXPECT(link.apply(logits, {3, 1}, 0) == logits);
  return moe::testing::result();
}
