// Routers in C++. Derive from HostRouter to score one token at a time on the host (about 20 lines, every backend), or from Router to
// compose the backend's operations or launch kernels of your own.
#pragma once

#include <algorithm>
#include <concepts>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "moe/abi/router.h"
#include "moe/sdk/compute.hpp"

namespace moe {

using RouterConfig = moe_router_config;

class Router {
 public:
  virtual ~Router() = default;

  // Reads the options for one layer. An error says which option does not fit and why. [main-thread]
  virtual Status configure(const RouterConfig& config, const Options& options) = 0;
  // What it needs and keeps: see moe_router_spec. Called after configure. [main-thread]
  virtual moe_router_spec describe() = 0;
  // The declared weights in order, and the backend. Returns the workspace in bytes for calls of up to max_tokens. [main-thread]
  virtual Result<uint64_t> prepare(const moe_compute& compute, std::span<const moe_bound_weight> weights, int64_t max_tokens) = 0;
  // Fills args.plan. [compute-thread]
  virtual Status route(const moe_route_args& args) = 0;
};

// One token, as host scoring sees it.
struct RouterToken {
  std::span<const float> logits;            // [n_logits], gate . hidden
  std::span<const float> hidden;            // [d_model] where asked for, else empty
  std::span<const float> before_attention;  // [d_model] where asked for, else empty
  int32_t token_id;
  int32_t position;
  int32_t sequence;
  int64_t index;               // in this call
  const moe_route_args* args;  // everything else
  // What the nearest MoE layer below decided for this token; absent (has() false) in the first one, and where it was not asked for.
  struct Previous {
    std::span<const int32_t> ids;
    std::span<const float> weights;
    std::span<const float> aux;  // what that layer's router left: see aux()
    [[nodiscard]] bool has() const { return !ids.empty(); }
  };
  [[nodiscard]] Previous previous() const {
    const moe_plan* p = args->previous;
    if (p == nullptr) return {};
    const auto n = present(p->count) ? static_cast<size_t>(row<const int32_t>(p->count, index)[0])
                                     : static_cast<size_t>(p->ids.shape[1]);
    return {row_span<const int32_t>(p->ids, index).first(n), row_span<const float>(p->weights, index).first(n),
            present(p->aux) ? row_span<const float>(p->aux, index) : std::span<const float>()};
  }
  // [aux_floats], to be written: what the next MoE layer's router reads as previous().aux.
  [[nodiscard]] std::span<float> aux() const { return row_span<float>(args->plan.aux, index); }
  // The router's own context row of this token (to be written) and of earlier ones (to be read).
  [[nodiscard]] std::span<float> context_row(int64_t at) const {
    const auto& c = args->context;
    const int64_t page = row<int32_t>(c.pages.page_table, sequence)[at / c.pages.page_size];
    return row_span<float>(c.rows, page * c.pages.page_size + at % c.pages.page_size);
  }
};

// What a token's scoring decides: up to k_max experts, best first. add() them in that order.
class Choice {
 public:
  Choice(int32_t* ids, float* weights, int64_t k_max) : ids_(ids), weights_(weights), k_max_(k_max) {}
  void add(int32_t id, float weight) {
    if (n_ < k_max_) {
      ids_[n_] = id;
      weights_[n_++] = weight;
    }
  }
  [[nodiscard]] std::span<float> weights() { return {weights_, static_cast<size_t>(n_)}; }
  [[nodiscard]] std::span<const int32_t> ids() const { return {ids_, static_cast<size_t>(n_)}; }
  [[nodiscard]] int64_t size() const { return n_; }
  [[nodiscard]] int64_t k_max() const { return k_max_; }

 private:
  int32_t* ids_;
  float* weights_;
  int64_t k_max_;
  int64_t n_ = 0;
};

// Visits the k largest scores, best first, ties to the lower index: f(index, score). Scores of -inf are never visited. O(k n).
template <typename F>
void for_top_k(std::span<const float> scores, int64_t k, F&& f) {
  float last = std::numeric_limits<float>::infinity();
  int64_t last_at = -1;
  for (int64_t round = 0; round < k; ++round) {
    int64_t best = -1;
    for (int64_t i = 0; i < static_cast<int64_t>(scores.size()); ++i) {
      const bool after_last = scores[i] < last || (scores[i] == last && i > last_at);
      if (after_last && (best < 0 || scores[i] > scores[best])) best = i;
    }
    if (best < 0 || scores[best] == -std::numeric_limits<float>::infinity()) return;
    f(static_cast<int32_t>(best), scores[best]);
    last = scores[best];
    last_at = best;
  }
}

// A router written as a function of one token. The core computes the gate's logits, and brings everything to the host and the plan back.
class HostRouter : public Router {
 public:
  // Chooses the token's experts. Adds none only if the token's inputs are broken (NaN): its weights are NaN then, which the core turns into
  // the failure of that request alone. [compute-thread]
  virtual void score(const RouterToken& token, Choice& choice) = 0;
  // Columns of the plan.
  [[nodiscard]] virtual int64_t k_max() const = 0;
  // MOE_INPUT_HIDDEN, ... beyond the logits.
  [[nodiscard]] virtual uint32_t inputs() const { return 0; }
  // Rows of the gate; by default one an expert.
  [[nodiscard]] virtual int64_t n_logits(const RouterConfig& config) const { return config.n_experts + config.n_zero_experts; }
  // Floats a token that stay in the paged cache.
  [[nodiscard]] virtual int64_t context_floats() const { return 0; }
  // Floats a token that go to the next MoE layer's router.
  [[nodiscard]] virtual int64_t aux_floats() const { return 0; }
  // What each token's weights add up to; 0: that varies.
  [[nodiscard]] virtual float weights_sum() const { return 0; }
  // Further weights, placed on the host.
  [[nodiscard]] virtual std::span<const moe_weight_spec> weights() const { return {}; }
  // Called with them once.
  virtual Status bind(std::span<const moe_bound_weight>) { return {}; }
  // Called before every configure's end; the options of the layer.
  virtual Status setup(const RouterConfig& config, const Options& options) = 0;

