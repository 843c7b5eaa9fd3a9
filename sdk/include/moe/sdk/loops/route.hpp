// The loop of MOE_OP_ROUTE: from gate logits to a plan. See moe/sdk/loops.hpp.
#pragma once

#include "moe/sdk/loops/common.hpp"

namespace moe::loops {

// What one thread of route needs. Everything is computed in double.
struct RouteSpace {
  double* logits;        // [n_groups + n_experts]: capped
  double* score;         // [n_experts]: s, unbiased
  double* choice;        // [n_experts]: c, what is chosen by
  double* group;         // [n_groups]
  double* weight;        // [top_k]
  int32_t* order;        // [top_k]
  uint8_t* taken;        // [n_experts]
  uint8_t* group_taken;  // [n_groups]
};

inline RouteSpace route_space(Arena& arena, const moe_route_op_args& args) {
  RouteSpace s{};
  const int64_t groups = std::max(args.n_groups, 0);
  s.logits = arena.take<double>(groups + args.n_experts);
  s.score = arena.take<double>(args.n_experts);
  s.choice = arena.take<double>(args.n_experts);
  s.group = arena.take<double>(groups);
  s.weight = arena.take<double>(args.top_k);
  s.order = arena.take<int32_t>(args.top_k);
  s.taken = arena.take<uint8_t>(args.n_experts);
  s.group_taken = arena.take<uint8_t>(groups);
  return s;
}

// The largest value whose index is not taken, ties to the lower index; -1 if all are taken.
inline int64_t largest_left(const double* values, const uint8_t* taken, int64_t n) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; ++i) {
    if (taken[i] == 0 && (best < 0 || values[i] > values[best])) best = i;
  }
  return best;
}

inline void softmax(const double* x, int64_t n, double* out) {
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, x[i]);
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += out[i] = std::exp(x[i] - largest);
  for (int64_t i = 0; i < n; ++i) out[i] /= sum;
}

// log(1 + e^x) without overflow.
inline double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }

// One row, step by step as the operation's description lists them.
class RouteRow {
 public:
  RouteRow(const moe_route_op_args& args, const RouteSpace& space) : a_(args), s_(space) {}

  void run(const float* logits, int32_t* ids, float* weights, int32_t* count) const {
    load(logits);
    if (a_.score != MOE_SCORE_SPARSE_MIXER) score();
    int64_t kept = a_.top_k;
    if (!all_numbers()) {  // a NaN shows in every weight; the ids are some, and legal
      for (int64_t j = 0; j < a_.top_k; ++j) {
        s_.order[j] = static_cast<int32_t>(j);
        s_.weight[j] = std::numeric_limits<double>::quiet_NaN();
      }
    } else {
      std::fill_n(s_.taken, a_.n_experts, uint8_t{0});
      if (a_.score == MOE_SCORE_SPARSE_MIXER) {
        mix_sparsely();
      } else {
        if (a_.group_score != MOE_GROUP_NONE) limit_groups();
        choose();
      }
      kept = drop();
      renormalise(kept);
    }
    for (int64_t j = 0; j < a_.top_k; ++j) {
      ids[j] = s_.order[j];
      weights[j] = j < kept ? static_cast<float>(s_.weight[j] * a_.scale) : 0.0F;
    }
    if (count != nullptr) *count = static_cast<int32_t>(kept);
  }

 private:
  [[nodiscard]] int64_t group_size() const { return a_.n_experts / a_.n_groups; }
  [[nodiscard]] int64_t n_gate_groups() const { return a_.score == MOE_SCORE_GROUP_GATE ? a_.n_groups : 0; }
  [[nodiscard]] double bias(int64_t e) const {
    return present(a_.bias) ? static_cast<const float*>(a_.bias.data)[e] : 0.0;
  }

  void load(const float* logits) const {
    const double cap = a_.logit_cap;
    const int64_t n = n_gate_groups() + a_.n_experts;
    for (int64_t i = 0; i < n; ++i) {
      const double l = logits[i];
      s_.logits[i] = cap > 0.0 ? cap * std::tanh(l / cap) : l;
    }
  }

  // s, and c = s + bias.
  void score() const {
    const int64_t n = a_.n_experts;
    const double* l = s_.logits;
    switch (a_.score) {
      case MOE_SCORE_SOFTMAX:
        softmax(l, n, s_.score);
        break;
      case MOE_SCORE_SIGMOID:
        for (int64_t e = 0; e < n; ++e) s_.score[e] = 1.0 / (1.0 + std::exp(-l[e]));
        break;
      case MOE_SCORE_SQRT_SOFTPLUS:
        for (int64_t e = 0; e < n; ++e) s_.score[e] = std::sqrt(softplus(l[e]));
        break;
      case MOE_SCORE_SOFTMAX_CHOSEN:  // the softmax follows the choice
        for (int64_t e = 0; e < n; ++e) s_.score[e] = l[e];
        break;
      default:
        score_two_gates();
    }
    for (int64_t e = 0; e < n; ++e) s_.choice[e] = s_.score[e] + bias(e);
  }

