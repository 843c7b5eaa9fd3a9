// For a plugin's own tests: its components with options and inputs of the test's choice, without a host program. What
// every plugin must do `patchbay plugins check` tests; here an author tests what this one does.
//
//   #include "moe/sdk/testing.hpp"
//   #include "router.cpp"
//
//   int main() {
//     moe::testing::RouterOf<MyRouter> router({.n_experts = 4}, {{"k", "2"}});
//     const auto plan = router.route({0.5F, 2.0F, -1.0F, 2.0F});
//     MOE_EXPECT(plan.ids == (std::vector<int32_t>{1, 3}));
//     return moe::testing::result();
//   }
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moe/sdk/expert.hpp"
#include "moe/sdk/loops.hpp"
#include "moe/sdk/router.hpp"
#include "moe/sdk/sampler.hpp"

// Counts a failure, with its place, and goes on.
#define MOE_EXPECT(condition) moe::testing::expect((condition), #condition, __FILE__, __LINE__)
// NaN fails.
#define MOE_EXPECT_NEAR(got, want, tolerance) MOE_EXPECT(std::fabs((got) - (want)) <= (tolerance))

namespace moe::testing {

inline int g_n_failures = 0;
inline void expect(bool holds, const char* what, const char* file, int line) {
  if (holds) return;
  ++g_n_failures;
  std::fprintf(stderr, "%s:%d: expected %s\n", file, line, what);
}
// What main() returns.
inline int result() { return g_n_failures == 0 ? 0 : 1; }

// Options by key, each as it would stand in TOML: {{"k", "3"}, {"score", "softmax"}}.
using Given = std::map<std::string, std::string>;

// A component's complete options: its defaults, with what is given in their place.
class OptionSet {
 public:
  OptionSet(const moe_component& component, const Given& given) {
    for (uint32_t i = 0; i < component.n_options; ++i) add(component.options[i], given);
  }
  [[nodiscard]] const moe_option_value* data() const { return values_.data(); }
  [[nodiscard]] uint32_t size() const { return static_cast<uint32_t>(values_.size()); }

 private:
  void add(const moe_option& option, const Given& given) {
    const auto found = given.find(option.key);
    moe_option_value v{};
    v.key = option.key;
    v.type = option.type;
    v.n = 1;
    v.is_set = found != given.end() ? 1 : 0;
    const std::string& text = texts_.emplace_back(
        v.is_set != 0 ? found->second : (option.default_text == nullptr ? "" : option.default_text));
    switch (option.type) {
      case MOE_OPTION_BOOL:
        v.value.i = text == "true" ? 1 : 0;
        break;
      case MOE_OPTION_INT:
        v.value.i = std::strtoll(text.c_str(), nullptr, 10);
        break;
      case MOE_OPTION_FLOAT:
        v.value.f = std::strtod(text.c_str(), nullptr);
        break;
      case MOE_OPTION_INT_LIST: {
        auto& list = ints_.emplace_back();
        for (const double x : numbers(text)) list.push_back(static_cast<int64_t>(x));
        v.value.ints = list.data();
        v.n = static_cast<uint32_t>(list.size());
        break;
      }
      case MOE_OPTION_FLOAT_LIST:
        v.value.floats = floats_.emplace_back(numbers(text)).data();
        v.n = static_cast<uint32_t>(floats_.back().size());
        break;
      default:
        v.value.s = text.c_str();
    }
    values_.push_back(v);
  }
  static std::vector<double> numbers(const std::string& text) {  // "1, 2"
    std::vector<double> out;
    char* end = nullptr;
    for (const char* at = text.c_str(); *at != '\0'; at = *end == ',' ? end + 1 : end) {
      const double x = std::strtod(at, &end);
      if (end == at) break;
      out.push_back(x);
    }
    return out;
  }

