// The feed-forward of a set of experts.
#include "kernels/ffn.hpp"
#include "moe/sdk/loops/ffn.hpp"
#include "ops.hpp"

namespace moe::cuda {

using loops::expect_shape;
using loops::given;

namespace {

FfnParams params_of(const Context& context, const moe_ffn_args& a) {
  const auto row = [](const moe_tensor& t) { return given(t) ? t.strides[0] : 0; };
  FfnParams p{};
  p.gate = a.gate->view;
  if (a.up != nullptr) p.up = a.up->view;
  p.down = a.down->view;
  p.gate_bias = data_of<float>(a.gate_bias), p.gate_bias_row = row(a.gate_bias);
  p.up_bias = data_of<float>(a.up_bias), p.up_bias_row = row(a.up_bias);
  p.down_bias = data_of<float>(a.down_bias), p.down_bias_row = row(a.down_bias);
  p.x = data_of<float>(a.x), p.x_row = row(a.x);
  p.ids = data_of<int32_t>(a.ids), p.ids_row = row(a.ids);
  p.weights = data_of<float>(a.weights), p.weights_row = row(a.weights);
  p.count = data_of<int32_t>(a.count), p.count_stride = row(a.count);
  p.row_gate = data_of<float>(a.row_gate), p.row_gate_stride = row(a.row_gate);
  p.out = data_of<float>(a.out), p.out_row = row(a.out);
  p.n = a.x.shape[0];
  p.k = given(a.ids) ? a.ids.shape[1] : 1;
  p.first_expert = a.first_expert;
  p.gating = a.gating;
  p.activation = a.activation;
  p.weight_on = a.weight_on;
  p.scale = a.scale;
  p.accumulate = a.accumulate != 0;
  p.deterministic = context.deterministic;
  p.single = context.single();
  p.pdl = context.pdl;
  return p;
}

Result<Found> find_ffn(const Context& context, const moe_ffn_args& a) {
  MOE_TRY(loops::check_activation(a.activation));
  MOE_TRY(loops::check_gating(a.gating));
  const int64_t n = a.x.shape[0];
  const int64_t d_model = a.x.shape[1];
  MOE_TRY(expect_weight(a.gate, "gate", a.n_experts, a.width, d_model));
  if (a.up != nullptr) MOE_TRY(expect_weight(a.up, "up", a.n_experts, a.width, d_model));
  MOE_TRY(expect_weight(a.down, "down", a.n_experts, d_model, a.width));
  MOE_TRY(expect_shape("out", a.out, n, 1, d_model));
  if (a.weight_on != MOE_WEIGHT_ON_OUTPUT && a.weight_on != MOE_WEIGHT_ON_INPUT) {
    return loops::bad("weight_on", "MOE_WEIGHT_ON_*", a.weight_on);
  }
  if (given(a.ids)) {
    MOE_TRY(expect_shape("ids", a.ids, n, 1, a.ids.shape[1]));
    MOE_TRY(expect_shape("weights", a.weights, n, 1, a.ids.shape[1]));
  }
  const FfnParams p = params_of(context, a);
  if (const char* reason = ffn_refusal(p); reason != nullptr) return unimplemented(reason);
  Space space;
  space.take<char>(static_cast<int64_t>(ffn_workspace(p)));
  return Found{"cuda", space.wanted()};
}

Status run_ffn(const Context& context, const moe_ffn_args& a, cudaStream_t stream) {
  FfnParams p = params_of(context, a);
  Space space(a.header);
  p.workspace = space.take<char>(static_cast<int64_t>(ffn_workspace(p)));
  MOE_TRY(space.check());
  MOE_CUDA_TRY(launch_ffn(p, stream));
  return {};
}

constexpr OpRow kOps[] = {op_row<moe_ffn_args, find_ffn, run_ffn>(MOE_OP_FFN)};

}  // namespace

std::span<const OpRow> ffn_ops() { return kOps; }

}  // namespace moe::cuda
