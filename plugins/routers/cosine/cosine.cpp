// Cosine router (Tutel, arXiv 2206.03382, cosine_top; X-MoE, arXiv 2204.09179): l = temperature * cos(P x, S_e), then
// softmax and the k best. P projects a token to a small space (left out where the checkpoint has none), S has a row for
// each expert there.
//
// The second of three ways to write a router: operations of the backend, on whatever device that is. cos(p, s) is (p /
// |p|) . (s / |s|): the rows of S are normalised once, at load, and p by the operation `norm`, whose root mean square
// is |p| / sqrt(dim).
#include <algorithm>
#include <cmath>
#include <vector>

#include "moe/sdk/op_router.hpp"

namespace {

using moe::Op;
using moe::Status;

class Cosine : public moe::Router {
 public:
  static constexpr const char* kName = "cosine";
  static constexpr const char* kDoc = "Softmax over temperature * cos(P x, S), the k best, weights that sum to one.";
  static constexpr uint32_t kCapabilities =
      MOE_CAP_GRAPH_SAFE | MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::route_option::kK,
      moe::float_option("temperature", "10.0", 0, 100, "Factor of the cosine (Tutel bounds it by 100).",
                        MOE_OPTION_PER_LAYER),
      moe::int_option("dim", "0", 0, 65536, "Dimension that the weight \"projection\" projects to; 0: there is none.",
                      MOE_OPTION_PER_LAYER),
      moe::string_option("similarity", "gate", "Role of the weight with a row for each expert.", MOE_OPTION_PER_LAYER)};

  Status configure(const moe::RouterConfig& config, const moe::Options& options) override {
    config_ = config;
    k_ = options.integer("k");
    temperature_ = static_cast<float>(options.number("temperature"));
    projected_ = options.integer("dim") > 0;
    dim_ = projected_ ? options.integer("dim") : config.d_model;
    role_ = options.text("similarity");
    if (k_ > n_experts())
      return moe::unfit("k", "at most " + std::to_string(n_experts()) + " (the layer's experts)", k_);
    if (role_.empty()) return moe::invalid("similarity: expected a role, got none");
    weights_ = {moe::weight_spec(role_.c_str(), 1, n_experts(), dim_, MOE_PLACE_HOST)};
    if (projected_) weights_.push_back(moe::weight_spec("projection", 1, dim_, config.d_model, MOE_PLACE_PREPARED));
    return {};
  }

  moe_router_spec describe() override {
    auto spec = moe::make<moe_router_spec>();
    spec.weights = weights_.data();
    spec.n_weights = static_cast<uint32_t>(weights_.size());
    spec.inputs = MOE_INPUT_HIDDEN;
    spec.n_logits = 0;  // it has products of its own
    spec.k_max = k_;
    spec.weights_sum = 1;
    return spec;
  }

  moe::Result<uint64_t> prepare(const moe_compute& compute, std::span<const moe_bound_weight> bound,
                                int64_t max_tokens) override {
    std::vector<float> rows(bound[0].plain, bound[0].plain + n_experts() * dim_);
    for (int64_t e = 0; e < n_experts(); ++e) normalise({rows.data() + e * dim_, static_cast<size_t>(dim_)});
    MOE_ASSIGN(similarity_, moe::OwnWeight::prepare(compute, "similarity", 1, n_experts(), dim_, rows));
    const auto f32 = [&](int64_t width) { return moe::tensor(nullptr, MOE_F32, {max_tokens, width}, compute.device); };

    auto project = moe::op_args<moe_matmul_args>();
    if (projected_) {
      project.weight = projection_ = bound[1].prepared;
      project.x = f32(config_.d_model);
      project.out = f32(dim_);
      project.scale = 1;
      project.activation = MOE_F32;
      MOE_ASSIGN(project_, Op::find(compute, MOE_OP_MATMUL, project.header));
    }
    auto norm = moe::op_args<moe_norm_args>();
    norm.x = norm.out = f32(dim_);
    norm.kind = MOE_NORM_RMS;
    norm.eps = kEps;
    MOE_ASSIGN(norm_, Op::find(compute, MOE_OP_NORM, norm.header));

    auto compare = moe::op_args<moe_matmul_args>();
    compare.weight = similarity_.get();
    compare.x = f32(dim_);
    compare.out = f32(n_experts());
    compare.activation = MOE_F32;
    compare.scale = scale();
    MOE_ASSIGN(compare_, Op::find(compute, MOE_OP_MATMUL, compare.header));

    auto route = route_args();
    route.logits = f32(n_experts());
    route.ids = moe::tensor(nullptr, MOE_I32, {max_tokens, k_}, compute.device);
    route.weights = f32(k_);
    MOE_ASSIGN(route_, Op::find(compute, MOE_OP_ROUTE, route.header));

    projected_bytes_ = rounded(max_tokens * dim_);
    logits_bytes_ = rounded(max_tokens * n_experts());
    return projected_bytes_ + logits_bytes_ +
           std::max({project_.workspace_bytes(), norm_.workspace_bytes(), compare_.workspace_bytes(),
                     route_.workspace_bytes()});
  }