  std::deque<std::string> texts_;  // deques: addresses stay while they grow
  std::deque<std::vector<int64_t>> ints_;
  std::deque<std::vector<double>> floats_;
  std::vector<moe_option_value> values_;
};

// A host of one thread that drops what it is told.
inline const moe_host& plain_host() {
  static const moe_host host = [] {
    auto h = make<moe_host>();
    h.name = "moe::testing";
    h.log = [](void*, int32_t, const char*, const char*) {};
    h.metric_add = h.metric_set = [](void*, const char*, double) {};
    h.parallel_for = [](void*, int64_t n_tasks, moe_task task, void* context) {
      for (int64_t i = 0; i < n_tasks; ++i) task(context, i, 0);
    };
    h.n_threads = [](void*) { return int32_t{1}; };
    h.get_extension = [](void*, const char*) -> const void* { return nullptr; };
    return h;
  }();
  return host;
}

// A compute whose every operation is the SDK's loop, on host memory.
class LoopCompute {
 public:
  LoopCompute() {
    shared_.abi = make<moe_compute>();
    shared_.abi.device = kHost;
    shared_.abi.flags = MOE_BACKEND_HOST_VISIBLE;
    shared_.abi.find_op = find_op;
    shared_.abi.launch = launch;
    shared_.owner = this;
  }
  LoopCompute(const LoopCompute&) = delete;
  LoopCompute& operator=(const LoopCompute&) = delete;

  [[nodiscard]] const moe_compute& abi() const { return shared_.abi; }
  // A weight that operations take: n_groups matrices [n_out, n_in].
  const moe_weight* weight(int64_t n_groups, int64_t n_out, int64_t n_in, std::vector<float> values) {
    weights_.push_back({n_groups, n_out, n_in, std::move(values)});
    return reinterpret_cast<const moe_weight*>(&weights_.back());
  }

 private:
  struct Weight {
    int64_t n_groups, n_out, n_in;
    std::vector<float> values;
  };
  struct Shared {  // the ABI hands back a pointer to its first member
    moe_compute abi;
    LoopCompute* owner;
  };

  static moe_status find_op(const moe_compute* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                            moe_message* message) {
    return guard(message, [&]() -> Status {
      const loops::LoopOp* op = loops::find(id);
      if (op == nullptr) return unimplemented(std::string(id) + ": no such operation");
      out->op = reinterpret_cast<const moe_op*>(op);
      out->implementation = "loops";
      out->workspace_bytes = op->workspace(*largest, reinterpret_cast<const Shared*>(self)->owner->context());
      return {};
    });
  }
  static moe_status launch(const moe_compute* self, const moe_op* op, const moe_op_args* args, moe_message* message) {
    return guard(message, [&] {
      return reinterpret_cast<const loops::LoopOp*>(op)->run(*args,
                                                             reinterpret_cast<const Shared*>(self)->owner->context());
    });
  }
  [[nodiscard]] loops::LoopContext context() const { return {&plain_host(), &rows_}; }

  static moe_backend_rows weight_rows() {
    auto rows = make<moe_backend_rows>();
    rows.shape = [](const moe_weight* weight, int64_t shape[3]) {
      const auto& w = *reinterpret_cast<const Weight*>(weight);
      shape[0] = w.n_groups, shape[1] = w.n_out, shape[2] = w.n_in;
    };
    rows.row = [](const moe_weight* weight, int64_t group, int64_t row, float*) -> const float* {
      const auto& w = *reinterpret_cast<const Weight*>(weight);
      return w.values.data() + (group * w.n_out + row) * w.n_in;
    };
    return rows;
  }

  moe_backend_rows rows_ = weight_rows();
  std::deque<Weight> weights_;
  Shared shared_{};
};

// Values of declared weights by role; a role that is missing is all zeros (and absent where the declaration says
// optional).
using WeightValues = std::map<std::string, std::vector<float>>;

// The declared weights, as prepare gets them.
inline std::vector<moe_bound_weight> bind_weights(LoopCompute& compute, const moe_weight_spec* specs, uint32_t n_specs,
                                                  WeightValues& values) {
  std::vector<moe_bound_weight> bound;
  for (uint32_t i = 0; i < n_specs; ++i) {
    const moe_weight_spec& s = specs[i];
    moe_bound_weight b{s.role, nullptr, nullptr};
    if (values.contains(s.role) || s.optional == 0) {
      auto& v = values[s.role];
      v.resize(static_cast<size_t>(s.n_groups * s.n_out * s.n_in));
      if (s.placement == MOE_PLACE_PREPARED) {
        b.prepared = compute.weight(s.n_groups, s.n_out, s.n_in, v);
      } else {
        b.plain = v.data();
      }
    }
    bound.push_back(b);
  }
  return bound;
}

// 64-byte aligned workspace.
class Workspace {
 public:
  void resize(uint64_t n_bytes) { memory_.resize(n_bytes / 8 + 16), n_bytes_ = n_bytes; }
  [[nodiscard]] void* data() {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 * 64);
  }
  [[nodiscard]] uint64_t n_bytes() const { return n_bytes_; }

