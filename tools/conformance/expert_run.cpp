#include "tools/conformance/expert_run.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include "moe/sdk/growth.hpp"
#include "tools/conformance/subject.hpp"

namespace patchbay::conformance {
namespace {

constexpr int64_t kMostTokens = 64;

}  // namespace

ExpertCall ExpertCall::only(const std::vector<int64_t>& rows) const {
  return {static_cast<int64_t>(rows.size()),
          rows_of(x, n, rows),
          rows_of(ids, n, rows),
          rows_of(weights, n, rows),
          rows_of(count, n, rows),
          rows_of(out, n, rows),
          scale};
}

moe::Result<std::unique_ptr<ExpertRun>> ExpertRun::create(Kit& kit, Component<moe_expert> table,
                                                          const moe_expert_config& config,
                                                          const std::vector<GivenOption>& given) {
  MOE_ASSIGN(Compute * compute, kit.compute());
  std::unique_ptr<ExpertRun> run(new ExpertRun(*compute, std::move(table), config));
  MOE_ASSIGN(const OptionValues options, check_options(run->table_.header(), given, run->table_.header().name));
  MOE_TRY(across([&](moe_message* m) {
    return run->table_->create(kit.host().get(), &run->config_, options.data(), options.size(), &run->instance_, m);
  }));
  if (run->instance_ == nullptr) return moe::internal("create: expected an instance with MOE_OK, got null");
  auto spec = moe::make<moe_expert_spec>();
  MOE_TRY(across([&](moe_message* m) { return run->table_->describe(run->instance_, &spec, m); }));
  MOE_TRY(moe::check_struct(&spec, "spec"));
  std::mt19937 random(42);
  std::normal_distribution<float> normal(0.0F, 0.4F);
  MOE_TRY(run->weights_.bind(spec.weights, spec.n_weights, [&] { return normal(random); }));
  MOE_TRY(across([&](moe_message* m) {
    return run->table_->prepare(run->instance_, &run->compute_.abi(), run->weights_.data(), run->weights_.size(),
                                kMostTokens, &run->workspace_bytes_, m);
  }));
  return run;
}

ExpertRun::~ExpertRun() {
  if (instance_ != nullptr) table_->destroy(instance_);
}

ExpertCall ExpertRun::random_call(int64_t n, uint32_t seed) const {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  ExpertCall call;
  call.n = n;
  call.x.resize(static_cast<size_t>(n * config_.d_model));
  call.out.resize(call.x.size());
  for (float& v : call.x) v = normal(random);
  for (float& v : call.out) v = normal(random);
  if (config_.n_experts == 0) return call;
  std::vector<int32_t> all(static_cast<size_t>(config_.n_experts + config_.n_zero_experts));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < n; ++i) {
    std::shuffle(all.begin(), all.end(), random);
    for (int64_t j = 0; j < config_.k_max; ++j) {
      call.ids.push_back(all[static_cast<size_t>(j)]);
      call.weights.push_back(std::fabs(normal(random)) + 0.1F);
    }
  }
  return call;
}

moe::Status ExpertRun::prepare_call(const ExpertCall& call) {
  using Use = CallMemory::Use;
  memory_ = std::make_unique<CallMemory>(&compute_);
  CallMemory& m = *memory_;
  const int64_t n = call.n;
  args_ = moe::make<moe_expert_args>();
  args_.n_tokens = n;
  args_.x = m.tensor("x", call.x, n, config_.d_model, Use::kInput);
  args_.plan = moe::make<moe_plan>();
  args_.plan.weight_on = config_.weight_on;
  const bool routed = config_.n_experts > 0;
  args_.plan.ids = routed ? m.tensor("ids", call.ids, n, config_.k_max, Use::kInput) : moe::absent();
  args_.plan.weights = routed ? m.tensor("weights", call.weights, n, config_.k_max, Use::kInput) : moe::absent();
  args_.plan.count = call.count.empty() ? moe::absent() : m.tensor("count", call.count, n, 0, Use::kInput);
  args_.plan.aux = moe::absent();
  args_.out = m.tensor("out", call.out, n, config_.d_model, Use::kOutput);
  args_.scale = call.scale;
  args_.workspace = m.add("workspace", nullptr, workspace_bytes_, Use::kOutput);
  args_.workspace_bytes = workspace_bytes_;
  return m.status();
}

moe::Status ExpertRun::refill(const ExpertCall& call) {
  auto memory = std::move(memory_);
  const moe_expert_args args = args_;
  MOE_TRY(prepare_call(call));
  memory->refill(*memory_);
  memory_ = std::move(memory);
  args_ = args;
  return memory_->status();
}

moe::Status ExpertRun::launch() {
  const CheckHost::ComputeScope scope;
  return across([&](moe_message* m) { return table_->forward(instance_, &args_, m); });
}

