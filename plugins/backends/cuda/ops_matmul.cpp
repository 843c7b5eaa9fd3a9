// Products with a prepared weight.
#include "kernels/matvec.hpp"
#include "kernels/product.hpp"
#include "kernels/unpack.hpp"
#include "moe/sdk/loops/matmul.hpp"
#include "ops.hpp"

namespace moe::cuda {

using loops::expect_shape;
using loops::given;

namespace {

// Rows of a weight that cuBLAS multiplies with at a time: all, or (kF8) as many as are unpacked for it, in whole
// blocks.
int64_t rows_at_once(const WeightView& w) {
  if (w.format != Format::kF8) return w.n_out;
  const int64_t rows = unpacked_at_once(w.n_out, w.n_groups * w.row * 2);
  return rows == w.n_out ? rows : rows / kF8Block * kF8Block;
}
int64_t unpacked_elements(const WeightView& w) {
  return w.format == Format::kF8 ? w.n_groups * rows_at_once(w) * w.row : 0;
}

// cuBLAS multiplies floats of one type; what remains goes to our own kernels.
bool suits_blas(const WeightView& w, moe_activation_type activation) {
  if (w.format == Format::kF8) return activation == MOE_BF16 && rows_at_once(w) > 0;
  return (w.format == Format::kF32 && activation == MOE_F32) || (w.format == Format::kBF16 && activation == MOE_BF16) ||
         (w.format == Format::kF16 && activation == MOE_F16);
}
// For few rows reading the weights is all there is to do, and when results must not depend on the batch, neither may
// the kernel.
constexpr int64_t kFewRows = 32;
constexpr int64_t kFewRowsF8 = 64;  // to read codes twice costs less than to unpack them
bool takes_matvec(const Context& context, const WeightView& w, const moe_matmul_args& a) {
  return a.x.shape[0] <= (w.format == Format::kF8 ? kFewRowsF8 : kFewRows) || context.deterministic || w.n_in == 0 ||
         !suits_blas(w, a.activation);
}

}  // namespace

MatvecParams matvec_params(const Context& context, const moe_matmul_args& a) {
  MatvecParams p{};
  p.w = a.weight->view;
  p.x = data_of<float>(a.x);
  p.x_row = a.x.strides[0];
  p.x_group = a.x.ndim == 3 ? a.x.strides[1] : 0;
  p.bias = data_of<float>(a.bias);
  p.out = data_of<float>(a.out);
  p.out_row = a.out.strides[0];
  p.out_group = a.out.ndim == 3 ? a.out.strides[1] : 0;
  p.n = a.x.shape[0];
  p.activation = a.activation;
  p.scale = a.scale;
  p.soft_cap = a.soft_cap;
  p.accumulate = a.accumulate != 0;
  p.single = context.single();
  p.pdl = context.pdl;
  return p;
}

namespace {

// The activations as the product wants them, in the workspace where they differ from x.
struct Input {
  const void* x;
  int64_t row;    // elements between rows
  int64_t group;  // elements between groups
};

// [n, groups, n_in] rounded, as f32, or (narrow) as 16-bit floats in rows of w.row.
Result<Input> rounded_input(const moe_tensor& x, const WeightView& w, moe_activation_type activation, bool narrow,
                            Space& space, cudaStream_t stream) {
  const int64_t groups = heads_of(x);
  if (activation == MOE_F32) return Input{x.data, x.strides[0], x.ndim == 3 ? x.strides[1] : 0};
  const int64_t width = narrow ? w.row : w.n_in;
  void* out = narrow ? static_cast<void*>(space.take<uint16_t>(x.shape[0] * groups * width))
                     : static_cast<void*>(space.take<float>(x.shape[0] * groups * width));
  MOE_TRY(space.check());
  RoundParams p{};
  p.n = x.shape[0];
  p.dim = w.n_in;
  p.out_dim = width;
  p.out_stride = groups * width;
  p.activation = activation;
  p.narrow = narrow;
  for (int64_t g = 0; g < groups; ++g) {
    p.x = {data_of<float>(x) + (x.ndim == 3 ? g * x.strides[1] : 0), x.strides[0], 0};
    p.out = static_cast<char*>(out) + g * width * (narrow ? 2 : 4);
    MOE_CUDA_TRY(launch_round(p, stream));
  }
  return Input{out, groups * width, width};
}

// --- matmul
Result<Found> find_matmul(const Context& context, const moe_matmul_args& a) {
  MOE_TRY(loops::check_activation(a.activation));
  MOE_ASSIGN(const WeightView w, expect_weight(a.weight, "weight", heads_of(a.x), 0, 0));
  const int64_t n = a.x.shape[0];
  MOE_TRY(expect_shape("x", a.x, n, w.n_groups, w.n_in));
  MOE_TRY(expect_shape("out", a.out, n, w.n_groups, w.n_out));
  Space few;
  few.take<char>(static_cast<int64_t>(matvec_workspace(matvec_params(context, a))));
  const bool blas = !takes_matvec(context, w, a);
  Space many;
  if (blas && a.activation != MOE_F32) many.take<uint16_t>(n * w.n_groups * w.row);
  if (blas) many.take<uint16_t>(unpacked_elements(w));
  return Found{blas ? "cublas" : "matvec", std::max(few.wanted(), many.wanted())};
}

Status run_blas(const Context& context, const moe_matmul_args& a, const WeightView& w, const Input& in, Space& space,
                cudaStream_t stream) {
  auto* unpacked = space.take<uint16_t>(unpacked_elements(w));
  MOE_TRY(space.check());
  GemmArgs g;
  g.n = a.x.shape[0];
  g.k = a.activation == MOE_F32 ? w.n_in : w.row;
  g.x = in.x;
  g.x_row = in.row;
  g.w_row = w.row;
  g.out_row = a.out.strides[0];
  g.type = w.format == Format::kF32 ? CUDA_R_32F : w.format == Format::kF16 ? CUDA_R_16F : CUDA_R_16BF;
  g.alpha = a.scale;
  g.beta = a.accumulate != 0 ? 1.0F : 0.0F;
  g.batch = w.n_groups;
  g.x_batch = in.group;
  g.out_batch = a.out.ndim == 3 ? a.out.strides[1] : 0;
  const int64_t at_once = rows_at_once(w);
  for (int64_t first = 0; first < w.n_out; first += at_once) {
    g.m = std::min(at_once, w.n_out - first);
    g.w = w.data;
    g.w_batch = g.m * w.row;
    g.out = data_of<float>(a.out) + first;
    if (w.format == Format::kF8) {
      MOE_CUDA_TRY(launch_unpack({w, first, g.m, 0, w.n_groups, nullptr, nullptr, unpacked, context.pdl}, stream));
      g.w = unpacked;
    }
    MOE_TRY(context.blas->gemm(g));
  }
  MOE_CUDA_TRY(launch_finish({data_of<float>(a.out), g.out_row, g.out_batch, data_of<float>(a.bias), g.n, w.n_groups,
                              w.n_out, a.scale, a.soft_cap},
                             stream));
  return {};
}

}  // namespace

bool takes_narrow_rows(const Context& context, const moe_matmul_args& a) {
  return a.x.ndim == 2 && a.activation != MOE_F32 && !takes_matvec(context, a.weight->view, a);
}

Status run_normed_matmul(const Context& context, NormParams norm, const moe_matmul_args& a, cudaStream_t stream) {
  const WeightView& w = a.weight->view;
  if (norm.n == 0 || w.n_out == 0) return {};
  Space space(a.header);
  norm.narrow = space.take<uint16_t>(norm.n * w.row);
  norm.narrow_row = w.row;
  norm.narrow_type = a.activation;
  MOE_TRY(space.check());
  MOE_CUDA_TRY(launch_norm(norm, stream));
  return run_blas(context, a, w, {norm.narrow, w.row, w.row}, space, stream);
}

namespace {

Status run_matmul(const Context& context, const moe_matmul_args& a, cudaStream_t stream) {
  const WeightView& w = a.weight->view;
  const int64_t n = a.x.shape[0];
  if (n == 0 || w.n_out == 0) return {};
  Space space(a.header);
  if (!takes_matvec(context, w, a)) {
    MOE_ASSIGN(const Input in, rounded_input(a.x, w, a.activation, true, space, stream));
    return run_blas(context, a, w, in, space, stream);
  }
  MatvecParams p = matvec_params(context, a);
  p.workspace = space.take<char>(static_cast<int64_t>(matvec_workspace(p)));
  MOE_TRY(space.check());
  MOE_CUDA_TRY(launch_matvec(p, stream));
  return {};
}

// --- grouped_matmul
Result<Found> find_grouped(const Context&, const moe_grouped_matmul_args& a) {
  MOE_TRY(loops::check_activation(a.activation));
  MOE_ASSIGN(const WeightView w, expect_weight(a.weight, "weight", 0, 0, 0));
  const int64_t m = a.x.shape[0];
  MOE_TRY(expect_shape("x", a.x, m, 1, w.n_in));
  MOE_TRY(expect_shape("out", a.out, m, 1, w.n_out));
  if (a.offsets.shape[0] != w.n_groups + 1)
    return loops::bad("offsets", std::to_string(w.n_groups + 1) + " numbers", a.offsets.shape[0]);
  Space space;
  if (a.activation != MOE_F32) space.take<float>(m * w.n_in);
  space.take<int32_t>(tiles_size(m, w.n_groups));
  return Found{"tiles", space.wanted()};
}

Status run_grouped(const Context&, const moe_grouped_matmul_args& a, cudaStream_t stream) {
  const WeightView& w = a.weight->view;
  const int64_t m = a.x.shape[0];
  if (m == 0 || w.n_out == 0 || w.n_groups == 0) return {};
  Space space(a.header);
  MOE_ASSIGN(const Input in, rounded_input(a.x, w, a.activation, false, space, stream));
  GroupedProductParams p{};
  p.w = w;
  p.x = static_cast<const float*>(in.x);
  p.x_row = in.row;
  p.out = data_of<float>(a.out);
  p.out_row = a.out.strides[0];
  p.bias = data_of<float>(a.bias);
  p.bias_row = given(a.bias) ? a.bias.strides[0] : 0;
  p.n = m;
  auto* tiles = space.take<int32_t>(tiles_size(m, w.n_groups));
  MOE_TRY(space.check());
  MOE_CUDA_TRY(launch_tiles(data_of<int32_t>(a.offsets), w.n_groups, tiles, stream));
  p.tiles = tiles;
  MOE_CUDA_TRY(launch_grouped_product(p, stream));
  return {};
}

constexpr OpRow kOps[] = {
    op_row<moe_matmul_args, find_matmul, run_matmul>(MOE_OP_MATMUL),
    op_row<moe_grouped_matmul_args, find_grouped, run_grouped>(MOE_OP_GROUPED_MATMUL),
};

}  // namespace

std::span<const OpRow> matmul_ops() { return kOps; }

}  // namespace moe::cuda
