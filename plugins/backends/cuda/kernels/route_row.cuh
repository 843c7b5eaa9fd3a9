// From a token's logits to its row of the plan, by one warp.
//
// Loops are not unrolled: they go once or a few times around, and code that a multiprocessor has not seen lately takes
// longer to come than it saves. Seen on an H200 when chain, gate and products of one token lost half of their code so
// (the gate 104 to 55 KB): OLMoE in bf16 from 1,003 to 1,032 tokens/s.
#pragma once

#include "kernels/device.cuh"
#include "kernels/route.hpp"

namespace moe::cuda {

struct Best {
  float value;
  int32_t index;  // -1: none
};

// The larger, ties to the lower index.
__device__ inline Best better(Best a, Best b) {
  if (b.index < 0) return a;
  if (a.index < 0 || b.value > a.value || (b.value == a.value && b.index < a.index)) return b;
  return a;
}

// A float as an integer of the same order, above 0; -0 as 0.
__device__ inline uint32_t ordered(float v) {
  const uint32_t bits = __float_as_uint(v + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ inline float from_ordered(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key ^ 0x80000000U : ~key);
}

// The best of all lanes; lane l has one with index % 32 == l. Two reductions of integers take a fifth of the time of
// five rounds of exchanges.
__device__ inline Best warp_best(Best best) {
  const uint32_t key = best.index < 0 ? 0 : ordered(best.value);
  const uint32_t largest = __reduce_max_sync(kFullWarp, key);
  if (largest == 0) return {0.0F, -1};
  const auto index = static_cast<int32_t>(
      __reduce_min_sync(kFullWarp, key == largest ? static_cast<uint32_t>(best.index) : UINT32_MAX));
  return {__shfl_sync(kFullWarp, best.value, index % 32), index};
}

// One row of the plan by one warp, in route_bytes() of shared memory.
class RouteRow {
 public:
  __device__ RouteRow(const RouteParams& p, float* memory) : p_(p), lane_(threadIdx.x % 32) {
    const int groups = max(p.n_groups, 0);
    logits_ = memory;                          // [groups + n_experts]
    choice_ = logits_ + groups + p.n_experts;  // [groups + n_experts], groups first
    group_ = choice_;                          // [groups]
    choice_ += groups;                         // [n_experts]
    group_score_ = choice_ + p.n_experts;      // [groups]
    weight_ = group_score_ + groups;           // [top_k]
    order_ = reinterpret_cast<int32_t*>(weight_ + p.top_k);
  }

  // Row i of the plan from these logits, which any memory may hold.
  __device__ void run(int64_t i, const float* logits) {
    load(logits);
    if (p_.score != MOE_SCORE_SPARSE_MIXER) score();
    int kept = p_.top_k;
    if (has_nan()) {
#pragma unroll 1
      for (int j = lane_; j < p_.top_k; j += 32) {
        order_[j] = j;
        weight_[j] = __int_as_float(0x7FC00000);
      }
      __syncwarp();
    } else {
      if (p_.score == MOE_SCORE_SPARSE_MIXER) {
        mix_sparsely();
      } else {
        if (p_.group_score != MOE_GROUP_NONE) limit_groups();
        choose();
      }
      if (p_.dynamic != MOE_DYNAMIC_NONE) {
        if (lane_ == 0) kept = drop();
        kept = __shfl_sync(kFullWarp, kept, 0);
        __syncwarp();
      }
      renormalise(kept);
    }
#pragma unroll 1
    for (int j = lane_; j < p_.top_k; j += 32) {
      p_.ids.data[i * p_.ids.stride + j] = order_[j];
      p_.weights.data[i * p_.weights.stride + j] = j < kept ? weight_[j] * p_.scale : 0.0F;
    }
    if (lane_ == 0 && p_.count != nullptr) p_.count[i * p_.count_stride] = kept;
  }

 private:
  // What lanes keep of a list in registers while they look for the largest: up to so many values each.
  static constexpr int kFew = 4;
  static constexpr int kMany = 8;

  [[nodiscard]] __device__ int group_size() const { return p_.n_experts / p_.n_groups; }
  [[nodiscard]] __device__ int gate_groups() const { return p_.score == MOE_SCORE_GROUP_GATE ? p_.n_groups : 0; }
  [[nodiscard]] __device__ float bias(int e) const { return p_.bias == nullptr ? 0.0F : p_.bias[e]; }

  __device__ void load(const float* logits) {
    const float cap = p_.logit_cap;
#pragma unroll 1
    for (int e = lane_; e < gate_groups() + p_.n_experts; e += 32) {
      const float l = logits[e];
      logits_[e] = cap > 0.0F ? cap * tanhf(l / cap) : l;
    }
    __syncwarp();
  }

  // s into logits_ (of the experts), c = s + bias into choice_.
  __device__ void score() {
    float* s = logits_ + gate_groups();
    switch (p_.score) {
      case MOE_SCORE_SOFTMAX:
        softmax(s, p_.n_experts);
        break;
      case MOE_SCORE_SIGMOID:
#pragma unroll 1
        for (int e = lane_; e < p_.n_experts; e += 32) s[e] = sigmoid(s[e]);
        break;
      case MOE_SCORE_SQRT_SOFTPLUS:
#pragma unroll 1
        for (int e = lane_; e < p_.n_experts; e += 32) s[e] = sqrtf(fmaxf(s[e], 0.0F) + log1pf(expf(-fabsf(s[e]))));
        break;
      case MOE_SCORE_SOFTMAX_CHOSEN:  // the softmax follows the choice
        break;
      default:
        softmax(logits_, p_.n_groups);
#pragma unroll 1
        for (int g = 0; g < p_.n_groups; ++g) softmax(s + g * group_size(), group_size());
#pragma unroll 1
        for (int g = lane_; g < p_.n_groups; g += 32) group_score_[g] = logits_[g];
        __syncwarp();
#pragma unroll 1
        for (int e = lane_; e < p_.n_experts; e += 32) s[e] *= logits_[e / group_size()];
    }
    __syncwarp();
#pragma unroll 1
    for (int e = lane_; e < p_.n_experts; e += 32) choice_[e] = s[e] + bias(e);
    __syncwarp();
  }

  // In place, by the whole warp.
  __device__ void softmax(float* x, int n) {
    float largest = -INFINITY;
#pragma unroll 1
    for (int i = lane_; i < n; i += 32) largest = fmaxf(largest, x[i]);
    largest = from_ordered(__reduce_max_sync(kFullWarp, ordered(largest)));
    float sum = 0.0F;
#pragma unroll 1
    for (int i = lane_; i < n; i += 32) sum += x[i] = expf(x[i] - largest);
    sum = warp_sum(sum);
#pragma unroll 1
    for (int i = lane_; i < n; i += 32) x[i] /= sum;
    __syncwarp();
  }

  [[nodiscard]] __device__ bool has_nan() const {
    const float* values = p_.score == MOE_SCORE_SPARSE_MIXER ? logits_ : choice_;
    bool found = false;
#pragma unroll 1
    for (int e = lane_; e < p_.n_experts; e += 32) found = found || isnan(values[e]);
    return __any_sync(kFullWarp, found) != 0;
  }

  // Calls put(j, index) for the k largest of values that are not NaN, best first; fewer where there are no more. It
  // may overwrite the values.
  template <typename Put>
  __device__ void find_largest(float* values, int n, int k, const Put& put) {
    if (n <= kFew * 32) return find_in_registers<kFew>(values, n, k, put);
    if (n <= kMany * 32) return find_in_registers<kMany>(values, n, k, put);
#pragma unroll 1
    for (int j = 0; j < k; ++j) {
      const int32_t index = take(values, n);
      if (index >= 0) put(j, index);
    }
  }
  template <int kEach, typename Put>
  __device__ void find_in_registers(const float* values, int n, int k, const Put& put) {
    uint32_t key[kEach];  // 0: taken, or none
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float v = lane_ + 32 * i < n ? values[lane_ + 32 * i] : NAN;
      key[i] = isnan(v) ? 0 : ordered(v);
    }
#pragma unroll 1
    for (int j = 0; j < k; ++j) {
      uint32_t best = key[0];
      int at = lane_;
#pragma unroll
      for (int i = 1; i < kEach; ++i) {
        if (key[i] > best) {
          best = key[i];
          at = lane_ + 32 * i;
        }
      }
      const uint32_t largest = __reduce_max_sync(kFullWarp, best);
      if (largest == 0) return;
      const auto index =
          static_cast<int>(__reduce_min_sync(kFullWarp, best == largest ? static_cast<uint32_t>(at) : UINT32_MAX));
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (lane_ + 32 * i == index) key[i] = 0;
      }
      put(j, index);
    }
  }