moe::Result<std::vector<float>> ExpertRun::finish() {
  MOE_TRY(compute_.sync());
  auto out = memory_->values<float>(args_.out);
  MOE_TRY(memory_->status());
  return out;
}

moe::Result<std::vector<float>> ExpertRun::forward(const ExpertCall& call) {
  MOE_TRY(prepare_call(call));
  MOE_TRY(launch());
  return finish();
}

void ExpertRun::retire() {
  (void)compute_.sync();
  memory_->spoil();
  retired_.push_back(std::move(memory_));
}
std::string ExpertRun::writes_to_retired() {
  for (auto& m : retired_) {
    if (std::string found = m->violations(true); !found.empty()) return found;
  }
  return "";
}

namespace {

class ExpertSubject final : public Subject {
 public:
  explicit ExpertSubject(Kit& kit) : kit_(kit) {}

  moe::Status create(const std::vector<GivenOption>& given) override {
    destroy();
    moe::Status last;
    for (const int64_t d_shared : {16, 0}) {  // shared experts may be more than it takes
      auto run = ExpertRun::create(kit_, kit_.component<moe_expert>(), layer(d_shared), given);
      if (run.ok()) run_ = std::move(run).value();
      if (run.ok()) return {};
      last = run.error();
    }
    return last;
  }
  void destroy() override { run_.reset(); }
  moe::Status create_only(const std::vector<GivenOption>& given) override {
    MOE_ASSIGN(const OptionValues options, check_options(kit_.header(), given, kit_.header().name));
    const auto table = kit_.component<moe_expert>();
    moe::Status last;
    for (const int64_t d_shared : {16, 0}) {
      const moe_expert_config config = layer(d_shared);
      moe_expert_instance* instance = nullptr;
      last = across([&](moe_message* m) {
        return table->create(kit_.host().get(), &config, options.data(), options.size(), &instance, m);
      });
      if (last.ok()) table->destroy(instance);
      if (last.ok() || last.error().code != MOE_INVALID_ARGUMENT) break;
    }
    return last;
  }
  moe::Status set_input(uint32_t which) override { return run_->prepare_call(input(which)); }
  moe::Status refill(uint32_t which) override { return run_->refill(input(which)); }
  [[nodiscard]] void* stream() const override { return run_->stream(); }
  moe::Status call() override { return run_->launch(); }
  std::vector<uint8_t> output() override {
    auto out = run_->finish();
    if (!out.ok()) return {};
    const auto* bytes = reinterpret_cast<const uint8_t*>(out->data());
    return {bytes, bytes + out->size() * sizeof(float)};
  }
  std::string violations() override { return run_->violations(); }
  void retire_memory() override { run_->retire(); }
  std::string writes_to_retired() override { return run_->writes_to_retired(); }
  std::vector<std::pair<std::string, std::function<moe_status(moe_message*)>>> calls_with_unknown_bits() override {
    return {{"create",
             [this](moe_message* m) {
               moe_expert_config config = run_->config();
               config.must_understand = 1U << 31;
               auto options = check_options(kit_.header(), kit_.given(), "");
               moe_expert_instance* instance = nullptr;
               const moe_status s =
                   run_->table().create(kit_.host().get(), &config, options->data(), options->size(), &instance, m);
               if (instance != nullptr) run_->table().destroy(instance);
               return s;
             }},
            {"forward", [this](moe_message* m) {
               moe_expert_args args = run_->args();
               args.must_understand = 1U << 31;
               return run_->table().forward(run_->instance(), &args, m);
             }}};
  }
  std::string wrong_out_structs() override {
    return wrong_out_struct<moe_expert_spec>("describe", [this](moe_expert_spec* out) {
      return across([&](moe_message* m) { return run_->table().describe(run_->instance(), out, m); });
    });
  }

 private:
  [[nodiscard]] ExpertCall input(uint32_t which) const {
    constexpr int64_t kTokens[] = {17, 1, 3};
    return run_->random_call(kTokens[which % 3], which + 40);
  }
  static moe_expert_config layer(int64_t d_shared) {
    auto config = moe::make<moe_expert_config>();
    config.d_model = 40;
    config.n_experts = config.n_local_experts = 6;
    config.k_max = 3;
    config.d_expert = 24;
    config.d_shared = d_shared;
    config.activation = MOE_F32;
    return config;
  }
  Kit& kit_;
  std::unique_ptr<ExpertRun> run_;
};

}  // namespace

moe::Result<std::unique_ptr<Subject>> make_expert_subject(Kit& kit) {
  return std::unique_ptr<Subject>(std::make_unique<ExpertSubject>(kit));
}

}  // namespace patchbay::conformance
