// An expert of one layer under test, with random weights of every role that it declares.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "tools/conformance/kit.hpp"

namespace patchbay::conformance {

struct ExpertCall {
  int64_t n = 0;
  std::vector<float> x;        // [n, d_model]
  std::vector<int32_t> ids;    // [n, k_max]; empty in a dense layer
  std::vector<float> weights;  // [n, k_max]
  std::vector<int32_t> count;  // [n], or empty
  std::vector<float> out;      // [n, d_model]: what is there before
  float scale = 1.0F;

  // Some of its tokens, in the given order.
  [[nodiscard]] ExpertCall only(const std::vector<int64_t>& rows) const;
};

class ExpertRun {
 public:
  static moe::Result<std::unique_ptr<ExpertRun>> create(Kit& kit, Component<moe_expert> table,
                                                        const moe_expert_config& config,
                                                        const std::vector<GivenOption>& given);
  ~ExpertRun();
  ExpertRun(const ExpertRun&) = delete;
  ExpertRun& operator=(const ExpertRun&) = delete;

  [[nodiscard]] const moe_expert_config& config() const { return config_; }
  [[nodiscard]] moe_expert_instance* instance() const { return instance_; }
  [[nodiscard]] void* stream() const { return compute_.stream(); }
  [[nodiscard]] const moe_expert& table() const { return *table_.table; }
  [[nodiscard]] ExpertCall random_call(int64_t n, uint32_t seed) const;

  moe::Status prepare_call(const ExpertCall& call);
  // Other tokens, as many, in the memory of the prepared call.
  moe::Status refill(const ExpertCall& call);
  moe::Status launch();
  // out [n, d_model].
  moe::Result<std::vector<float>> finish();
  moe::Result<std::vector<float>> forward(const ExpertCall& call);
  std::string violations() { return memory_->violations(); }
  moe_expert_args& args() { return args_; }
  void retire();
  std::string writes_to_retired();

 private:
  ExpertRun(Compute& compute, Component<moe_expert> table, const moe_expert_config& config)
      : compute_(compute), table_(std::move(table)), config_(config), weights_(compute) {}

  Compute& compute_;
  Component<moe_expert> table_;
  moe_expert_config config_;
  moe_expert_instance* instance_ = nullptr;
  BoundWeights weights_;
  uint64_t workspace_bytes_ = 0;
  std::unique_ptr<CallMemory> memory_;
  std::deque<std::unique_ptr<CallMemory>> retired_;
  moe_expert_args args_{};
};

}  // namespace patchbay::conformance
