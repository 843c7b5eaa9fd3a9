// A moe_compute over a real backend plugin, for tests of routers and experts: what the engine gives them, with the
// SDK's loops in the place of operations that the backend refuses.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/plugin/host.hpp"
#include "core/plugin/library.hpp"
#include "core/plugin/options.hpp"
#include "moe/abi/expert.h"
#include "moe/abi/router.h"
#include "moe/sdk/compute.hpp"
#include "moe/sdk/loops.hpp"

namespace patchbay::test {

inline Host& host() {
  static Host host(2);
  return host;
}

// The built-in plugin library of this name ("router_topk").
inline std::filesystem::path plugin_file(const std::string& name) {
  return std::filesystem::path(PATCHBAY_BINARY_DIR) / "lib/patchbay/plugins" / (name + ".so");
}

// The backends of host memory that this tree has built.
inline std::vector<std::string> host_backends() {
  std::vector<std::string> built = {"reference"};
  if (std::filesystem::exists(plugin_file("cpu"))) built.emplace_back("cpu");
  return built;
}

// A component of a library, loaded; the test fails if it is not there.
template <typename T>
Component<T> load(const std::filesystem::path& file, const char* kind, const std::string& name) {
  auto library = Library::load(file, host().abi());
  if (!library.ok()) throw std::runtime_error(library.error().message);
  for (const moe_component* c : library.value()->components(kind)) {
    if (c->name == name) return {reinterpret_cast<const T*>(c), library.value()};
  }
  throw std::runtime_error(file.string() + ": no component " + name);
}

class Compute {
 public:
  // A built-in backend by its name.
  explicit Compute(const std::string& backend = "reference") : Compute(plugin_file(backend), backend) {}
  Compute(const std::filesystem::path& library, const std::string& backend)
      : backend_(load<moe_backend>(library, MOE_BACKEND_ID, backend)) {
    auto options = check_options(backend_.header(), {}, backend).value();
    moe::MessageBuffer message;
    description_ = moe::make<moe_backend_description>();
    if (backend_->create(host().abi(), options.data(), options.size(), &instance_, &description_, message.get()) !=
        MOE_OK) {
      throw std::runtime_error(message.text());
    }
    const auto extension = backend_.header().get_extension;
    context_ = {host().abi(),
                extension == nullptr ? nullptr : static_cast<const moe_backend_rows*>(extension(MOE_BACKEND_ROWS_ID))};
    shared_.abi = moe::make<moe_compute>();
    shared_.abi.backend = backend_.table;
    shared_.abi.instance = instance_;
    shared_.abi.stream = description_.stream;
    shared_.abi.device = description_.device;
    shared_.abi.flags = description_.flags;
    shared_.abi.find_op = find_op;
    shared_.abi.launch = launch;
    shared_.owner = this;
  }
  ~Compute() {
    for (auto& prepared : prepared_) prepared.release(&prepared);
    backend_->destroy(instance_);
  }
  Compute(const Compute&) = delete;
  Compute& operator=(const Compute&) = delete;

  [[nodiscard]] const moe_compute& abi() const { return shared_.abi; }
  // Flags as a backend would give them whose memory the host cannot read; to see who minds.
  void set_flags(uint32_t flags) { shared_.abi.flags = flags; }

  // A weight [n_groups, n_out, n_in] of these values, prepared; lives as long as this.
  const moe_weight* prepare(const moe_weight_spec& spec, const std::vector<float>& values) {
    struct Source {
      const moe_weight_spec& spec;
      const std::vector<float>& values;
    } of{spec, values};
    auto source = moe::make<moe_weight_source>();
    source.name = source.role = spec.role;
    source.encoding = "f32";
    source.wanted = "f32";
    source.n_groups = spec.n_groups;
    source.n_out = spec.n_out;
    source.n_in = spec.n_in;
    source.uses = MOE_USE_MATMUL;
    source.context = &of;
    source.read_f32 = [](void* context, int64_t group, int64_t row, int64_t n_rows, float* out) {
      const auto& [s, v] = *static_cast<const Source*>(context);
      std::memcpy(out, v.data() + (group * s.n_out + row) * s.n_in,
                  static_cast<size_t>(n_rows * s.n_in) * sizeof(float));
    };
    source.raw = [](void* context, int64_t group) -> const void* {
      const auto& [s, v] = *static_cast<const Source*>(context);
      return v.data() + group * s.n_out * s.n_in;
    };
    source.done = [](void*, int64_t) {};
    moe::MessageBuffer message;
    prepared_.push_back(moe::make<moe_prepared>());
    if (backend_->prepare(instance_, &source, &prepared_.back(), message.get()) != MOE_OK) {
      prepared_.pop_back();
      throw std::runtime_error(message.text());
    }
    return prepared_.back().weight;
  }

