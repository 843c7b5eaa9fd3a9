// Experts in C++: derive from Expert.
#pragma once

#include <concepts>
#include <memory>
#include <span>

#include "moe/abi/expert.h"
#include "moe/sdk/compute.hpp"

namespace moe {

using ExpertConfig = moe_expert_config;

class Expert {
 public:
  virtual ~Expert() = default;

  // Reads the options for one layer. [main-thread]
  virtual Status configure(const ExpertConfig& config, const Options& options) = 0;
  // The weights it wants, by role; valid as long as the instance. [main-thread]
  virtual std::span<const moe_weight_spec> weights() = 0;
  // The declared weights in order, and the backend. Returns the workspace in bytes for calls of up to max_tokens. [main-thread]
  virtual Result<uint64_t> prepare(const moe_compute& compute, std::span<const moe_bound_weight> weights, int64_t max_tokens) = 0;
  // args.out += args.scale * experts(args.x). [compute-thread]
  virtual Status forward(const moe_expert_args& args) = 0;
};

template <std::derived_from<Expert> C>
struct ComponentOf<C> {
  static constexpr const char* kKind = MOE_EXPERT_ID;

  static Expert* of(moe_expert_instance* self) { return reinterpret_cast<Expert*>(self); }
  static moe_status create(const moe_host*, const moe_expert_config* config, const moe_option_value* values, uint32_t n_values,
                           moe_expert_instance** out, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(config, "config"));
      std::unique_ptr<Expert> expert = std::make_unique<C>();
      MOE_TRY(expert->configure(*Grown(*config), Options(values, n_values)));
      *out = reinterpret_cast<moe_expert_instance*>(expert.release());
      return {};
    });
  }
  static void destroy(moe_expert_instance* self) noexcept { delete of(self); }
  static moe_status describe(moe_expert_instance* self, moe_expert_spec* out, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      const auto specs = of(self)->weights();
      MOE_TRY(check_struct(out, "spec"));
      auto spec = make<moe_expert_spec>();
      spec.weights = specs.data();
      spec.n_weights = static_cast<uint32_t>(specs.size());
      give(out, spec);
      return {};
    });
  }
  static moe_status prepare(moe_expert_instance* self, const moe_compute* compute, const moe_bound_weight* weights,
                            uint32_t n_weights, int64_t max_tokens, uint64_t* workspace_bytes, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(compute, "compute"));
      MOE_ASSIGN(*workspace_bytes, of(self)->prepare(*compute, {weights, n_weights}, max_tokens));
      return {};
    });
  }
  static moe_status forward(moe_expert_instance* self, const moe_expert_args* args, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(args, "args"));
      return of(self)->forward(*Grown(*args));
    });
  }
  static constexpr moe_expert kTable = [] {
    moe_expert t{};
    t.component = component_header<C>(sizeof(moe_expert));
    t.create = create;
    t.destroy = destroy;
    t.describe = describe;
    t.prepare = prepare;
    t.forward = forward;
    return t;
  }();
};

}  // namespace moe
