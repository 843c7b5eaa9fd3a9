// Routing.
#include "kernels/route.hpp"
#include "moe/sdk/loops/route.hpp"
#include "ops.hpp"

namespace moe::cuda {

using loops::expect_shape;
using loops::given;

RouteParams route_params(const moe_route_op_args& a) {
  RouteParams p{};
  p.logits = rows_of<const float>(a.logits);
  p.bias = data_of<float>(a.bias);
  p.ids = rows_of<int32_t>(a.ids);
  p.weights = rows_of<float>(a.weights);
  p.count = data_of<int32_t>(a.count);
  p.count_stride = a.count.strides[0];
  p.n = a.logits.shape[0];
  p.n_experts = a.n_experts;
  p.top_k = a.top_k;
  p.score = a.score;
  p.group_score = a.group_score;
  p.n_groups = a.n_groups;
  p.top_groups = a.top_groups;
  p.fill = a.fill;
  p.renorm = a.renorm;
  p.dynamic = a.dynamic;
  p.k_min = a.k_min;
  p.threshold = a.threshold;
  p.renorm_eps = a.renorm_eps;
  p.scale = a.scale;
  p.logit_cap = a.logit_cap;
  p.sparse_eps = a.sparse_eps;
  return p;
}

namespace {

Result<Found> find_route(const Context&, const moe_route_op_args& a) {
  MOE_TRY(loops::check_route(a));
  const int64_t n = a.logits.shape[0];
  MOE_TRY(expect_shape("logits", a.logits, n, 1, a.n_experts + (a.score == MOE_SCORE_GROUP_GATE ? a.n_groups : 0)));
  MOE_TRY(expect_shape("ids", a.ids, n, 1, a.top_k));
  MOE_TRY(expect_shape("weights", a.weights, n, 1, a.top_k));
  if (route_bytes(route_params(a)) > kRouteMostBytes) {
    return unimplemented("n_experts: expected a row that fits " + std::to_string(kRouteMostBytes) +
                         " bytes of shared memory, got " + std::to_string(a.n_experts) + " experts");
  }
  return Found{};
}
Status run_route(const Context& context, const moe_route_op_args& a, cudaStream_t stream) {
  RouteParams p = route_params(a);
  p.pdl = context.pdl;
  MOE_CUDA_TRY(launch_route(p, stream));
  return {};
}

constexpr OpRow kOps[] = {op_row<moe_route_op_args, find_route, run_route>(MOE_OP_ROUTE)};

}  // namespace

std::span<const OpRow> route_ops() { return kOps; }

}  // namespace moe::cuda
