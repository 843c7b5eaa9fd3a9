#include "moe/sdk/loops.hpp"
#include "tools/conformance/ops/op_run.hpp"
#include "tools/conformance/subject.hpp"

namespace patchbay::conformance {
namespace {

// A call is one launch of every operation that the backend has.
class BackendSubject final : public Subject {
 public:
  explicit BackendSubject(Kit& kit) : kit_(kit) {}
  ~BackendSubject() override { destroy(); }

  moe::Status create(const std::vector<GivenOption>& given) override {
    destroy();
    MOE_ASSIGN(backend_, BackendUnderTest::open(*table().table, kit_.host().get(), given));
    return {};
  }
  void destroy() override {
    retired_.clear();
    runs_.clear();
    cases_.clear();
    backend_.reset();
  }
  moe::Status create_only(const std::vector<GivenOption>& given) override {
    MOE_ASSIGN(const OptionValues options, check_options(kit_.header(), given, kit_.header().name));
    moe_backend_instance* instance = nullptr;
    auto description = moe::make<moe_backend_description>();
    MOE_TRY(across([&](moe_message* m) {
      return table()->create(kit_.host().get(), options.data(), options.size(), &instance, &description, m);
    }));
    table()->destroy(instance);
    return {};
  }
  moe::Status set_input(uint32_t which) override {
    runs_.clear();
    for (const auto& op : moe::loops::kOps) {
      cases_.push_back(input(op.id, which));
      auto run = std::make_unique<CaseRun>(*backend_, cases_.back(), "auto");
      if (auto s = run->prepare(); s.ok()) {
        runs_.push_back(std::move(run));
      } else if (s.error().code != MOE_UNIMPLEMENTED) {
        return s.error().in(op.id);
      }
    }
    return {};
  }
  moe::Status refill(uint32_t which) override {
    for (auto& run : runs_) MOE_TRY(run->refill(input(run->op_case().op, which)));
    return {};
  }
  [[nodiscard]] void* stream() const override { return backend_->description().stream; }
  moe::Status call() override {
    const CheckHost::ComputeScope scope;
    for (auto& run : runs_) MOE_TRY(run->launch());
    return {};
  }
  std::vector<uint8_t> output() override {
    std::vector<uint8_t> out;
    wrong_.clear();
    for (auto& run : runs_) {
      if (auto s = run->collect(); !s.ok()) wrong_ = s.error().message;
      for (const auto& a : run->got()) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(a.words.data());
        out.insert(out.end(), bytes, bytes + a.n_bytes());
      }
    }
    return out;
  }
  std::string violations() override { return wrong_; }
  void retire_memory() override {
    for (auto& run : runs_) retired_.push_back(std::move(run));
    runs_.clear();
  }
  std::string writes_to_retired() override { return ""; }  // the memory is the backend's own

  std::vector<std::pair<std::string, std::function<moe_status(moe_message*)>>> calls_with_unknown_bits() override {
    std::vector<std::pair<std::string, std::function<moe_status(moe_message*)>>> calls = {
        {"find_op",
         [this](moe_message* m) {
           auto args = moe::op_args<moe_add_args>();
           args.header.must_understand = 1U << 31;
           auto info = moe::make<moe_op_info>();
           return table()->find_op(backend_->instance(), MOE_OP_ADD, &args.header, &info, m);
         }},
        {"prepare", [this](moe_message* m) {
           moe_weight_source source = some_weight();
           source.must_understand = 1U << 31;
           auto prepared = moe::make<moe_prepared>();
           const moe_status s = table()->prepare(backend_->instance(), &source, &prepared, m);
           if (s == MOE_OK) prepared.release(&prepared);
           return s;
         }}};
    return calls;
  }
  std::string wrong_out_structs() override {
    const auto in = [&](auto f) {
      return [f](auto* out) { return across([&](moe_message* m) { return f(out, m); }); };
    };
    std::string wrong = wrong_out_struct<moe_buffer>("alloc", in([this](moe_buffer* out, moe_message* m) {
                                                       const moe_status s = table()->alloc(backend_->instance(), 100,
                                                                                           MOE_MEMORY_DEVICE, out, m);
                                                       if (s == MOE_OK) out->release(out);
                                                       return s;
                                                     }));
    if (!wrong.empty()) return wrong;
    wrong = wrong_out_struct<moe_prepared>("prepare", in([this](moe_prepared* out, moe_message* m) {
                                             const moe_weight_source source = some_weight();
                                             const moe_status s =
                                                 table()->prepare(backend_->instance(), &source, out, m);
                                             if (s == MOE_OK) out->release(out);
                                             return s;
                                           }));
    if (!wrong.empty()) return wrong;
    return wrong_out_struct<moe_backend_description>(
        "create", in([this](moe_backend_description* out, moe_message* m) {
          auto options = check_options(kit_.header(), kit_.given(), "");
          moe_backend_instance* instance = nullptr;
          const moe_status s = table()->create(kit_.host().get(), options->data(), options->size(), &instance, out, m);
          if (s == MOE_OK) table()->destroy(instance);
          return s;
        }));
  }

 private:
  // Inputs 3, 4, 5 are inputs 0, 1, 2 with every number that is not an output's halved.
  static OpCase input(const std::string& op, uint32_t which) {
    OpCase c = all_cases(op, 1)[which % 3];
    for (auto& a : c.arrays) {
      if (a.dtype != MOE_F32 || a.output || which < 3) continue;
      for (int64_t i = 0; i < a.n; ++i) a.as<float>()[i] *= 0.5F;
    }
    return c;
  }
  [[nodiscard]] Component<moe_backend> table() const { return kit_.component<moe_backend>(); }
  static moe_weight_source some_weight() {
    static const std::vector<float> values(64, 0.5F);
    auto source = moe::make<moe_weight_source>();
    source.name = source.role = "weight";
    source.encoding = "f32";
    source.wanted = "auto";
    source.n_groups = 1;
    source.n_out = source.n_in = 8;
    source.uses = MOE_USE_MATMUL;
    source.read_f32 = [](void*, int64_t, int64_t row, int64_t n_rows, float* out) {
      std::copy_n(values.data() + row * 8, n_rows * 8, out);
    };
    source.raw = [](void*, int64_t) -> const void* { return values.data(); };
    source.done = [](void*, int64_t) {};
    return source;
  }

  Kit& kit_;
  std::unique_ptr<BackendUnderTest> backend_;
  std::deque<OpCase> cases_;
  std::vector<std::unique_ptr<CaseRun>> runs_, retired_;
  std::string wrong_;
};

}  // namespace

moe::Result<std::unique_ptr<Subject>> make_backend_subject(Kit& kit) {
  return std::unique_ptr<Subject>(std::make_unique<BackendSubject>(kit));
}

}  // namespace patchbay::conformance
