#include "tools/conformance/router_run.hpp"
#include "tools/conformance/subject.hpp"

namespace patchbay::conformance {
namespace {

class RouterSubject final : public Subject {
 public:
  explicit RouterSubject(Kit& kit) : kit_(kit) {}

  moe::Status create(const std::vector<GivenOption>& given) override {
    destroy();
    moe::Status last;
    for (const auto& config : layers()) {  // the first that it takes
      auto run = RouterRun::create(kit_, kit_.component<moe_router>(), {config, given});
      if (run.ok()) {
        run_ = std::move(run).value();
        return {};
      }
      last = run.error();
      if (run.error().code != MOE_INVALID_ARGUMENT) break;
    }
    return last;
  }
  void destroy() override { run_.reset(); }
  moe::Status create_only(const std::vector<GivenOption>& given) override {
    moe::Status last;
    for (const auto& config : layers()) {
      last = create_on(config, given);
      if (last.ok() || last.error().code != MOE_INVALID_ARGUMENT) break;
    }
    return last;
  }
  moe::Status set_input(uint32_t which) override { return run_->prepare_call(input(which)); }
  moe::Status refill(uint32_t which) override { return run_->refill(input(which)); }
  [[nodiscard]] void* stream() const override { return run_->stream(); }
  moe::Status call() override { return run_->launch(); }
  std::vector<uint8_t> output() override {
    std::vector<uint8_t> out;
    auto plan = run_->finish();
    if (!plan.ok()) return out;
    for (int64_t i = 0; i < static_cast<int64_t>(plan->count.size()); ++i) {
      const auto row = plan->row(i);
      out.insert(out.end(), row.begin(), row.end());
    }
    return out;
  }
  std::string violations() override { return run_->violations(); }
  void retire_memory() override { run_->retire(); }
  std::string writes_to_retired() override { return run_->writes_to_retired(); }

  std::vector<std::pair<std::string, std::function<moe_status(moe_message*)>>> calls_with_unknown_bits() override {
    return {{"create",
             [this](moe_message* m) {
               moe_router_config config = run_->config();
               config.must_understand = 1U << 31;
               auto options = check_options(kit_.header(), kit_.given(), "");
               moe_router_instance* instance = nullptr;
               const moe_status s =
                   run_->table().create(kit_.host().get(), &config, options->data(), options->size(), &instance, m);
               if (instance != nullptr) run_->table().destroy(instance);
               return s;
             }},
            {"route", [this](moe_message* m) {
               moe_route_args args = run_->args();
               args.must_understand = 1U << 31;
               return run_->table().route(run_->instance(), &args, m);
             }}};
  }
  std::string wrong_out_structs() override {
    return wrong_out_struct<moe_router_spec>("describe", [this](moe_router_spec* out) {
      return across([&](moe_message* m) { return run_->table().describe(run_->instance(), out, m); });
    });
  }

 private:
  [[nodiscard]] RouterCall input(uint32_t which) const {
    constexpr int64_t kTokens[] = {17, 1, 3};
    return run_->random_call(kTokens[which % 3], which + 40, 2.0F);
  }
  static std::vector<moe_router_config> layers() {
    std::vector<moe_router_config> out;
    for (const auto& [n_experts, n_zero] : {std::pair{8, 0}, {16, 0}, {64, 0}, {8, 4}}) {
      auto config = moe::make<moe_router_config>();
      config.n_layers = 4;
      config.d_model = 32;
      config.n_experts = n_experts;
      config.n_zero_experts = n_zero;
      config.n_vocab = 100;
      out.push_back(config);
    }
    return out;
  }
  moe::Status create_on(const moe_router_config& config, const std::vector<GivenOption>& given) {
    MOE_ASSIGN(const OptionValues options, check_options(kit_.header(), given, kit_.header().name));
    moe_router_instance* instance = nullptr;
    const auto table = kit_.component<moe_router>();
    MOE_TRY(across([&](moe_message* m) {
      return table->create(kit_.host().get(), &config, options.data(), options.size(), &instance, m);
    }));
    table->destroy(instance);
    return {};
  }

  Kit& kit_;
  std::unique_ptr<RouterRun> run_;
};

}  // namespace

moe::Result<std::unique_ptr<Subject>> make_router_subject(Kit& kit) {
  return std::unique_ptr<Subject>(std::make_unique<RouterSubject>(kit));
}

}  // namespace patchbay::conformance