  void score_two_gates() const {
    softmax(s_.logits, a_.n_groups, s_.group);
    for (int64_t g = 0; g < a_.n_groups; ++g) {
      double* s = s_.score + g * group_size();
      softmax(s_.logits + a_.n_groups + g * group_size(), group_size(), s);
      for (int64_t e = 0; e < group_size(); ++e) s[e] *= s_.group[g];
    }
  }

  [[nodiscard]] bool all_numbers() const {
    const double* values = a_.score == MOE_SCORE_SPARSE_MIXER ? s_.logits : s_.choice;
    for (int64_t e = 0; e < a_.n_experts; ++e) {
      if (std::isnan(values[e])) return false;
    }
    return true;
  }

  [[nodiscard]] double score_group(int64_t g) const {
    const double* c = s_.choice + g * group_size();
    double first = -std::numeric_limits<double>::infinity();
    double second = first;
    double sum = 0.0;
    for (int64_t e = 0; e < group_size(); ++e) {
      sum += c[e];
      second = std::max(second, std::min(first, c[e]));
      first = std::max(first, c[e]);
    }
    if (a_.group_score == MOE_GROUP_SUM) return sum;
    if (a_.group_score == MOE_GROUP_TOP2_SUM && group_size() > 1) return first + second;
    return first;
  }

  void limit_groups() const {
    if (a_.group_score != MOE_GROUP_GATE_SCORE) {
      for (int64_t g = 0; g < a_.n_groups; ++g) s_.group[g] = score_group(g);
    }
    std::fill_n(s_.group_taken, a_.n_groups, uint8_t{0});
    for (int64_t i = 0; i < a_.top_groups; ++i) s_.group_taken[largest_left(s_.group, s_.group_taken, a_.n_groups)] = 1;
    const double fill = a_.fill == MOE_FILL_ZERO ? 0.0 : -std::numeric_limits<double>::infinity();
    for (int64_t e = 0; e < a_.n_experts; ++e) {
      if (s_.group_taken[e / group_size()] == 0) s_.choice[e] = fill;
    }
  }

  void choose() const {
    for (int64_t j = 0; j < a_.top_k; ++j) {
      const int64_t e = largest_left(s_.choice, s_.taken, a_.n_experts);
      s_.taken[e] = 1;
      s_.order[j] = static_cast<int32_t>(e);
      s_.weight[j] = s_.score[e];
    }
    if (a_.score != MOE_SCORE_SOFTMAX_CHOSEN) return;
    for (int64_t j = 0; j < a_.top_k; ++j) s_.weight[j] += bias(s_.order[j]);
    softmax(s_.weight, a_.top_k, s_.weight);
  }

  // Round by round: the largest logit left, weighed by a softmax over those left that are near it (Phi-3.5-MoE,
  // inference): j is far if (l_max - l_j) / max(|l_j|, l_max) > 2 eps.
  void mix_sparsely() const {
    for (int64_t j = 0; j < a_.top_k; ++j) {
      const int64_t best = largest_left(s_.logits, s_.taken, a_.n_experts);
      const double largest = s_.logits[best];
      double sum = 0.0;
      for (int64_t e = 0; e < a_.n_experts; ++e) {
        const double l = s_.logits[e];
        const bool far = (largest - l) / std::max(std::fabs(l), largest) > 2.0 * a_.sparse_eps;
        if (s_.taken[e] == 0 && !far) sum += std::exp(l - largest);
      }
      s_.taken[best] = 1;
      s_.order[j] = static_cast<int32_t>(best);
      s_.weight[j] = 1.0 / sum;
    }
  }

  // Dynamic k: moves those that are kept to the front, in order, and says how many they are.
  [[nodiscard]] int64_t drop() const {
    const int64_t k = a_.top_k;
    const int64_t least = std::clamp<int64_t>(a_.k_min, 1, k);
    if (a_.dynamic == MOE_DYNAMIC_TOP_P) {
      double sum = 0.0;
      for (int64_t j = 0; j < k; ++j) {
        if (j >= least && sum >= a_.threshold) return j;
        sum += s_.weight[j];
      }
      return k;
    }
    if (a_.dynamic != MOE_DYNAMIC_RATIO) return k;
    const double bar = static_cast<double>(a_.threshold) * s_.weight[0];
    int64_t kept =
        least;  // with a bias s need not fall from one to the next, so that one that is kept may follow one that is not
    for (int64_t j = least; j < k; ++j) {
      if (!(s_.weight[j] > bar)) continue;
      std::rotate(s_.weight + kept, s_.weight + j, s_.weight + j + 1);
      std::rotate(s_.order + kept, s_.order + j, s_.order + j + 1);
      ++kept;
    }
    return kept;
  }