  // The largest value left; it is marked as taken by a NaN.
  __device__ int32_t take(float* values, int n) {
    Best best{0.0F, -1};
#pragma unroll 1
    for (int i = lane_; i < n; i += 32) {
      if (!isnan(values[i])) best = better(best, {values[i], i});
    }
    best = warp_best(best);
    if (best.index >= 0 && lane_ == best.index % 32) values[best.index] = __int_as_float(0x7FC00000);
    __syncwarp();
    return best.index;
  }

  [[nodiscard]] __device__ float score_group(int g) const {
    const float* c = choice_ + g * group_size();
    float first = -INFINITY;
    float second = -INFINITY;
    float sum = 0.0F;
#pragma unroll 1
    for (int e = 0; e < group_size(); ++e) {
      sum += c[e];
      second = fmaxf(second, fminf(first, c[e]));
      first = fmaxf(first, c[e]);
    }
    if (p_.group_score == MOE_GROUP_SUM) return sum;
    return p_.group_score == MOE_GROUP_TOP2_SUM && group_size() > 1 ? first + second : first;
  }

  __device__ void limit_groups() {
    if (p_.group_score != MOE_GROUP_GATE_SCORE) {
#pragma unroll 1
      for (int g = lane_; g < p_.n_groups; g += 32) group_score_[g] = score_group(g);
    }
#pragma unroll 1
    for (int g = lane_; g < p_.n_groups; g += 32) group_[g] = 0.0F;
    __syncwarp();
    find_largest(group_score_, p_.n_groups, p_.top_groups, [this](int, int32_t g) {
      if (lane_ == 0) group_[g] = 1.0F;
    });
    __syncwarp();
    const float fill = p_.fill == MOE_FILL_ZERO ? 0.0F : -INFINITY;
#pragma unroll 1
    for (int e = lane_; e < p_.n_experts; e += 32) {
      if (group_[e / group_size()] == 0.0F) choice_[e] = fill;
    }
    __syncwarp();
  }