 private:
  struct FoundOp {
    const moe_op* own;
    const moe::loops::LoopOp* loop;
  };
  struct Shared {  // the ABI hands back a pointer to its first member
    moe_compute abi;
    Compute* owner;
  };

  static moe_status find_op(const moe_compute* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                            moe_message* message) {
    Compute& c = *reinterpret_cast<const Shared*>(self)->owner;
    const moe_status status = c.backend_->find_op(c.instance_, id, largest, out, message);
    if (status != MOE_OK && status != MOE_UNIMPLEMENTED) return status;
    const moe::loops::LoopOp* loop = status == MOE_OK ? nullptr : moe::loops::find(id);
    if (status != MOE_OK && loop == nullptr) return status;
    c.found_.push_back({status == MOE_OK ? out->op : nullptr, loop});
    if (loop != nullptr) out->workspace_bytes = loop->workspace(*largest, c.context_);
    out->op = reinterpret_cast<const moe_op*>(&c.found_.back());
    return MOE_OK;
  }
  static moe_status launch(const moe_compute* self, const moe_op* op, const moe_op_args* args, moe_message* message) {
    const Compute& c = *reinterpret_cast<const Shared*>(self)->owner;
    const auto& found = *reinterpret_cast<const FoundOp*>(op);
    if (found.loop == nullptr) return c.backend_->launch(c.instance_, found.own, args, c.description_.stream, message);
    return moe::guard(message, [&] { return found.loop->run(*args, c.context_); });
  }

  Component<moe_backend> backend_;
  moe_backend_instance* instance_ = nullptr;
  moe_backend_description description_{};
  moe::loops::LoopContext context_;
  std::deque<FoundOp> found_;
  std::deque<moe_prepared> prepared_;
  Shared shared_{};
};

// 64-byte aligned, as calls want their workspace.
class Workspace {
 public:
  explicit Workspace(uint64_t n_bytes) : n_bytes_(n_bytes), memory_(n_bytes + 64) {}
  [[nodiscard]] void* data() {
    void* at = memory_.data();
    size_t space = memory_.size();
    return std::align(64, n_bytes_, at, space);
  }
  [[nodiscard]] uint64_t n_bytes() const { return n_bytes_; }

 private:
  uint64_t n_bytes_;
  std::vector<std::byte> memory_;
};

// A router of one layer: created, bound and ready to route, or the error of create.
class TestRouter {
 public:
  static moe::Result<std::unique_ptr<TestRouter>> create(Compute& compute, const std::string& name,
                                                         const moe_router_config& config,
                                                         const std::vector<GivenOption>& given,
                                                         const std::vector<float>& bias = {}, int64_t max_tokens = 64) {
    return create(compute, load<moe_router>(plugin_file("router_" + name), MOE_ROUTER_ID, name), config, given, bias,
                  max_tokens);
  }
  static moe::Result<std::unique_ptr<TestRouter>> create(Compute& compute, Component<moe_router> table,
                                                         const moe_router_config& config,
                                                         const std::vector<GivenOption>& given,
                                                         const std::vector<float>& bias = {}, int64_t max_tokens = 64) {
    std::unique_ptr<TestRouter> r(new TestRouter);
    r->table_ = std::move(table);
    MOE_ASSIGN(const auto options, check_options(r->table_.header(), given, r->table_.header().name));
    moe::MessageBuffer message;
    moe_status status =
        r->table_->create(host().abi(), &config, options.data(), options.size(), &r->instance_, message.get());
    if (status != MOE_OK) return message.error(status);
    status = r->table_->describe(r->instance_, &r->spec_, message.get());
    if (status != MOE_OK) return message.error(status);
    r->bias_ = bias;
    std::vector<moe_bound_weight> bound;
    for (uint32_t i = 0; i < r->spec_.n_weights; ++i)
      bound.push_back({r->spec_.weights[i].role, nullptr, r->bias_.data()});
    status = r->table_->prepare(r->instance_, &compute.abi(), bound.data(), r->spec_.n_weights, max_tokens,
                                &r->workspace_bytes_, message.get());
    if (status != MOE_OK) return message.error(status);
    return r;
  }
  ~TestRouter() {
    if (instance_ != nullptr) table_->destroy(instance_);
  }