 private:
  uint64_t n_bytes_ = 0;
  std::vector<uint64_t> memory_;
};

// What a router decided for n tokens: [n, k_max], and how many of a row count.
struct Plan {
  int64_t k_max = 0;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<int32_t> count;
};

// Inputs of a call beside the logits; what is empty is zeros. Tokens are those of one sequence.
struct RouterInputs {
  std::vector<float> hidden = {};            // [n, d_model]
  std::vector<float> before_attention = {};  // [n, d_model]
  std::vector<int32_t> token_ids = {};       // [n]
  int32_t first_position = 0;
};

// The layer that a router serves; see moe_router_config.
struct RouterLayer {
  int64_t n_experts = 8;
  int64_t n_zero_experts = 0;
  int64_t d_model = 16;
  int64_t layer = 0;
  int64_t n_layers = 1;
  int64_t n_vocab = 100;
};

// A router of one layer, called through its table as a host calls it.
template <typename R>
class RouterOf {
 public:
  explicit RouterOf(const RouterLayer& layer, const Given& given = {}, WeightValues weights = {},
                    int64_t max_tokens = 256)
      : config_(make<RouterConfig>()), weights_(std::move(weights)) {
    config_.layer = layer.layer;
    config_.n_layers = layer.n_layers;
    config_.d_model = layer.d_model;
    config_.n_experts = layer.n_experts;
    config_.n_zero_experts = layer.n_zero_experts;
    config_.n_vocab = layer.n_vocab;
    const OptionSet options(kTable.component, given);
    MessageBuffer message;
    uint64_t workspace_bytes = 0;
    spec_ = make<moe_router_spec>();
    moe_status status = kTable.create(&plain_host(), &config_, options.data(), options.size(), &self_, message.get());
    if (status == MOE_OK) status = kTable.describe(self_, &spec_, message.get());
    if (status == MOE_OK) {
      const auto bound = bind_weights(compute_, spec_.weights, spec_.n_weights, weights_);
      status = kTable.prepare(self_, &compute_.abi(), bound.data(), spec_.n_weights, max_tokens, &workspace_bytes,
                              message.get());
    }
    if (status != MOE_OK) error_ = message.error(status).message;
    workspace_.resize(workspace_bytes);
    context_.resize(static_cast<size_t>(kMostPositions * spec_.context_floats));
  }
  ~RouterOf() {
    if (self_ != nullptr) kTable.destroy(self_);
  }
  RouterOf(const RouterOf&) = delete;
  RouterOf& operator=(const RouterOf&) = delete;

  // Why it could not be made; empty if it could.
  [[nodiscard]] const std::string& error() const { return error_; }
  [[nodiscard]] const moe_router_spec& spec() const { return spec_; }

