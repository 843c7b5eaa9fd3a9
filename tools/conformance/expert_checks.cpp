// What holds for every expert layer, whatever its experts compute: it adds to what is there, weighs by the plan, row by
// row.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tools/conformance/checks.hpp"
#include "tools/conformance/expert_run.hpp"

namespace patchbay::conformance {
namespace {

moe_expert_config layer(int64_t n_experts, int64_t n_zero, int64_t d_shared, int64_t k) {
  auto config = moe::make<moe_expert_config>();
  config.d_model = 40;
  config.n_experts = config.n_local_experts = n_experts;
  config.n_zero_experts = n_zero;
  config.k_max = k;
  config.d_expert = n_experts > 0 ? 24 : 0;
  config.d_shared = d_shared;
  config.activation = MOE_F32;
  return config;
}

// Every layer and set of options that the expert takes.
void for_each_setup(Kit& kit, Findings& findings, const std::function<void(ExpertRun&, const std::string&)>& f) {
  bool any = false;
  for (const auto& config : {layer(6, 0, 0, 3), layer(6, 0, 16, 3), layer(6, 2, 0, 3), layer(0, 0, 16, 0)}) {
    for (const auto& given : option_variants(kit.header(), kit.given())) {
      auto run = ExpertRun::create(kit, kit.component<moe_expert>(), config, given);
      const std::string where = fmt::format("{} experts + {} zero, d_shared {}, {}", config.n_experts,
                                            config.n_zero_experts, config.d_shared, to_text(given));
      if (!run.ok() && run.error().code != MOE_INVALID_ARGUMENT && run.error().code != MOE_UNIMPLEMENTED)
        findings.fail(run.error().in(where));
      if (!run.ok()) continue;
      any = true;
      f(**run, where);
    }
  }
  if (!any) findings.fail("create: expected an expert for one of four layers with its default options, got none");
}

double largest(const std::vector<float>& v) {
  double most = 0;
  for (const float x : v) most = std::max(most, std::fabs(static_cast<double>(x)));
  return most;
}

// out = before + scale * f(x, plan) with f linear in the plan's weights, where they weigh the output.
void adds_what_the_plan_weighs(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_setup(*kit, findings, [&](ExpertRun& run, const std::string& where) {
    const auto added = [&](const ExpertCall& call) -> moe::Result<std::vector<float>> {
      MOE_ASSIGN(auto out, run.forward(call));
      for (size_t i = 0; i < out.size(); ++i) out[i] -= call.out[i];
      return out;
    };
    for (const int64_t n : {0, 1, 9}) {
      ExpertCall call = run.random_call(n, 3);
      auto once = added(call);
      if (!once.ok()) return findings.fail(once.error().in(where));
      for (const float x : *once) {
        if (!std::isfinite(x)) return findings.fail(fmt::format("{}: expected finite numbers, got {}", where, x));
      }
      const double tolerance = 1e-4 * (largest(*once) + largest(call.out)) + 1e-6;
      ExpertCall scaled = call;
      scaled.scale = 3;
      auto thrice = added(scaled);
      ExpertCall doubled = call;
      for (float& w : doubled.weights) w *= 2;
      auto twice = added(doubled);
      ExpertCall without = call;
      for (float& w : without.weights) w = 0;
      auto rest = added(without);  // shared experts
      if (!thrice.ok() || !twice.ok() || !rest.ok())
        return findings.fail(where + ": forward failed with other weights");
      for (size_t i = 0; i < once->size(); ++i) {
        if (!(std::fabs((*thrice)[i] - 3 * (*once)[i]) <= 4 * tolerance))
          return findings.fail(fmt::format("{}: scale 3: expected 3 times as much to be added, got {} for {}", where,
                                           (*thrice)[i], (*once)[i]));
        if (!(std::fabs((*twice)[i] - (2 * (*once)[i] - (*rest)[i])) <= 4 * tolerance))
          return findings.fail(fmt::format("{}: weights doubled: expected the routed part to double, got {} for {}",
                                           where, (*twice)[i], (*once)[i]));
      }
    }
  });
}

void ignores_what_does_not_count(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_setup(*kit, findings, [&](ExpertRun& run, const std::string& where) {
    if (run.config().n_experts == 0) return;
    ExpertCall call = run.random_call(6, 5);
    const int64_t k = run.config().k_max;
    for (int32_t i = 0; i < 6; ++i) call.count.push_back(1 + i % static_cast<int32_t>(k));
    ExpertCall other = call;
    for (int64_t i = 0; i < 6; ++i) {
      for (int64_t j = call.count[static_cast<size_t>(i)]; j < k; ++j) {
        call.weights[static_cast<size_t>(i * k + j)] = 0;
        other.weights[static_cast<size_t>(i * k + j)] = 0;
        other.ids[static_cast<size_t>(i * k + j)] = other.ids[static_cast<size_t>(i * k)];
      }
    }
    auto a = run.forward(call);
    auto b = run.forward(other);
    if (!a.ok()) return findings.fail(a.error().in(where));
    if (!b.ok()) return findings.fail(b.error().in(where));
    if (*a != *b)
      findings.fail(where + ": expected columns from count on to be ignored, got another result with other ids there");
  });
}

void expert_rows_do_not_depend_on_each_other(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  if ((kit->header().capabilities & MOE_CAP_BATCH_INVARIANT) == 0)
    return findings.skip("MOE_CAP_BATCH_INVARIANT is not claimed");
  for_each_setup(*kit, findings, [&](ExpertRun& run, const std::string& where) {
    const ExpertCall call = run.random_call(12, 8);
    auto all = run.forward(call);
    if (!all.ok()) return findings.fail(all.error().in(where));
    const auto d = run.config().d_model;
    for (int64_t i = 0; i < call.n; ++i) {
      auto alone = run.forward(call.only({i}));
      if (!alone.ok()) return findings.fail(alone.error().in(where));
      if (std::memcmp(alone->data(), all->data() + i * d, static_cast<size_t>(d) * 4) != 0)
        return findings.fail(
            fmt::format("{}: token {}: expected the same bits alone as in a batch, got others", where, i));
    }
  });
}

}  // namespace

const std::vector<Check>& expert_checks() {
  static const std::vector<Check> checks = [] {
    std::vector<Check> all = {
        {"adds_what_the_plan_weighs",
         "what it adds to the residual stream is linear in scale and in the plan's weights", adds_what_the_plan_weighs},
        {"ignores_what_does_not_count", "columns of the plan from count on are ignored", ignores_what_does_not_count},
        {"rows_do_not_depend_on_each_other", "a token is the same bits in any batch",
         expert_rows_do_not_depend_on_each_other},
    };
    append_general_checks(all);
    return all;
  }();
  return checks;
}

}  // namespace patchbay::conformance