  [[nodiscard]] const moe_router_spec& spec() const { return spec_; }

  struct Plan {
    int64_t k_max = 0;
    std::vector<int32_t> ids;    // [n, k_max]
    std::vector<float> weights;  // [n, k_max]
    std::vector<int32_t> count;  // [n]
  };
  // logits [n, n_logits]; every token has id 0 and position 0.
  moe::Result<Plan> route(const std::vector<float>& logits) {
    return route(logits, std::vector<int32_t>(logits.size() / static_cast<size_t>(spec_.n_logits)));
  }
  // Tokens of id 0 at these positions.
  moe::Result<Plan> route(const std::vector<float>& logits, const std::vector<int32_t>& positions) {
    return with_call(logits, positions, [this](const moe_route_args& args, moe_message* message) {
      return table_->route(instance_, &args, message);
    });
  }
  // The same by the operation that the router names (moe.router.op/1), launched here.
  moe::Result<Plan> route_by_op(const Compute& compute, const std::vector<float>& logits) {
    const auto* extension = op_extension();
    if (extension == nullptr) return moe::unimplemented("moe.router.op/1");
    const std::vector<int32_t> positions(logits.size() / static_cast<size_t>(spec_.n_logits));
    return with_call(logits, positions, [&](const moe_route_args& args, moe_message* message) {
      return moe::guard(message, [&]() -> moe::Status {
        auto op = moe::op_args<moe_route_op_args>();
        moe::MessageBuffer text;
        const moe_status status = extension->op(instance_, &args, &op, text.get());
        if (status != MOE_OK) return text.error(status);
        MOE_ASSIGN(const moe::Op found, moe::Op::find(compute.abi(), MOE_OP_ROUTE, op.header));
        Workspace workspace(found.workspace_bytes());
        return found.launch(op, workspace.data(), workspace.n_bytes());
      });
    });
  }
  [[nodiscard]] const moe_router_op* op_extension() const {
    const auto get = table_.header().get_extension;
    return get == nullptr ? nullptr : static_cast<const moe_router_op*>(get(MOE_ROUTER_OP_ID));
  }

 private:
  TestRouter() = default;
  // The plan that decide(args, message) fills.
  template <typename Decide>
  moe::Result<Plan> with_call(const std::vector<float>& logits, const std::vector<int32_t>& positions,
                              const Decide& decide) {
    const auto n = static_cast<int64_t>(positions.size());
    const auto size = static_cast<size_t>(n * spec_.k_max);
    Plan plan{spec_.k_max, std::vector<int32_t>(size, -7), std::vector<float>(size, -7.0F), {}};
    plan.count.assign(static_cast<size_t>(n), static_cast<int32_t>(spec_.k_max));
    std::vector<int32_t> zeros(static_cast<size_t>(n), 0);
    Workspace workspace(workspace_bytes_);
    auto args = moe::make<moe_route_args>();
    args.n_tokens = n;
    args.logits = spec_.n_logits > 0 ? moe::tensor(logits.data(), {n, spec_.n_logits}) : moe::absent();
    args.token_ids = args.sequences = moe::tensor(zeros.data(), {n});
    args.positions = moe::tensor(positions.data(), {n});
    args.hidden = args.before_attention = moe::absent();
    args.plan = moe::make<moe_plan>();
    args.plan.ids = moe::tensor(plan.ids.data(), {n, spec_.k_max});
    args.plan.weights = moe::tensor(plan.weights.data(), {n, spec_.k_max});
    args.plan.count = spec_.dynamic != 0 ? moe::tensor(plan.count.data(), {n}) : moe::absent();
    args.plan.aux = moe::absent();
    args.workspace = workspace.data();
    args.workspace_bytes = workspace.n_bytes();
    moe::MessageBuffer message;
    const moe_status status = decide(args, message.get());
    if (status != MOE_OK) return message.error(status);
    return plan;
  }

  Component<moe_router> table_;
  moe_router_instance* instance_ = nullptr;
  moe_router_spec spec_ = moe::make<moe_router_spec>();
  uint64_t workspace_bytes_ = 0;
  std::vector<float> bias_;
};

}  // namespace patchbay::test