  // logits [n, n_logits]; where the router takes none, a number for each token.
  Plan route(std::vector<float> logits, RouterInputs in = {}) {
    const auto n = static_cast<int64_t>(logits.size()) / std::max<int64_t>(spec_.n_logits, 1);
    const auto rows = static_cast<size_t>(n);
    const auto cells = static_cast<size_t>(n * spec_.k_max);
    Plan plan{spec_.k_max, std::vector<int32_t>(cells), std::vector<float>(cells), std::vector<int32_t>(rows)};
    plan.count.assign(rows, static_cast<int32_t>(spec_.k_max));
    in.hidden.resize(static_cast<size_t>(n * config_.d_model));
    in.before_attention.resize(in.hidden.size());
    in.token_ids.resize(rows);
    std::vector<int32_t> positions(rows), sequences(rows), page_table = {0};
    for (size_t i = 0; i < rows; ++i) positions[i] = in.first_position + static_cast<int32_t>(i);
    auto args = make<moe_route_args>();
    args.n_tokens = n;
    args.logits = spec_.n_logits > 0 ? tensor(logits.data(), {n, spec_.n_logits}) : absent();
    args.hidden = (spec_.inputs & MOE_INPUT_HIDDEN) != 0 ? tensor(in.hidden.data(), {n, config_.d_model}) : absent();
    args.before_attention = (spec_.inputs & MOE_INPUT_BEFORE_ATTENTION) != 0
                                ? tensor(in.before_attention.data(), {n, config_.d_model})
                                : absent();
    args.token_ids = tensor(in.token_ids.data(), {n});
    args.positions = tensor(positions.data(), {n});
    args.sequences = tensor(sequences.data(), {n});
    args.context = make<moe_context>();
    args.context.rows = tensor(context_.data(), {kMostPositions, spec_.context_floats});
    args.context.pages = {tensor(page_table.data(), {1, 1}), kMostPositions};
    args.plan = make<moe_plan>();
    args.plan.ids = tensor(plan.ids.data(), {n, spec_.k_max});
    args.plan.weights = tensor(plan.weights.data(), {n, spec_.k_max});
    args.plan.count = spec_.dynamic != 0 ? tensor(plan.count.data(), {n}) : absent();
    std::vector<float> aux(static_cast<size_t>(n * spec_.aux_floats));
    args.plan.aux = spec_.aux_floats > 0 ? tensor(aux.data(), {n, spec_.aux_floats}) : absent();
    args.workspace = workspace_.data();
    args.workspace_bytes = workspace_.n_bytes();
    MessageBuffer message;
    const moe_status status = kTable.route(self_, &args, message.get());
    if (status != MOE_OK) std::fprintf(stderr, "route: %s\n", message.error(status).message.c_str());
    MOE_EXPECT(status == MOE_OK);
    return plan;
  }

 private:
  static constexpr const moe_router& kTable = ComponentOf<R>::kTable;
  static constexpr int64_t kMostPositions = 4096;

  RouterConfig config_;
  WeightValues weights_;
  LoopCompute compute_;
  Workspace workspace_;
  std::vector<float> context_;
  moe_router_instance* self_ = nullptr;
  moe_router_spec spec_{};
  std::string error_;
};

// The layer that an expert serves; see moe_expert_config.
struct ExpertLayer {
  int64_t d_model = 16;
  int64_t n_experts = 8;
  int64_t n_zero_experts = 0;
  int64_t k_max = 2;
  int64_t d_expert = 8;
  int64_t d_shared = 0;
  moe_activation_type activation = MOE_F32;
  int32_t weight_on = MOE_WEIGHT_ON_OUTPUT;
};

// An expert of one layer, called through its table as a host calls it.
template <typename E>
class ExpertOf {
 public:
  explicit ExpertOf(const ExpertLayer& layer, const Given& given = {}, WeightValues weights = {},
                    int64_t max_tokens = 256)
      : config_(make<ExpertConfig>()), weights_(std::move(weights)) {
    config_.d_model = layer.d_model;
    config_.n_experts = config_.n_local_experts = layer.n_experts;
    config_.n_zero_experts = layer.n_zero_experts;
    config_.k_max = layer.k_max;
    config_.d_expert = layer.d_expert;
    config_.d_shared = layer.d_shared;
    config_.activation = layer.activation;
    config_.weight_on = layer.weight_on;
    const OptionSet options(kTable.component, given);
    MessageBuffer message;
    uint64_t workspace_bytes = 0;
    auto spec = make<moe_expert_spec>();
    moe_status status = kTable.create(&plain_host(), &config_, options.data(), options.size(), &self_, message.get());
    if (status == MOE_OK) status = kTable.describe(self_, &spec, message.get());
    if (status == MOE_OK) {
      const auto bound = bind_weights(compute_, spec.weights, spec.n_weights, weights_);
      status = kTable.prepare(self_, &compute_.abi(), bound.data(), spec.n_weights, max_tokens, &workspace_bytes,
                              message.get());
    }
    if (status != MOE_OK) error_ = message.error(status).message;
    workspace_.resize(workspace_bytes);
  }
  ~ExpertOf() {
    if (self_ != nullptr) kTable.destroy(self_);
  }
  ExpertOf(const ExpertOf&) = delete;
  ExpertOf& operator=(const ExpertOf&) = delete;

