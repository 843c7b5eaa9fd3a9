// What holds for every link.
#include <cstring>

#include "link.hpp"

namespace patchbay::test {
namespace {

// Options with which each link does something.
Given active(const std::string& name) {
  if (name == "temperature") return {{"value", 0.7}};
  if (name == "top_k") return {{"value", int64_t{5}}};
  if (name == "top_p") return {{"value", 0.8}};
  if (name == "min_p") return {{"value", 0.1}};
  if (name == "penalties") return {{"repetition_penalty", 1.2}, {"frequency_penalty", 0.5}};
  if (name == "logit_bias") return {{"value", std::string("3:2,5:-inf")}};
  return {};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
bool decides(const std::string& name) { return name == "greedy" || name == "pick"; }

TEST(Links, only_those_that_always_decide_say_so) {
  for (const std::string name : kLinks) {
    EXPECT_EQ((sampler_table(name)->component.capabilities & MOE_CAP_PICKS) != 0, decides(name)) << name;
  }
}

TEST(Links, every_option_may_come_with_a_request) {
  for (const std::string name : kLinks) {
    const moe_component& c = sampler_table(name)->component;
    for (uint32_t i = 0; i < c.n_options; ++i) EXPECT_NE(c.options[i].flags & MOE_OPTION_REQUEST, 0U) << name;
  }
}

TEST(Links, are_off_by_default_and_then_change_nothing) {
  for (const std::string name : kLinks) {
    if (decides(name)) continue;
    const Link link(name, 100);
    EXPECT_TRUE(link.is_identity()) << name;
    const Row before{random_logits(100, 2), {1, 2, 3, 2}, 1};
    EXPECT_TRUE(same_bits(link.applied(before).logits, before.logits)) << name;
    const Link on(name, 100, active(name));
    EXPECT_FALSE(on.is_identity()) << name;
    EXPECT_FALSE(same_bits(on.applied(before).logits, before.logits)) << name;
  }
  EXPECT_TRUE(Link("top_k", 100, {{"value", int64_t{100}}}).is_identity());
}

TEST(Links, say_when_only_the_largest_logit_counts) {
  EXPECT_TRUE(Link("greedy", 100).picks_largest());
  EXPECT_TRUE(Link("temperature", 100, {{"value", 0.0}}).picks_largest());
  EXPECT_FALSE(Link("temperature", 100, {{"value", 0.5}}).picks_largest());
  for (const std::string name : {"pick", "top_k", "top_p", "min_p", "penalties", "logit_bias"}) {
    EXPECT_FALSE(Link(name, 100).picks_largest()) << name;
  }
}

TEST(Links, leave_a_decided_row_alone) {
  for (const std::string name : kLinks) {
    for (const int32_t picked : {2, static_cast<int32_t>(MOE_PICKED_FAILED)}) {
      const Row before{random_logits(100, 1), {1, 2, 3, 2}, 1, 0, 0, picked};
      const Row after = Link(name, 100, active(name)).applied(before);
      EXPECT_EQ(after.picked, picked) << name;
      EXPECT_TRUE(same_bits(after.logits, before.logits)) << name;
    }
  }
}

std::vector<std::vector<float>> broken_rows() {
  auto nan = random_logits(100, 2);
  nan[99] = kNan;
  auto early_nan = random_logits(100, 2);
  early_nan[0] = -kNan;
  auto infinite = random_logits(100, 2);
  infinite[17] = kInf;
  return {nan, early_nan, infinite, std::vector<float>(100, -kInf), std::vector<float>(100, kNan)};
}

TEST(Links, broken_logits_surface_as_a_failure_of_the_row) {
  for (const auto& logits : broken_rows()) {
    for (const std::string name : {"greedy", "pick"}) {
      const Row row = Link(name, 100).applied({logits});
      EXPECT_EQ(row.picked, MOE_PICKED_FAILED) << name;
    }
    EXPECT_EQ(Link("temperature", 100, {{"value", 0.0}}).applied({logits}).picked, MOE_PICKED_FAILED);
    for (const std::string name : {"temperature", "top_k", "top_p", "min_p"}) {
      const Row row = Link(name, 100, active(name)).applied({logits});
      EXPECT_EQ(row.picked, MOE_PICKED_NONE) << name;
      EXPECT_TRUE(same_bits(row.logits, logits)) << name;
    }
  }
}

TEST(Links, broken_logits_pass_through_the_whole_chain_and_then_fail) {
  for (const auto& logits : broken_rows()) {
    Row row{logits, {0, 17, 99, 5, 99}, 2};
    for (const std::string name : {"penalties", "logit_bias", "temperature", "top_k", "top_p", "min_p", "pick"}) {
      EXPECT_EQ(row.picked, MOE_PICKED_NONE);
      Link(name, 100, active(name)).apply(row);
    }
    EXPECT_EQ(row.picked, MOE_PICKED_FAILED);
  }
}

TEST(Links, a_row_does_not_depend_on_its_company) {
  for (const std::string name : kLinks) {
    std::vector<Row> rows;
    std::vector<Link> links;
    for (uint32_t i = 0; i < 9; ++i) {
      Row row{random_logits(500, i), {static_cast<int32_t>(i), 3, 4, 3}, 2, i, 7 * i};
      if (i == 4) row.logits[250] = kNan;
      rows.push_back(row);
      links.emplace_back(name, 500, active(name));
    }
    std::vector<Row> alone;
    std::vector<Row*> together;
    std::vector<const Link*> states;
    for (size_t i = 0; i < rows.size(); ++i) {
      alone.push_back(Link(name, 500, active(name)).applied(rows[i]));
      together.push_back(&rows[rows.size() - 1 - i]);
      states.push_back(&links[i]);
    }
    Link::apply(together, states);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(rows[i].picked, alone[i].picked) << name << ", row " << i;
      EXPECT_TRUE(same_bits(rows[i].logits, alone[i].logits)) << name << ", row " << i;
    }
  }
}

TEST(Links, a_fork_and_a_second_call_give_the_same_bits) {
  for (const std::string name : kLinks) {
    const Link link(name, 500, active(name));
    const Row before{random_logits(500, 8), {1, 2, 3, 2}, 2, 11, 12};
    const Row first = link.applied(before);
    const Link fork = link.fork();
    for (const Link* other : {&link, &fork}) {
      const Row second = other->applied(before);
      EXPECT_EQ(second.picked, first.picked) << name;
      EXPECT_TRUE(same_bits(second.logits, first.logits)) << name;
    }
  }
}

TEST(Links, refuse_numbers_that_a_range_check_let_through) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const std::string name : {"temperature", "top_p", "min_p"})
    EXPECT_NE(Link(name, 10, {{"value", nan}}).error(), "") << name;
  EXPECT_NE(Link("penalties", 10, {{"repetition_penalty", nan}}).error(), "");
  EXPECT_NE(Link("penalties", 10, {{"presence_penalty", nan}}).error(), "");
  EXPECT_NE(Link("top_k", 10, {{"value", int64_t{-1}}}).error(), "");
}

}  // namespace
}  // namespace patchbay::test
