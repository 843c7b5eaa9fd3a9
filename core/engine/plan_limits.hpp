// What the core does to any router's plan before the experts see it: a limit on how many tokens an expert takes in a
// step, and a bias on the gate that follows the load. Both are off by default, because with them a token's experts
// depend on its company.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/config/settings.hpp"

namespace patchbay {

// Takes from a plan what exceeds an expert's capacity, C = ceil(factor * k * n / n_experts) tokens (GShard, arXiv
// 2006.16668).
class CapacityLimit {
 public:
  // For plans of up to max_tokens. Ids from n_experts on cost nothing and have no limit.
  CapacityLimit(double factor, Overflow overflow, int64_t n_experts, int64_t k_max, int64_t max_tokens);

  // Tokens that an expert takes in a step of n.
  [[nodiscard]] int64_t capacity(int64_t n) const;
  // ids and weights [n, k_max], count [n] with the choices of each token. What is left of a token's choices keeps its
  // order and its weights; one that lost all keeps its first with weight 0, so that the plan stays legal. Returns how
  // many choices were dropped. Allocates nothing.
  int64_t apply(int64_t n, int32_t* ids, float* weights, int32_t* count);

 private:
  // Whether expert e takes one more; an id that has no weights always does.
  bool fits(int32_t e, int64_t most) { return e < 0 || e >= n_experts_ || taken_[static_cast<size_t>(e)]++ < most; }
  void take_by_position(int64_t n, const int32_t* ids, const int32_t* count);
  void take_by_weight(int64_t n, const int32_t* ids, const float* weights, const int32_t* count);
  int64_t drop(int64_t n, int32_t* ids, float* weights, int32_t* count) const;

  double factor_;
  Overflow overflow_;
  int64_t n_experts_, k_max_;
  std::vector<int64_t> taken_;  // [n_experts]
  std::vector<int64_t> order_;  // choices, by weight
  std::vector<uint8_t> kept_;   // [max_tokens, k_max]
};

// A bias on the gate's logits that makes hot experts colder: after each step b_e += rate * clamp(1 - load_e / mean, -1,
// 1), where load is the share of the choices, forgotten by half in about 44 steps. Unlike a bias that was trained it
// moves the weights too, since it enters before the score: that is what works with any router.
class LoadBalancer {
 public:
  LoadBalancer(double rate, int64_t n_experts)
      : rate_(rate), load_(static_cast<size_t>(n_experts)), bias_(load_.size()) {}

  // ids [n, k], count [n] or null. Choices of ids from n_experts on are not counted.
  void follow(int64_t n, int64_t k, const int32_t* ids, const int32_t* count);
  [[nodiscard]] std::span<const float> bias() const { return bias_; }

 private:
  double rate_;
  std::vector<double> load_;
  std::vector<float> bias_;
};

}  // namespace patchbay
