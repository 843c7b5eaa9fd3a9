// What holds for every router, whatever it computes: the plan that it returns, ties, rows, its context.
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "moe/sdk/growth.hpp"
#include "tools/conformance/checks.hpp"
#include "tools/conformance/router_run.hpp"

namespace patchbay::conformance {
namespace {

moe_router_config layer(int64_t n_experts, int64_t n_zero_experts, int64_t at) {
  auto config = moe::make<moe_router_config>();
  config.layer = at;
  config.n_layers = 4;
  config.d_model = 32;
  config.n_experts = n_experts;
  config.n_zero_experts = n_zero_experts;
  config.n_vocab = 100;
  return config;
}

bool refused(const moe::Error& error) { return error.code == MOE_INVALID_ARGUMENT || error.code == MOE_UNIMPLEMENTED; }

// Calls f with every layer and set of options that the router takes: its defaults on several layers, and every variant
// of its options on the first of them that it takes.
void for_each_setup(Kit& kit, Findings& findings, WeightFill fill,
                    const std::function<void(RouterRun&, const std::string&)>& f) {
  const std::vector<moe_router_config> layers = {layer(8, 0, 0), layer(8, 0, 2), layer(16, 0, 1), layer(8, 4, 1),
                                                 layer(64, 0, 3)};
  bool any = false;
  for (const auto& config : layers) {
    const auto variants =
        any ? std::vector<std::vector<GivenOption>>{kit.given()} : option_variants(kit.header(), kit.given());
    for (const auto& given : variants) {
      auto run = RouterRun::create(kit, kit.component<moe_router>(), {config, given, fill});
      const std::string where = fmt::format("{} experts + {} zero, layer {}, {}", config.n_experts,
                                            config.n_zero_experts, config.layer, to_text(given));
      if (!run.ok() && !refused(run.error())) findings.fail(run.error().in(where));
      if (!run.ok() && &given == &variants.front()) break;  // not for this layer
      if (!run.ok()) continue;
      any = true;
      f(**run, where);
    }
  }
  if (!any)
    findings.fail(
        "create: expected a router for one of five layers of 8 to 64 experts with its default options, got none");
}

void declares_itself(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_setup(*kit, findings, WeightFill::kRandom, [&](RouterRun& run, const std::string& where) {
    const moe_router_spec& s = run.spec();
    const auto expect = [&](bool holds, const std::string& what) {
      if (!holds) findings.fail(fmt::format("{}: {}", where, what));
    };
    expect(s.k_max >= 1 && s.k_max <= run.n_ids(),
           fmt::format("k_max: expected 1 to {}, got {}", run.n_ids(), s.k_max));
    constexpr uint32_t kInputs =
        MOE_INPUT_HIDDEN | MOE_INPUT_BEFORE_ATTENTION | MOE_INPUT_PREVIOUS_PLAN | MOE_INPUT_HOST;
    expect((s.inputs & ~kInputs) == 0, fmt::format("inputs: expected bits of MOE_INPUT_*, got {:#x}", s.inputs));
    expect(s.n_logits >= 0, fmt::format("n_logits: expected 0 or more, got {}", s.n_logits));
    expect(s.context_floats >= 0 && s.context_floats <= 1 << 20,
           fmt::format("context_floats: expected 0 to 2^20, got {}", s.context_floats));
    expect(s.aux_floats >= 0 && s.aux_floats <= 1 << 20,
           fmt::format("aux_floats: expected 0 to 2^20, got {}", s.aux_floats));
    expect(s.weight_on == MOE_WEIGHT_ON_OUTPUT || s.weight_on == MOE_WEIGHT_ON_INPUT,
           fmt::format("weight_on: got {}", s.weight_on));
    expect(s.dynamic == 0 || s.dynamic == 1, fmt::format("dynamic: expected 0 or 1, got {}", s.dynamic));
    expect(std::isfinite(s.weights_sum) && s.weights_sum >= 0,
           fmt::format("weights_sum: expected 0 or more, got {}", s.weights_sum));
    std::set<std::string> roles;
    for (uint32_t i = 0; i < s.n_weights; ++i) {
      const auto& w = moe::nth(s.weights, i);
      expect(roles.insert(w.role).second, fmt::format("weights: expected the role {} once, got it twice", w.role));
      expect(w.placement >= MOE_PLACE_PREPARED && w.placement <= MOE_PLACE_HOST,
             fmt::format("weight {}: placement {}", w.role, w.placement));
    }
    auto again = moe::make<moe_router_spec>();
    const auto status = across([&](moe_message* m) { return run.table().describe(run.instance(), &again, m); });
    expect(status.ok() && again.k_max == s.k_max && again.n_logits == s.n_logits && again.inputs == s.inputs &&
               again.n_weights == s.n_weights && again.context_floats == s.context_floats,
           "describe: expected the same answer the second time, got another");
  });
}

// What is wrong with row i; empty: nothing.
std::string wrong_row(const RouterRun& run, const RouterPlan& plan, int64_t i, float spread) {
  const int32_t count = plan.count[static_cast<size_t>(i)];
  if (count < 1 || count > plan.k) return fmt::format("count: expected 1 to {}, got {}", plan.k, count);
  std::set<int32_t> seen;
  double sum = 0;
  for (int64_t j = 0; j < plan.k; ++j) {
    const int32_t id = plan.ids[static_cast<size_t>(i * plan.k + j)];
    const float w = plan.weights[static_cast<size_t>(i * plan.k + j)];
    if (id < 0 || id >= run.n_ids()) return fmt::format("ids[{}]: expected 0 to {}, got {}", j, run.n_ids() - 1, id);
    if (!std::isfinite(w)) return fmt::format("weights[{}]: expected a finite number, got {}", j, w);
    if (j < count && !seen.insert(id).second)
      return fmt::format("ids[{}]: expected distinct experts, got {} twice", j, id);
    if (j >= count && w != 0) return fmt::format("weights[{}]: expected 0 from count ({}) on, got {}", j, count, w);
    sum += w;
  }
  const double declared = run.spec().weights_sum;
  if (declared > 0 && spread <= 10 && !(std::fabs(sum - declared) <= 1e-4 * declared))
    return fmt::format("weights: expected the declared sum {}, got {}", declared, sum);
  return "";
}

void plan_is_legal(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_setup(*kit, findings, WeightFill::kRandom, [&](RouterRun& run, const std::string& where) {
    for (const float spread : {0.01F, 1.0F, 10.0F, 100.0F}) {
      for (const int64_t n : {0, 1, 2, 37}) {
        auto plan = run.route(run.random_call(n, static_cast<uint32_t>(n) + 3, spread));
        if (!plan.ok()) return findings.fail(plan.error().in(where));
        for (int64_t i = 0; i < n; ++i) {
          const std::string wrong = wrong_row(run, *plan, i, spread);
          if (!wrong.empty()) return findings.fail(fmt::format("{}, token {} of {}: {}", where, i, n, wrong));
        }
        for (const float a : plan->aux) {
          if (!std::isfinite(a))
            return findings.fail(fmt::format("{}: aux: expected every float to be written, got {}", where, a));
        }
      }
    }
  });
}

void ties_go_to_the_lower_id(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  int tried = 0;
  for_each_setup(*kit, findings, WeightFill::kConstant, [&](RouterRun& run, const std::string& where) {
    RouterCall call = run.random_call(4, 3);
    std::fill(call.logits.begin(), call.logits.end(), 0.5F);
    auto plan = run.route(call);
    if (!plan.ok()) return findings.fail(plan.error().in(where));
    for (int64_t i = 0; i < call.n; ++i) {
      const auto row = static_cast<size_t>(i * plan->k);
      for (int32_t j = 1; j < plan->count[static_cast<size_t>(i)]; ++j) {
        const auto at = row + static_cast<size_t>(j);
        // What weighs the same was scored the same: all that tells them apart is the id.
        if (plan->weights[at] != plan->weights[at - 1] || plan->ids[at] > plan->ids[at - 1]) continue;
        return findings.fail(fmt::format("{}: expected equal scores in ascending order of ids, got {} before {}", where,
                                         plan->ids[at - 1], plan->ids[at]));
      }
    }
    // A router that looks at the logits alone has nothing else to choose by.
    if (run.spec().n_logits == 0 || (run.spec().inputs & ~static_cast<uint32_t>(MOE_INPUT_HOST)) != 0) return;
    RouterCall other = call;
    for (auto& id : other.token_ids) id = (id + 41) % 100;
    auto same = run.route(other);
    if (!same.ok() || same->ids != plan->ids || plan->row(0) != plan->row(3)) return;  // it does look at the token
    ++tried;
    for (int32_t j = 0; j < plan->count[0]; ++j) {
      if (plan->ids[static_cast<size_t>(j)] != j)
        return findings.fail(fmt::format("{}: all logits equal: expected the ids 0, 1, ..., got {} as number {}", where,
                                         plan->ids[static_cast<size_t>(j)], j));
    }
  });
  findings.note(fmt::format("{} setups choose by logits alone", tried));
}

void broken_inputs_harm_one_row(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  for_each_setup(*kit, findings, WeightFill::kRandom, [&](RouterRun& run, const std::string& where) {
    if (run.spec().context_floats > 0) return;  // what broke stays in the sequence, as it should
    const RouterCall good = run.random_call(5, 9);
    auto want = run.route(good);
    if (!want.ok()) return findings.fail(want.error().in(where));
    for (const float broken : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      RouterCall call = good;
      const auto spoil = [&](std::vector<float>& values, int64_t width) {
        for (int64_t c = 0; c < width; ++c) values[static_cast<size_t>(2 * width + c)] = broken;
      };
      spoil(call.logits, run.spec().n_logits);
      spoil(call.hidden, run.config().d_model);
      spoil(call.before_attention, run.config().d_model);
      auto got = run.route(call);
      if (!got.ok())
        return findings.fail(got.error().in(where + ": one token's inputs are " + std::to_string(broken) +
                                            ": expected its failure alone"));
      for (int64_t i = 0; i < 5; ++i) {
        if (i != 2 && got->row(i) != want->row(i))
          return findings.fail(fmt::format(
              "{}: token 2 has inputs {}: expected token {} to be as before, got another plan", where, broken, i));
      }
      for (int64_t j = 0; j < got->k; ++j) {
        const int32_t id = got->ids[static_cast<size_t>(2 * got->k + j)];
        if (id < 0 || id >= run.n_ids())
          return findings.fail(
              fmt::format("{}: inputs {}: expected ids that are legal all the same, got {}", where, broken, id));
      }
    }
  });
}

// The rows of a call of 24 tokens, routed in pieces.
std::vector<std::vector<uint8_t>> in_pieces(RouterRun& run, const RouterCall& call,
                                            const std::vector<std::vector<int64_t>>& pieces, std::string& error) {
  std::vector<std::vector<uint8_t>> rows(static_cast<size_t>(call.n));
  for (const auto& piece : pieces) {
    auto plan = run.route(call.only(piece));
    if (!plan.ok()) {
      error = plan.error().message;
      return rows;
    }
    for (size_t i = 0; i < piece.size(); ++i) rows[static_cast<size_t>(piece[i])] = plan->row(static_cast<int64_t>(i));
  }
  return rows;
}

std::vector<int64_t> range(int64_t first, int64_t last) {
  std::vector<int64_t> out(static_cast<size_t>(last - first));
  std::iota(out.begin(), out.end(), first);
  return out;
}

constexpr int64_t kTokens = 24;

void router_rows_do_not_depend_on_each_other(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  if ((kit->header().capabilities & MOE_CAP_BATCH_INVARIANT) == 0)
    return findings.skip("MOE_CAP_BATCH_INVARIANT is not claimed");
  for_each_setup(*kit, findings, WeightFill::kRandom, [&](RouterRun& run, const std::string& where) {
    const RouterCall call = run.random_call(kTokens, 21, 2.0F);
    std::string error;
    std::vector<std::vector<std::vector<int64_t>>> ways = {{range(0, 7), range(7, 24)},
                                                           {range(0, 1), range(1, 2), range(2, 24)}};
    if (run.spec().context_floats == 0) {  // without a past, tokens may come in any order
      auto reversed = range(0, kTokens);
      std::reverse(reversed.begin(), reversed.end());
      ways.push_back({reversed});
    }
    const auto whole = in_pieces(run, call, {range(0, kTokens)}, error);
    for (const auto& way : ways) {
      const auto parts = in_pieces(run, call, way, error);
      if (!error.empty()) return findings.fail(where + ": " + error);
      for (size_t i = 0; i < whole.size(); ++i) {
        if (whole[i] != parts[i])
          return findings.fail(
              fmt::format("{}: token {}: expected the same bits in another batch, got others", where, i));
      }
    }
  });
}

void context_follows_its_sequence(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  int tried = 0;
  for_each_setup(*kit, findings, WeightFill::kRandom, [&](RouterRun& run, const std::string& where) {
    if (run.spec().context_floats == 0) return;
    ++tried;
    std::string error;
    const RouterCall call = run.random_call(kTokens, 33, 2.0F);
    const auto want = in_pieces(run, call, {range(0, kTokens)}, error);
    // After a preemption: other pages, nothing of the past in them, and computed again in other pieces.
    run.deal_pages(7);
    const auto again = in_pieces(run, call, {range(0, 5), range(5, 6), range(6, kTokens)}, error);
    // Beside another sequence, token by token.
    run.deal_pages(8);
    RouterCall beside = run.random_call(2 * kTokens, 34, 2.0F);
    std::vector<std::vector<int64_t>> steps;
    for (int64_t i = 0; i < kTokens; ++i) {
      for (const int64_t s : {0, 1}) {
        const auto at = static_cast<size_t>(2 * i + s);
        beside.positions[at] = static_cast<int32_t>(i);
        beside.sequences[at] = static_cast<int32_t>(2 * s);
      }
      const auto put = [&](std::vector<float>& to, const std::vector<float>& from, int64_t width) {
        std::copy_n(from.begin() + i * width, width, to.begin() + 2 * i * width);
      };
      put(beside.logits, call.logits, run.spec().n_logits);
      put(beside.hidden, call.hidden, run.config().d_model);
      put(beside.before_attention, call.before_attention, run.config().d_model);
      put(beside.previous.aux, call.previous.aux, call.previous.k > 0 ? run.spec().aux_floats : 0);
      beside.token_ids[static_cast<size_t>(2 * i)] = call.token_ids[static_cast<size_t>(i)];
      for (int64_t j = 0; j < call.previous.k; ++j)
        beside.previous.ids[static_cast<size_t>(2 * i * call.previous.k + j)] =
            call.previous.ids[static_cast<size_t>(i * call.previous.k + j)];
      steps.push_back({2 * i, 2 * i + 1});
    }
    const auto among = in_pieces(run, beside, steps, error);
    if (!error.empty()) return findings.fail(where + ": " + error);
    for (size_t i = 0; i < want.size(); ++i) {
      if (again[i] != want[i])
        return findings.fail(
            fmt::format("{}: token {}: expected the same plan after a preemption, got another", where, i));
      if (among[2 * i] != want[i])
        return findings.fail(
            fmt::format("{}: token {}: expected the same plan beside another sequence, got another", where, i));
    }
  });
  if (tried == 0) findings.skip("it keeps no context");
}

}  // namespace

const std::vector<Check>& router_checks() {
  static const std::vector<Check> checks = [] {
    std::vector<Check> all = {
        {"declares_itself", "what it declares makes sense and does not change", declares_itself},
        {"plan_is_legal", "ids are distinct and of the layer, weights finite and of the declared sum, every row filled",
         plan_is_legal},
        {"ties_go_to_the_lower_id", "equal scores go to the lower id", ties_go_to_the_lower_id},
        {"broken_inputs_harm_one_row", "a token with NaN or infinity harms no other, and its ids are legal",
         broken_inputs_harm_one_row},
        {"rows_do_not_depend_on_each_other", "a token's plan is the same bits in any batch",
         router_rows_do_not_depend_on_each_other},
        {"context_follows_its_sequence",
         "its context gives the same plan in chunks, beside others and after a preemption",
         context_follows_its_sequence},
        {"matches_its_golden_vectors", "it decides as the vectors say", router_matches_golden},
    };
    append_general_checks(all);
    return all;
  }();
  return checks;
}

}  // namespace patchbay::conformance
