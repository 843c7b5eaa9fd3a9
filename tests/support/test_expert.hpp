// An expert of one layer with random weights of every role that it declares, and random inputs for it.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "tests/support/test_compute.hpp"

namespace patchbay::test {

class TestExpert {
 public:
  static moe::Result<std::unique_ptr<TestExpert>> create(Compute& compute, Component<moe_expert> table,
                                                         const moe_expert_config& config,
                                                         const std::vector<GivenOption>& given) {
    std::unique_ptr<TestExpert> l(new TestExpert);
    l->config_ = config;
    l->table_ = std::move(table);
    MOE_ASSIGN(const auto options, check_options(l->table_.header(), given, l->table_.header().name));
    moe::MessageBuffer message;
    moe_status status =
        l->table_->create(host().abi(), &config, options.data(), options.size(), &l->instance_, message.get());
    if (status != MOE_OK) return message.error(status);
    auto spec = moe::make<moe_expert_spec>();
    status = l->table_->describe(l->instance_, &spec, message.get());
    if (status != MOE_OK) return message.error(status);
    std::mt19937 random(42);
    std::normal_distribution<float> normal(0.0F, 0.4F);
    std::vector<moe_bound_weight> bound;
    for (uint32_t i = 0; i < spec.n_weights; ++i) {
      const moe_weight_spec& w = spec.weights[i];
      auto& values = l->weights[w.role];
      values.resize(static_cast<size_t>(w.n_groups * w.n_out * w.n_in));
      for (float& v : values) v = normal(random);
      const bool prepared = w.placement == MOE_PLACE_PREPARED;
      bound.push_back({w.role, prepared ? compute.prepare(w, values) : nullptr, prepared ? nullptr : values.data()});
    }
    status = l->table_->prepare(l->instance_, &compute.abi(), bound.data(), spec.n_weights, 64, &l->workspace_bytes_,
                                message.get());
    if (status != MOE_OK) return message.error(status);
    return l;
  }
  ~TestExpert() {
    if (instance_ != nullptr) table_->destroy(instance_);
  }

  struct Input {
    int64_t n = 0;
    std::vector<float> x;        // [n, d_model]
    std::vector<int32_t> ids;    // [n, k]
    std::vector<float> weights;  // [n, k]
    std::vector<int32_t> count;  // [n], or empty
    std::vector<float> out;      // [n, d_model]: what is there before
    float scale = 1.0F;
  };
  // Distinct ids below n_ids, in no order.
  [[nodiscard]] Input random_input(int64_t n, int64_t n_ids, uint32_t seed = 9) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0F, 1.0F);
    Input in;
    in.n = n;
    in.x.resize(static_cast<size_t>(n * config_.d_model));
    in.out.resize(in.x.size());
    for (float& v : in.x) v = normal(random);
    for (float& v : in.out) v = normal(random);
    std::vector<int32_t> all(static_cast<size_t>(n_ids));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    for (int64_t i = 0; i < n; ++i) {
      std::shuffle(all.begin(), all.end(), random);
      for (int64_t j = 0; j < config_.k_max; ++j) {
        in.ids.push_back(all[static_cast<size_t>(j)]);
        in.weights.push_back(std::fabs(normal(random)));
      }
    }
    return in;
  }

  std::vector<float> forward(const Input& in) {
    std::vector<float> out = in.out;
    Workspace workspace(workspace_bytes_);
    auto args = moe::make<moe_expert_args>();
    args.n_tokens = in.n;
    args.x = moe::tensor(in.x.data(), {in.n, config_.d_model});
    args.plan = moe::make<moe_plan>();
    args.plan.weight_on = config_.weight_on;
    const bool routed = config_.n_experts > 0;
    args.plan.ids = routed ? moe::tensor(in.ids.data(), {in.n, config_.k_max}) : moe::absent();
    args.plan.weights = routed ? moe::tensor(in.weights.data(), {in.n, config_.k_max}) : moe::absent();
    args.plan.count = in.count.empty() ? moe::absent() : moe::tensor(in.count.data(), {in.n});
    args.plan.aux = moe::absent();
    args.out = moe::tensor(out.data(), {in.n, config_.d_model});
    args.scale = in.scale;
    args.workspace = workspace.data();
    args.workspace_bytes = workspace.n_bytes();
    moe::MessageBuffer message;
    EXPECT_EQ(table_->forward(instance_, &args, message.get()), MOE_OK) << message.text();
    return out;
  }

  std::map<std::string, std::vector<float>> weights;  // by role

 private:
  TestExpert() = default;
  Component<moe_expert> table_;
  moe_expert_instance* instance_ = nullptr;
  moe_expert_config config_{};
  uint64_t workspace_bytes_ = 0;
};

}  // namespace patchbay::test
