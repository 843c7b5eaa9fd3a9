// A router of one layer under test: created, bound to weights, and called with memory that tells what was done to it.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/conformance/compute.hpp"
#include "tools/conformance/kit.hpp"

namespace patchbay::conformance {

// The decision of a layer below, [n, k].
struct PreviousPlan {
  int64_t k = 0;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<float> aux;  // [n, aux_floats]
};

// One call's tokens. Sequences are rows of the page table.
struct RouterCall {
  int64_t n = 0;
  std::vector<float> logits;            // [n, n_logits]
  std::vector<float> hidden;            // [n, d_model]
  std::vector<float> before_attention;  // [n, d_model]
  std::vector<int32_t> token_ids;
  std::vector<int32_t> positions;
  std::vector<int32_t> sequences;
  PreviousPlan previous;

  // Some of its tokens, in the given order.
  [[nodiscard]] RouterCall only(const std::vector<int64_t>& rows) const;
};

// What it decided for n tokens.
struct RouterPlan {
  int64_t k = 0;
  std::vector<int32_t> ids;    // [n, k]
  std::vector<float> weights;  // [n, k]
  std::vector<int32_t> count;  // [n]; k where the router does not fill it
  std::vector<float> aux;      // [n, aux_floats]

  // Row i as bytes: ids and weights that count, and aux.
  [[nodiscard]] std::vector<uint8_t> row(int64_t i) const;
};

enum class WeightFill {
  kRandom,
  kConstant  // every expert's weights are alike
};

struct RouterSetup {
  moe_router_config config = moe::make<moe_router_config>();
  std::vector<GivenOption> given;
  WeightFill fill = WeightFill::kRandom;
  std::map<std::string, std::vector<float>> values = {};  // of weights by role, in the place of `fill`
  int64_t max_tokens = 64;
};

class RouterRun {
 public:
  static constexpr int64_t kSequences = 3;
  static constexpr int64_t kPageTokens = 8;
  static constexpr int64_t kPages = 8;  // of a sequence

  static moe::Result<std::unique_ptr<RouterRun>> create(Kit& kit, Component<moe_router> table,
                                                        const RouterSetup& setup);
  ~RouterRun();
  RouterRun(const RouterRun&) = delete;
  RouterRun& operator=(const RouterRun&) = delete;

  [[nodiscard]] const moe_router_spec& spec() const { return spec_; }
  [[nodiscard]] const moe_router_config& config() const { return setup_.config; }
  [[nodiscard]] int64_t n_ids() const { return setup_.config.n_experts + setup_.config.n_zero_experts; }
  [[nodiscard]] moe_router_instance* instance() const { return instance_; }
  [[nodiscard]] void* stream() const { return on_host() ? nullptr : compute_.stream(); }
  [[nodiscard]] const moe_router& table() const { return *table_.table; }

  // n tokens of sequence 0 from position 0 on, logits normal with this spread.
  [[nodiscard]] RouterCall random_call(int64_t n, uint32_t seed, float spread = 1.0F) const;

  // The parts of a call, for rules that look between them; route() is all of them.
  moe::Status prepare_call(const RouterCall& call);
  // Other tokens, as many, in the memory of the prepared call.
  moe::Status refill(const RouterCall& call);
  moe::Status launch();
  moe::Result<RouterPlan> finish();
  // What was written that may not be; empty: nothing.
  std::string violations();
  moe::Result<RouterPlan> route(const RouterCall& call);

  // Arguments of the prepared call.
  moe_route_args& args() { return args_; }
  // Keeps the call's memory, filled with 0xFF.
  void retire();
  std::string writes_to_retired();
  // Other pages for every sequence, and nothing but NaN in them.
  void deal_pages(uint32_t seed);

 private:
  RouterRun(Compute& compute, Component<moe_router> table, const RouterSetup& setup)
      : compute_(compute), table_(std::move(table)), setup_(setup), weights_(compute) {}
  [[nodiscard]] bool on_host() const { return (spec_.inputs & MOE_INPUT_HOST) != 0; }
  moe::Status check_context_writes(const RouterCall& call);

  Compute& compute_;
  Component<moe_router> table_;
  RouterSetup setup_;
  moe_router_instance* instance_ = nullptr;
  moe_router_spec spec_ = moe::make<moe_router_spec>();
  BoundWeights weights_;
  uint64_t workspace_bytes_ = 0;

  std::unique_ptr<CallMemory> context_memory_;
  std::vector<int32_t> page_table_;  // [kSequences, kPages]
  moe_tensor context_rows_{};
  std::vector<float> context_before_;

  std::unique_ptr<CallMemory> memory_;
  std::deque<std::unique_ptr<CallMemory>> retired_;
  moe_route_args args_{};
  std::optional<moe_plan> previous_;
  RouterCall call_;
};

}  // namespace patchbay::conformance