  Status configure(const RouterConfig& config, const Options& options) final {
    config_ = config;
    return setup(config_, options);
  }
  moe_router_spec describe() final {
    moe_router_spec spec = make<moe_router_spec>();
    spec.weights = weights().data();
    spec.n_weights = static_cast<uint32_t>(weights().size());
    spec.inputs = inputs() | static_cast<uint32_t>(MOE_INPUT_HOST);
    spec.n_logits = n_logits(config_);
    spec.k_max = k_max();
    spec.context_floats = context_floats();
    spec.aux_floats = aux_floats();
    spec.weights_sum = weights_sum();
    spec.dynamic = 1;  // a choice may be shorter than k_max
    return spec;
  }
  Result<uint64_t> prepare(const moe_compute&, std::span<const moe_bound_weight> bound, int64_t) final {
    MOE_TRY(bind(bound));
    return uint64_t{0};
  }
  Status route(const moe_route_args& args) final {
    for (int64_t i = 0; i < args.n_tokens; ++i) {
      RouterToken token{};
      token.args = &args;
      token.index = i;
      if (present(args.logits)) token.logits = row_span<const float>(args.logits, i);
      if (present(args.hidden)) token.hidden = row_span<const float>(args.hidden, i);
      if (present(args.before_attention)) token.before_attention = row_span<const float>(args.before_attention, i);
      token.token_id = static_cast<const int32_t*>(args.token_ids.data)[i];
      token.position = static_cast<const int32_t*>(args.positions.data)[i];
      token.sequence = static_cast<const int32_t*>(args.sequences.data)[i];
      int32_t* ids = row<int32_t>(args.plan.ids, i);
      float* weights = row<float>(args.plan.weights, i);
      Choice choice(ids, weights, args.plan.ids.shape[1]);
      score(token, choice);
      if (choice.size() == 0) choice.add(0, std::numeric_limits<float>::quiet_NaN());
      for (int64_t j = choice.size(); j < choice.k_max(); ++j) {  // the rest repeats nothing: unused ids, weight 0
        ids[j] = ids[0];
        weights[j] = 0.0F;
      }
      if (present(args.plan.count)) static_cast<int32_t*>(args.plan.count.data)[i] = static_cast<int32_t>(choice.size());
    }
    return {};
  }

 protected:
  RouterConfig config_{};
};

template <std::derived_from<Router> C>
struct ComponentOf<C> {
  static constexpr const char* kKind = MOE_ROUTER_ID;

  static Router* of(moe_router_instance* self) { return reinterpret_cast<Router*>(self); }
  static moe_status create(const moe_host*, const moe_router_config* config, const moe_option_value* values, uint32_t n_values,
                           moe_router_instance** out, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(config, "config"));
      std::unique_ptr<Router> router = std::make_unique<C>();
      MOE_TRY(router->configure(*Grown(*config), Options(values, n_values)));
      *out = reinterpret_cast<moe_router_instance*>(router.release());
      return {};
    });
  }
  static void destroy(moe_router_instance* self) noexcept { delete of(self); }
  static moe_status describe(moe_router_instance* self, moe_router_spec* out, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(out, "spec"));
      give(out, of(self)->describe());
      return {};
    });
  }
  static moe_status prepare(moe_router_instance* self, const moe_compute* compute, const moe_bound_weight* weights,
                            uint32_t n_weights, int64_t max_tokens, uint64_t* workspace_bytes, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(compute, "compute"));
      MOE_ASSIGN(*workspace_bytes, of(self)->prepare(*compute, {weights, n_weights}, max_tokens));
      return {};
    });
  }
  static moe_status route(moe_router_instance* self, const moe_route_args* args, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(args, "args"));
      return of(self)->route(*Grown(*args));
    });
  }
  static constexpr moe_router kTable = [] {
    moe_router t{};
    t.component = component_header<C>(sizeof(moe_router));
    t.create = create;
    t.destroy = destroy;
    t.describe = describe;
    t.prepare = prepare;
    t.route = route;
    return t;
  }();
};

}  // namespace moe