  // Why it could not be made; empty if it could.
  [[nodiscard]] const std::string& error() const { return error_; }

  // What it adds to the residual stream: x [n, d_model]; ids and weights [n, k_max], empty in a dense layer.
  std::vector<float> forward(std::vector<float> x, std::vector<int32_t> ids, std::vector<float> weights) {
    const int64_t n = static_cast<int64_t>(x.size()) / config_.d_model;
    std::vector<float> out(x.size());
    auto args = make<moe_expert_args>();
    args.n_tokens = n;
    args.x = tensor(x.data(), {n, config_.d_model});
    args.plan = make<moe_plan>();
    args.plan.ids = ids.empty() ? absent() : tensor(ids.data(), {n, config_.k_max});
    args.plan.weights = ids.empty() ? absent() : tensor(weights.data(), {n, config_.k_max});
    args.plan.count = args.plan.aux = absent();
    args.plan.weight_on = config_.weight_on;
    args.out = tensor(out.data(), {n, config_.d_model});
    args.scale = 1;
    args.workspace = workspace_.data();
    args.workspace_bytes = workspace_.n_bytes();
    MessageBuffer message;
    const moe_status status = kTable.forward(self_, &args, message.get());
    if (status != MOE_OK) std::fprintf(stderr, "forward: %s\n", message.error(status).message.c_str());
    MOE_EXPECT(status == MOE_OK);
    return out;
  }

 private:
  static constexpr const moe_expert& kTable = ComponentOf<E>::kTable;

  ExpertConfig config_;
  WeightValues weights_;
  LoopCompute compute_;
  Workspace workspace_;
  moe_expert_instance* self_ = nullptr;
  std::string error_;
};

// A link of the sampler chain with the state of one request.
template <typename S>
class LinkOf {
 public:
  explicit LinkOf(int64_t n_vocab, const Given& given = {}) : n_vocab_(n_vocab) {
    const OptionSet options(kTable.component, given);
    MessageBuffer message;
    const moe_status status = kTable.create(options.data(), options.size(), n_vocab, &state_, message.get());
    if (status != MOE_OK) error_ = message.error(status).message;
  }
  ~LinkOf() {
    if (state_ != nullptr) kTable.destroy(state_);
  }
  LinkOf(const LinkOf&) = delete;
  LinkOf& operator=(const LinkOf&) = delete;

  // Why it could not be made; empty if it could.
  [[nodiscard]] const std::string& error() const { return error_; }

  // The logits after the link, for a request of this history (prompt first). `counter` and `seed` are the row's random
  // stream.
  std::vector<float> apply(std::vector<float> logits, const std::vector<int32_t>& history = {}, int64_t n_prompt = 0,
                           uint64_t seed = 0, uint64_t counter = 0) {
    MOE_EXPECT(static_cast<int64_t>(logits.size()) == n_vocab_);
    moe_sample_row row{};
    row.state = state_;
    row.logits = logits.data();
    row.history = history.data();
    row.n_history = static_cast<int64_t>(history.size());
    row.n_prompt = n_prompt;
    row.seed = seed;
    row.counter = counter;
    row.picked = MOE_PICKED_NONE;
    auto args = make<moe_sample_args>();
    args.n_rows = 1;
    args.n_vocab = n_vocab_;
    args.rows = &row;
    MOE_EXPECT(kTable.apply(&args, nullptr) == MOE_OK);
    picked_ = row.picked;
    return logits;
  }
  // The token that the last apply picked, or MOE_PICKED_NONE or MOE_PICKED_FAILED.
  [[nodiscard]] int32_t picked() const { return picked_; }

 private:
  static constexpr const moe_sampler& kTable = ComponentOf<S>::kTable;

  int64_t n_vocab_;
  moe_sampler_state* state_ = nullptr;
  int32_t picked_ = MOE_PICKED_NONE;
  std::string error_;
};

}  // namespace moe::testing