  Status route(const moe_route_args& args) override {
    const int64_t n = args.n_tokens;
    if (n == 0) return {};
    auto* memory = static_cast<char*>(args.workspace);
    const moe_tensor p = moe::tensor(memory, MOE_F32, {n, dim_}, args.hidden.device);
    const moe_tensor logits = moe::tensor(memory + projected_bytes_, MOE_F32, {n, n_experts()}, args.hidden.device);
    void* rest = memory + projected_bytes_ + logits_bytes_;
    const uint64_t rest_bytes = args.workspace_bytes - projected_bytes_ - logits_bytes_;

    if (projected_) {  // p = P x
      auto project = moe::op_args<moe_matmul_args>();
      project.weight = projection_;
      project.x = args.hidden;
      project.out = p;
      project.scale = 1;
      project.activation = MOE_F32;
      MOE_TRY(project_.launch(project, rest, rest_bytes));
    }
    auto norm = moe::op_args<moe_norm_args>();  // p = sqrt(dim) p / |p|
    norm.x = projected_ ? p : args.hidden;
    norm.out = p;
    norm.kind = MOE_NORM_RMS;
    norm.eps = kEps;
    MOE_TRY(norm_.launch(norm, rest, rest_bytes));

    auto compare = moe::op_args<moe_matmul_args>();  // l = temperature / sqrt(dim) S p
    compare.weight = similarity_.get();
    compare.x = p;
    compare.out = logits;
    compare.scale = scale();
    compare.activation = MOE_F32;
    MOE_TRY(compare_.launch(compare, rest, rest_bytes));

    auto route = route_args();
    route.logits = logits;
    route.ids = args.plan.ids;
    route.weights = args.plan.weights;
    return route_.launch(route, rest, rest_bytes);
  }

 private:
  static constexpr float kEps = 1e-12F;  // of a mean square: a token of zeros has cosine 0 with everything

  [[nodiscard]] int64_t n_experts() const { return config_.n_experts + config_.n_zero_experts; }
  [[nodiscard]] float scale() const { return temperature_ / std::sqrt(static_cast<float>(dim_)); }
  [[nodiscard]] moe_route_op_args route_args() const {
    auto args = moe::op_args<moe_route_op_args>();
    args.n_experts = static_cast<int32_t>(n_experts());
    args.top_k = static_cast<int32_t>(k_);
    args.score = MOE_SCORE_SOFTMAX;
    args.renorm = MOE_RENORM_SUM;
    args.renorm_eps = 1e-20F;
    args.scale = 1;
    return args;
  }
  static uint64_t rounded(int64_t n_floats) { return (static_cast<uint64_t>(n_floats) * 4 + 63) / 64 * 64; }
  static void normalise(std::span<float> row) {
    double sum = 0;
    for (const float v : row) sum += static_cast<double>(v) * v;
    for (float& v : row) v = sum == 0 ? 0 : static_cast<float>(v / std::sqrt(sum));
  }

  moe::RouterConfig config_{};
  int64_t k_ = 0;
  int64_t dim_ = 0;
  float temperature_ = 1;
  bool projected_ = false;
  std::string role_;
  std::vector<moe_weight_spec> weights_;
  const moe_weight* projection_ = nullptr;
  moe::OwnWeight similarity_;
  Op project_, norm_, compare_, route_;
  uint64_t projected_bytes_ = 0;
  uint64_t logits_bytes_ = 0;
};

}  // namespace

MOE_PLUGIN("router_cosine", "0.1.0", "Apache-2.0", "Patchbay", Cosine)