  void renormalise(int64_t kept) const {
    if (a_.renorm == MOE_RENORM_NONE) return;
    double sum = 0.0;
    for (int64_t j = 0; j < kept; ++j) sum += s_.weight[j];
    const double eps = a_.renorm_eps;
    const double divisor = a_.renorm == MOE_RENORM_SUM ? sum + eps : std::max(sum, eps);
    for (int64_t j = 0; j < kept; ++j) s_.weight[j] /= divisor;
  }

  const moe_route_op_args& a_;
  const RouteSpace& s_;
};

inline Status check_route_groups(const moe_route_op_args& args) {
  const bool two_gates = args.score == MOE_SCORE_GROUP_GATE;
  if (args.group_score < MOE_GROUP_NONE || args.group_score > MOE_GROUP_SUM)
    return bad("group_score", "MOE_GROUP_*", args.group_score);
  if (args.group_score == MOE_GROUP_GATE_SCORE && !two_gates) return bad("score", "MOE_SCORE_GROUP_GATE", args.score);
  if (args.group_score == MOE_GROUP_NONE && !two_gates) return {};
  if (args.n_groups < 1 || args.n_experts % args.n_groups != 0) {
    return bad("n_groups", "a divisor of " + std::to_string(args.n_experts), args.n_groups);
  }
  if (args.group_score == MOE_GROUP_NONE) return {};
  if (args.top_groups < 1 || args.top_groups > args.n_groups) {
    return bad("top_groups", "1 to " + std::to_string(args.n_groups), args.top_groups);
  }
  if (args.fill != MOE_FILL_ZERO && args.fill != MOE_FILL_MINUS_INFINITY) return bad("fill", "MOE_FILL_*", args.fill);
  return {};
}

// What holds of the arguments whatever the logits are.
inline Status check_route(const moe_route_op_args& args) {
  if (args.score < MOE_SCORE_SOFTMAX || args.score > MOE_SCORE_GROUP_GATE)
    return bad("score", "MOE_SCORE_*", args.score);
  if (args.n_experts < 1) return bad("n_experts", "1 or more", args.n_experts);
  if (args.top_k < 1 || args.top_k > args.n_experts)
    return bad("top_k", "1 to " + std::to_string(args.n_experts), args.top_k);
  MOE_TRY(check_route_groups(args));
  if (args.score == MOE_SCORE_SPARSE_MIXER && (present(args.bias) || args.group_score != MOE_GROUP_NONE)) {
    return invalid("bias, groups: expected none with MOE_SCORE_SPARSE_MIXER, got some");
  }
  if (args.renorm < MOE_RENORM_NONE || args.renorm > MOE_RENORM_CLAMP)
    return bad("renorm", "MOE_RENORM_*", args.renorm);
  if (args.dynamic < MOE_DYNAMIC_NONE || args.dynamic > MOE_DYNAMIC_TOP_P)
    return bad("dynamic", "MOE_DYNAMIC_*", args.dynamic);
  if (args.dynamic != MOE_DYNAMIC_NONE && !given(args.count))
    return invalid("count: expected a tensor with dynamic k, got none");
  return {};
}

// MOE_OP_ROUTE. A row with a NaN among its c gets the ids 0, 1, ... and NaN as every weight: it is not hidden, and ids
// stay legal.
inline uint64_t route_workspace(const moe_route_op_args& args, const LoopContext& ctx) {
  Arena arena;
  route_space(arena, args);
  return arena.used() * static_cast<uint64_t>(n_threads(ctx));
}
inline Status route(const moe_route_op_args& args, const LoopContext& ctx) {
  MOE_TRY(check_route(args));
  const int64_t n = args.logits.shape[0];
  const int64_t width = args.n_experts + (args.score == MOE_SCORE_GROUP_GATE ? args.n_groups : 0);
  MOE_TRY(expect_shape("logits", args.logits, n, 1, width));
  MOE_TRY(expect_shape("ids", args.ids, n, 1, args.top_k));
  MOE_TRY(expect_shape("weights", args.weights, n, 1, args.top_k));
  if (n == 0) return {};
  Arena one;
  route_space(one, args);
  Arena all(args.header);
  char* memory = all.take<char>(static_cast<int64_t>(one.used()) * n_threads(ctx));
  MOE_TRY(all.check());
  spread(ctx, n, width * (30 + 2 * args.top_k), [&](int64_t i, int32_t thread) {
    moe_op_args part{};
    part.workspace = memory + static_cast<uint64_t>(thread) * one.used();
    Arena mine(part);
    const RouteSpace space = route_space(mine, args);
    int32_t* count = present(args.count) ? static_cast<int32_t*>(args.count.data) + i * args.count.strides[0] : nullptr;
    RouteRow(args, space).run(at(args.logits, i), row<int32_t>(args.ids, i), at(args.weights, i), count);
  });
  return {};
}

}  // namespace moe::loops