  __device__ void choose() {
    find_largest(choice_, p_.n_experts, p_.top_k, [this](int j, int32_t e) {
      if (lane_ == 0) order_[j] = e;
    });
    __syncwarp();
    const float* s = logits_ + gate_groups();
    const bool of_chosen = p_.score == MOE_SCORE_SOFTMAX_CHOSEN;
#pragma unroll 1
    for (int j = lane_; j < p_.top_k; j += 32) {
      const int32_t e = order_[j];
      weight_[j] = of_chosen ? s[e] + bias(e) : s[e];
    }
    __syncwarp();
    if (of_chosen) softmax(weight_, p_.top_k);
  }

  // Round by round: the largest logit left, weighed by a softmax over those left that are near it.
  __device__ void mix_sparsely() {
#pragma unroll 1
    for (int e = lane_; e < p_.n_experts; e += 32) choice_[e] = logits_[e];
    __syncwarp();
#pragma unroll 1
    for (int j = 0; j < p_.top_k; ++j) {
      Best best{0.0F, -1};
#pragma unroll 1
      for (int e = lane_; e < p_.n_experts; e += 32) {
        if (!isnan(choice_[e])) best = better(best, {choice_[e], e});
      }
      best = warp_best(best);
      const float largest = best.value;
      float sum = 0.0F;
#pragma unroll 1
      for (int e = lane_; e < p_.n_experts; e += 32) {
        const float l = logits_[e];
        const bool far = (largest - l) / fmaxf(fabsf(l), largest) > 2.0F * p_.sparse_eps;
        if (!isnan(choice_[e]) && !far) sum += expf(l - largest);
      }
      sum = warp_sum(sum);
      __syncwarp();
      if (lane_ == best.index % 32) choice_[best.index] = __int_as_float(0x7FC00000);
      if (lane_ == 0) {
        order_[j] = best.index;
        weight_[j] = 1.0F / sum;
      }
      __syncwarp();
    }
  }

  // Dynamic k, by one lane: moves those that are kept to the front, in order, and says how many they are.
  __device__ int drop() {
    const int k = p_.top_k;
    const int least = min(max(p_.k_min, 1), k);
    if (p_.dynamic == MOE_DYNAMIC_TOP_P) {
      float sum = 0.0F;
#pragma unroll 1
      for (int j = 0; j < k; ++j) {
        if (j >= least && sum >= p_.threshold) return j;
        sum += weight_[j];
      }
      return k;
    }
    const float bar = p_.threshold * weight_[0];
    int kept = least;
#pragma unroll 1
    for (int j = least; j < k; ++j) {
      if (!(weight_[j] > bar)) continue;
      const float w = weight_[j];
      const int32_t id = order_[j];
#pragma unroll 1
      for (int m = j; m > kept; --m) {
        weight_[m] = weight_[m - 1];
        order_[m] = order_[m - 1];
      }
      weight_[kept] = w;
      order_[kept] = id;
      ++kept;
    }
    return kept;
  }

  __device__ void renormalise(int kept) {
    if (p_.renorm == MOE_RENORM_NONE) return;
    float sum = 0.0F;
#pragma unroll 8
    for (int j = 0; j < kept; ++j) sum += weight_[j];
    const float divisor = p_.renorm == MOE_RENORM_SUM ? sum + p_.renorm_eps : fmaxf(sum, p_.renorm_eps);
    __syncwarp();
#pragma unroll 1
    for (int j = lane_; j < kept; j += 32) weight_[j] /= divisor;
    __syncwarp();
  }

  const RouteParams& p_;
  const int lane_;
  float* logits_;
  float* choice_;
  float* group_;
  float* group_score_;
  float* weight_;
  int32_t* order_;
};

}  // namespace moe::cuda
