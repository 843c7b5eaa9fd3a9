// Microseconds a link takes for one row: bench_samplers [n_vocab]. One line a case; the result is checked before it is
// timed.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "plugins/samplers/link.hpp"

namespace {

using patchbay::test::Given;
using patchbay::test::kInf;
using patchbay::test::Link;
using patchbay::test::Row;

struct Case {
  const char* link;
  const char* name;
  Given given;
  const std::vector<float>* logits;
  size_t n_left;  // tokens that must be left afterwards; 0: any number
};

std::vector<float> normal(size_t n, float sigma) {
  std::mt19937 random(1);
  std::normal_distribution<float> distribution(0.0F, sigma);
  std::vector<float> logits(n);
  for (float& v : logits) v = distribution(random);
  return logits;
}

bool verified(const Case& c, const Row& row) {
  const auto n_left =
      static_cast<size_t>(std::count_if(row.logits.begin(), row.logits.end(), [](float v) { return v > -kInf; }));
  if (std::string(c.link) == "pick" || std::string(c.link) == "greedy") return row.picked >= 0;
  return row.picked == MOE_PICKED_NONE && n_left > 0 && (c.n_left == 0 || n_left == c.n_left);
}

bool run(const Case& c) {
  constexpr int kRuns = 200;
  const Link link(c.link, static_cast<int64_t>(c.logits->size()), c.given);
  Row row{*c.logits, {}, 500};
  for (int i = 0; i < 1000; ++i) row.history.push_back(i * 37 % static_cast<int>(c.logits->size()));
  std::vector<double> us;
  for (int i = -3; i < kRuns; ++i) {
    std::copy(c.logits->begin(), c.logits->end(), row.logits.begin());
    row.picked = MOE_PICKED_NONE;
    row.counter = static_cast<uint64_t>(i + 3);
    const auto begin = std::chrono::steady_clock::now();
    link.apply(row);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
    if (i < 0 && !verified(c, row)) {
      fmt::print("{:<12} {:<34} wrong result\n", c.link, c.name);
      return false;
    }
    if (i >= 0) us.push_back(took.count());
  }
  std::sort(us.begin(), us.end());
  fmt::print("{:<12} {:<34} p50 {:7.1f} us  p99 {:7.1f} us\n", c.link, c.name, us[kRuns / 2], us[kRuns * 99 / 100]);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const auto n = static_cast<size_t>(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 151936);
  if (n < 1000) return 2;
  const auto peaked = normal(n, 4.0F);
  const auto flat = normal(n, 0.5F);
  const std::vector<float> equal(n, 1.0F);
  auto ascending = peaked;
  std::sort(ascending.begin(), ascending.end());
  auto cut = peaked;
  Row row{cut};
  Link("top_k", static_cast<int64_t>(n), {{"value", int64_t{40}}}).apply(row);
  cut = row.logits;

  fmt::print("n_vocab {}\n", n);
  const Case cases[] = {
      {"greedy", "", {}, &peaked, 0},
      {"temperature", "0.7", {{"value", 0.7}}, &peaked, n},
      {"top_k", "40", {{"value", int64_t{40}}}, &peaked, 40},
      {"top_k", "40, ascending (worst)", {{"value", int64_t{40}}}, &ascending, 40},
      {"top_k", "half the vocabulary", {{"value", static_cast<int64_t>(n / 2)}}, &peaked, n / 2},
      {"top_p", "0.9, sigma 4", {{"value", 0.9}}, &peaked, 0},
      {"top_p", "0.9, sigma 0.5", {{"value", 0.9}}, &flat, 0},
      {"top_p", "0.9, all equal (worst)", {{"value", 0.9}}, &equal, 0},
      {"top_p", "0.9, behind top_k 40", {{"value", 0.9}}, &cut, 0},
      {"min_p", "0.05", {{"value", 0.05}}, &peaked, 0},
      {"penalties", "1000 distinct tokens", {{"repetition_penalty", 1.1}}, &peaked, n},
      {"logit_bias", "2 tokens", {{"value", std::string("3:1,77:-1")}}, &peaked, n},
      {"pick", "sigma 4", {}, &peaked, 0},
      {"pick", "behind top_k 40", {}, &cut, 0},
  };
  bool good = true;
  for (const auto& c : cases) good = run(c) && good;
  return good ? 0 : 1;
}
