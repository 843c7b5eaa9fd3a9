#include "core/engine/plan_limits.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace patchbay {

CapacityLimit::CapacityLimit(double factor, Overflow overflow, int64_t n_experts, int64_t k_max, int64_t max_tokens)
    : factor_(factor), overflow_(overflow), n_experts_(n_experts), k_max_(k_max) {
  const auto n_choices = static_cast<size_t>(k_max * max_tokens);
  taken_.resize(static_cast<size_t>(n_experts));
  kept_.resize(n_choices);
  if (overflow == Overflow::kWeight) order_.reserve(n_choices);
}

int64_t CapacityLimit::capacity(int64_t n) const {
  const double even = static_cast<double>(k_max_) * static_cast<double>(n) / static_cast<double>(n_experts_);
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(factor_ * even)));
}

int64_t CapacityLimit::apply(int64_t n, int32_t* ids, float* weights, int32_t* count) {
  std::fill(taken_.begin(), taken_.end(), 0);
  if (overflow_ == Overflow::kPosition) {
    take_by_position(n, ids, count);
  } else {
    take_by_weight(n, ids, weights, count);
  }
  return drop(n, ids, weights, count);
}

// All first choices come before all second ones, earlier tokens before later ones.
void CapacityLimit::take_by_position(int64_t n, const int32_t* ids, const int32_t* count) {
  const int64_t most = capacity(n);
  for (int64_t j = 0; j < k_max_; ++j) {
    for (int64_t t = 0; t < n; ++t) {
      if (j >= count[t]) continue;
      const int32_t e = ids[t * k_max_ + j];
      kept_[static_cast<size_t>(t * k_max_ + j)] = fits(e, most) ? 1 : 0;
    }
  }
}

// The largest weights first, whoever's they are; equal ones by position. A weight that is no number stays, so that its
// request fails as it would have.
void CapacityLimit::take_by_weight(int64_t n, const int32_t* ids, const float* weights, const int32_t* count) {
  const int64_t most = capacity(n);
  order_.clear();
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t j = 0; j < count[t]; ++j) order_.push_back(t * k_max_ + j);
  }
  const auto key = [weights](int64_t at) {
    return std::isnan(weights[at]) ? std::numeric_limits<float>::infinity() : weights[at];
  };
  std::sort(order_.begin(), order_.end(),
            [&](int64_t a, int64_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; });
  for (const int64_t at : order_) {
    const int32_t e = ids[at];
    kept_[static_cast<size_t>(at)] = fits(e, most) ? 1 : 0;
  }
}

int64_t CapacityLimit::drop(int64_t n, int32_t* ids, float* weights, int32_t* count) const {
  int64_t n_dropped = 0;
  for (int64_t t = 0; t < n; ++t) {
    int32_t* id = ids + t * k_max_;
    float* weight = weights + t * k_max_;
    const uint8_t* keep = kept_.data() + t * k_max_;
    int32_t left = 0;
    for (int32_t j = 0; j < count[t]; ++j) {
      if (keep[j] == 0) continue;
      std::swap(id[left], id[j]);  // ids of a row stay distinct
      weight[left++] = weight[j];
    }
    n_dropped += count[t] - left;
    std::fill(weight + left, weight + count[t], 0.0F);
    count[t] = std::max(left, 1);
  }
  return n_dropped;
}

void LoadBalancer::follow(int64_t n, int64_t k, const int32_t* ids, const int32_t* count) {
  constexpr double kKept = 63.0 / 64.0;
  for (double& l : load_) l *= kKept;
  double sum = 0;
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t j = 0; j < (count == nullptr ? k : count[t]); ++j) {
      const auto e = static_cast<size_t>(ids[t * k + j]);
      if (e < load_.size()) load_[e] += 1;
    }
  }
  for (const double l : load_) sum += l;
  if (sum == 0) return;
  const double mean = sum / static_cast<double>(load_.size());
  for (size_t e = 0; e < load_.size(); ++e)
    bias_[e] += static_cast<float>(rate_ * std::clamp(1 - load_[e] / mean, -1.0, 1.0));
}

}  // namespace patchbay
