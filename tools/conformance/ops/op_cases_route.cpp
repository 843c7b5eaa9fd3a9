// Random cases of route. A decision is discrete: where the logits leave it open (a tie, a threshold within the error of
// f32), another answer is right too, so each row is first tried with its logits and scores moved by a little. Exact
// ties stay ties under that, because equal values are moved alike, and must go to the lower id.
#include <set>

#include "moe/sdk/loops/route.hpp"
#include "tools/conformance/ops/op_cases.hpp"
#include "tools/conformance/ops/op_parts.hpp"

namespace patchbay::conformance {

RouteTally g_route_tally;

struct RouteRowResult {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  int32_t count = 0;
};

// Row i by the loop, its logits and biases moved by about 1e-6 one way or the other in trial 1, 2, ...; not at all in
// trial 0.
static RouteRowResult route_row(const moe_route_op_args& a, int64_t i, uint32_t trial) {
  const int64_t n_logits = a.logits.shape[1];
  std::vector<float> logits(static_cast<size_t>(n_logits));
  std::vector<float> bias(static_cast<size_t>(a.n_experts), 0.0F);
  const auto sign = [&](float v, uint32_t salt) {
    const uint32_t mixed = (std::bit_cast<uint32_t>(v) ^ (trial * 0x9E3779B9U + salt)) * 0x85EBCA6BU;
    return (mixed >> 17 & 1U) != 0 ? 1.0F : -1.0F;
  };
  for (int64_t c = 0; c < n_logits; ++c) {
    const auto l = static_cast<float>(value(a.logits, i, 0, c));
    logits[static_cast<size_t>(c)] = trial == 0 ? l : l + sign(l, 1) * (2e-6F * std::fabs(l) + 1e-6F);
  }
  for (int64_t e = 0; e < a.n_experts; ++e) {
    float& b = bias[static_cast<size_t>(e)];
    if (moe::present(a.bias)) b = static_cast<const float*>(a.bias.data)[e];
    const float l = logits[static_cast<size_t>(n_logits - a.n_experts + e)];
    if (trial != 0) b += sign(b + l, 2) * 2e-7F * (1.0F + std::fabs(b));
  }
  RouteRowResult out{std::vector<int32_t>(static_cast<size_t>(a.top_k)),
                     std::vector<float>(static_cast<size_t>(a.top_k)), 0};
  moe_route_op_args one = a;
  one.logits = moe::tensor(logits.data(), {1, n_logits});
  one.bias = a.score == MOE_SCORE_SPARSE_MIXER ? moe::absent() : moe::tensor(bias.data(), {a.n_experts});
  one.ids = moe::tensor(out.ids.data(), {1, a.top_k});
  one.weights = moe::tensor(out.weights.data(), {1, a.top_k});
  one.count = moe::tensor(&out.count, {1});
  std::vector<uint64_t> workspace(moe::loops::route_workspace(one, {}) / 8 + 1);
  one.header.workspace = workspace.data();
  one.header.workspace_bytes = workspace.size() * 8;
  if (!moe::loops::route(one, {}).ok()) out.count = -1;
  return out;
}

static bool is_open(const moe_route_op_args& a, int64_t i, const RouteRowResult& want) {
  for (uint32_t trial = 1; trial <= 6; ++trial) {
    const RouteRowResult other = route_row(a, i, trial);
    if (other.ids != want.ids || other.count != want.count) return true;
    for (size_t j = 0; j < want.weights.size(); ++j) {
      if (!(std::fabs(other.weights[j] - want.weights[j]) <= 1e-3 * std::fabs(want.weights[j]))) return true;
    }
  }
  return false;
}

// What is wrong with row i of `got`; empty: nothing.
static std::string check_route_row(const moe_route_op_args& a, int64_t i, const RouteRowResult& got) {
  const std::string where = "row " + std::to_string(i) + ": ";
  const std::set<int32_t> distinct(got.ids.begin(), got.ids.end());
  if (distinct.size() != got.ids.size()) return where + "ids are not distinct";
  if (*distinct.begin() < 0 || *distinct.rbegin() >= a.n_experts) return where + "an id is not an expert's";
  const RouteRowResult want = route_row(a, i, 0);
  if (std::isnan(want.weights[0])) {
    for (const float w : got.weights) {
      if (!std::isnan(w)) return where + "expected NaN weights for a NaN logit, got " + std::to_string(w);
    }
    return "";
  }
  if (is_open(a, i, want)) {
    ++g_route_tally.open;
    return "";
  }
  ++g_route_tally.decided;
  double range = std::fabs(a.logit_cap);
  for (int64_t c = 0; c < a.logits.shape[1]; ++c) range = std::max(range, std::fabs(value(a.logits, i, 0, c)));
  if (got.count >= 0 && got.count != want.count) {
    return where + "count: expected " + std::to_string(want.count) + ", got " + std::to_string(got.count);
  }
  for (size_t j = 0; j < want.ids.size(); ++j) {
    if (got.ids[j] != want.ids[j]) {
      return where + "ids[" + std::to_string(j) + "]: expected " + std::to_string(want.ids[j]) + ", got " +
             std::to_string(got.ids[j]);
    }
    const double tol = kUnit * (64 + 16 * range) * std::fabs(want.weights[j]) + 1e-12;
    if (!(std::fabs(static_cast<double>(got.weights[j]) - want.weights[j]) <= tol)) {
      return where + "weights[" + std::to_string(j) + "]: expected " + std::to_string(want.weights[j]) + " +- " +
             std::to_string(tol) + ", got " + std::to_string(got.weights[j]);
    }
  }
  return "";
}

static void some_groups(CaseBuilder<moe_route_op_args>& b, int32_t group_score) {
  auto& a = b.args;
  a.group_score = group_score;
  if (group_score == MOE_GROUP_NONE && a.score != MOE_SCORE_GROUP_GATE) return;
  a.n_groups = b.random.pick<int32_t>({1, 2, 4, 8});
  a.n_experts = a.n_groups * b.random.pick<int32_t>({1, 2, 3, 8, 32});
  a.top_groups = 1 + static_cast<int32_t>(b.random.below(a.n_groups));
  a.fill = b.random.pick<int32_t>({MOE_FILL_ZERO, MOE_FILL_MINUS_INFINITY});
}

static void some_logits(CaseBuilder<moe_route_op_args>& b, int64_t n, size_t logits) {
  auto& a = b.args;
  // Steps of 0.5 give ties; not where sums of the same numbers in another order would be compared.
  const bool may_tie = a.score != MOE_SCORE_GROUP_GATE && a.group_score != MOE_GROUP_SUM;
  auto* l = b.array(logits).as<float>();
  for (int64_t i = 0; i < n; ++i) {
    float* x = l + index_of(a.logits, i, 0, 0);
    const bool ties = may_tie && b.random.chance(0.3);
    for (int64_t c = 0; c < a.logits.shape[1]; ++c) {
      x[c] = static_cast<float>(ties ? 0.5 * static_cast<double>(b.random.below(16)) - 4.0 : b.random.uniform(-6, 6));
    }
    if (b.random.chance(0.04)) x[b.random.below(a.logits.shape[1])] = NAN;
  }
}

OpCase route_case(uint64_t seed, int32_t score, int32_t group_score, int32_t dynamic) {
  CaseBuilder<moe_route_op_args> b(MOE_OP_ROUTE, seed);
  auto& a = b.args;
  a.score = score;
  a.n_experts = b.random.pick<int32_t>({1, 2, 3, 7, 8, 9, 16, 17, 31, 64, 65, 128, 256, 384});
  some_groups(b, group_score);
  const int32_t kept = group_score == MOE_GROUP_NONE ? a.n_experts : a.n_experts / a.n_groups * a.top_groups;
  a.top_k = 1 + static_cast<int32_t>(b.random.below(std::min(kept, 9)));
  a.renorm = b.random.pick<int32_t>({MOE_RENORM_NONE, MOE_RENORM_SUM, MOE_RENORM_CLAMP});
  a.renorm_eps = b.random.pick({1e-20F, 6.1e-5F, 0.5F});
  a.dynamic = dynamic;
  a.k_min = 1 + static_cast<int32_t>(b.random.below(a.top_k));
  a.threshold = static_cast<float>(b.random.uniform(0.05, 0.95));
  a.scale = b.random.chance(0.5) ? 1.0F : static_cast<float>(b.random.uniform(0.5, 3));
  a.logit_cap = b.random.chance(0.2) ? static_cast<float>(b.random.uniform(2, 30)) : 0.0F;
  a.sparse_eps = static_cast<float>(b.random.uniform(0.005, 0.3));
  const int64_t n = some_rows(b.random);
  for (const auto& [name, v] : std::initializer_list<std::pair<const char*, int32_t>>{{"score", score},
                                                                                      {"experts", a.n_experts},
                                                                                      {"top_k", a.top_k},
                                                                                      {"group_score", group_score},
                                                                                      {"groups", a.n_groups},
                                                                                      {"top_groups", a.top_groups},
                                                                                      {"fill", a.fill},
                                                                                      {"renorm", a.renorm},
                                                                                      {"dynamic", dynamic},
                                                                                      {"k_min", a.k_min}}) {
    b.note(name, v);
  }
  b.note("n", n);
  b.note("cap", a.logit_cap);
  const int64_t n_logits = a.n_experts + (score == MOE_SCORE_GROUP_GATE ? a.n_groups : 0);
  const size_t logits = b.f32(a.logits, {n, n_logits}, true);
  some_logits(b, n, logits);
  if (score != MOE_SCORE_SPARSE_MIXER && b.random.chance(0.4)) b.vector(a.bias, a.n_experts, -1, 1);
  const size_t ids = b.i32(a.ids, {n, a.top_k}, true, [](int64_t) { return 7777; });
  const size_t weights = b.output(a.weights, {n, a.top_k});
  b.array(ids).output = true;
  size_t count = weights;
  const bool has_count = dynamic != MOE_DYNAMIC_NONE || b.random.chance(0.3);
  if (has_count) {
    count = b.i32(a.count, {n}, true, [](int64_t) { return 7777; });
    b.array(count).output = true;
  }
  OpCase made = b.build(n, [](const moe_route_op_args&, const WeightRow&, Tolerances&) {});
  made.compare = [=](const moe_op_args& args, const std::deque<Array>&, const std::deque<Array>& got) -> std::string {
    const auto& r = reinterpret_cast<const moe_route_op_args&>(args);
    for (int64_t i = 0; i < r.logits.shape[0]; ++i) {
      const int32_t* id = got[ids].as<int32_t>() + i * r.ids.strides[0];
      const float* w = got[weights].as<float>() + i * r.weights.strides[0];
      const RouteRowResult row{{id, id + r.top_k}, {w, w + r.top_k}, has_count ? got[count].as<int32_t>()[i] : -1};
      if (auto wrong = check_route_row(r, i, row); !wrong.empty()) return wrong;
    }
    return "";
  };
  return made;
}

}  // namespace patchbay::conformance
