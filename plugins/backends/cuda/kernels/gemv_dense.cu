// Products of few rows with a weight (matvec.hpp). A block takes 16 rows of the weight (32 where there are many
// tokens); its warps share k between them, so that each has all of its weights on their way at once, and their sums
// meet in shared memory in warp order.
#include <algorithm>

#include "kernels/gemv_fragment.cuh"
#include "kernels/gemv_launch.hpp"
#include "kernels/matvec.hpp"

namespace moe::cuda {
namespace {

constexpr int kMaxWarps = 8;
constexpr int kWarpK = 256;      // elements of a row that a warp takes, if there are no more than kMaxWarps of them
constexpr int kPartStride = 20;  // floats of a token's 16 rows: 20 keeps a warp's stores on different banks

template <Format F, Mode M, int MT, int NT, int kAhead>
__global__ void __launch_bounds__(kMaxWarps * 32) matvec_kernel(const __grid_constant__ MatvecParams p) {
  extern __shared__ float parts[];  // [n_warps][MT][NT * 8][kPartStride]
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (MT * kTileRows);
  const int64_t group = blockIdx.y;
  const int64_t token0 = static_cast<int64_t>(blockIdx.z) * (NT * kTileTokens);
  const int n_tokens = static_cast<int>(min(p.n - token0, int64_t{NT * kTileTokens}));

  RowPair rows[MT];
#pragma unroll
  for (int m = 0; m < MT; ++m) rows[m] = row_pair<F>(p.w, group, first + m * kTileRows, lane);
  const int n_chunks = static_cast<int>(p.w.row / kChunk<F>);
  const int share = (n_chunks + n_warps - 1) / n_warps;
  Stream<F, M, MT, NT, kAhead> stream(rows, warp * share, min(n_chunks, (warp + 1) * share));
  stream.prime();
  pdl_launch();
  pdl_wait();

  TokenRow tokens[NT];
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int token = j * kTileTokens + lane / 4;
    tokens[j] = {token < n_tokens ? p.x + (token0 + token) * p.x_row + group * p.x_group : nullptr, 1.0F};
  }
  float sums[MT][NT][kSums<M>] = {};
  stream.run(tokens, lane, p.activation, sums);

#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float c[4];
      finish_tile<M>(sums[m][j], lane, c);
      float* part =
          parts + ((warp * MT + m) * (NT * kTileTokens) + j * kTileTokens + lane % 4 * 2) * kPartStride + lane / 4;
      part[0] = c[0];
      part[kPartStride] = c[1];
      part[8] = c[2];
      part[kPartStride + 8] = c[3];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < MT * kTileRows * n_tokens; i += static_cast<int>(blockDim.x)) {
    const int row = i % (MT * kTileRows);
    const int token = i / (MT * kTileRows);
    const int64_t o = first + row;
    if (o >= p.w.n_out) continue;
    float y = 0.0F;
    for (int w = 0; w < n_warps; ++w) {
      y += parts[((w * MT + row / kTileRows) * (NT * kTileTokens) + token) * kPartStride + row % kTileRows];
    }
    if (p.bias != nullptr) y += p.bias[group * p.w.n_out + o];
    y *= p.scale;
    float* out = p.out + (token0 + token) * p.out_row + group * p.out_group + o;
    if (p.accumulate) y += *out;
    if (p.soft_cap > 0.0F) y = p.soft_cap * tanhf(y / p.soft_cap);
    *out = y;
  }
}

template <Format F, Mode M, int MT, int NT, int kAhead>
cudaError_t launch(const MatvecParams& p, cudaStream_t stream) {
  const auto warps = static_cast<unsigned>(std::clamp<int64_t>((p.w.n_in + kWarpK - 1) / kWarpK, 1, kMaxWarps));
  const int64_t tiles = (p.w.n_out + MT * kTileRows - 1) / (MT * kTileRows);
  const int64_t token_blocks = (p.n + NT * kTileTokens - 1) / (NT * kTileTokens);
  const LaunchShape shape{
      dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(p.w.n_groups), static_cast<unsigned>(token_blocks)),
      warps * 32, warps * MT * NT * kTileTokens * kPartStride * sizeof(float), p.pdl};
  return launch_kernel(matvec_kernel<F, M, MT, NT, kAhead>, shape, stream, p);
}

// A warp for each group of 32.
__global__ void pad_kernel(const __grid_constant__ PadParams p) {
  const int64_t per_row = p.out_row / kQuantScale;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  pdl_launch();
  pdl_wait();
  if (group >= p.n * p.n_groups * per_row) return;
  const int64_t row = group / per_row;
  const int64_t k = group % per_row * kQuantScale + threadIdx.x % 32;
  float x = k < p.n_in ? p.x[row / p.n_groups * p.x_row + row % p.n_groups * p.x_group + k] : 0.0F;
  if (p.round_i8) {
    uint32_t top = __float_as_uint(x) & 0x7FFFFFFFU;
    for (int step = 16; step > 0; step /= 2) top = max(top, __shfl_xor_sync(kFullWarp, top, step));
    const float scale = __fdiv_rn(__uint_as_float(top), 127.0F);
    x = scale == 0.0F ? 0.0F : fminf(fmaxf(rintf(__fdiv_rn(x, scale)), -127.0F), 127.0F) * scale;
    if (top >= 0x7F800000U) x = __uint_as_float(0x7FC00000U);
  }
  p.out[row * p.out_row + k] = x;
}

}  // namespace

cudaError_t launch_pad(const PadParams& p, cudaStream_t stream) {
  const int64_t groups = p.n * p.n_groups * (p.out_row / kQuantScale);
  if (groups == 0) return cudaSuccess;
  constexpr unsigned kThreads = 256;
  const LaunchShape shape{dim3(static_cast<unsigned>((groups + kThreads / 32 - 1) / (kThreads / 32))), kThreads, 0,
                          p.pdl};
  return launch_kernel(pad_kernel, shape, stream, p);
}

size_t matvec_workspace(const MatvecParams& p) {
  return static_cast<size_t>(p.n * p.w.n_groups * p.w.row) * sizeof(float);
}

cudaError_t launch_matvec(const MatvecParams& params, cudaStream_t stream) {
  MatvecParams p = params;
  if (p.n == 0 || p.w.n_out == 0 || p.w.n_groups == 0) return cudaSuccess;
  const bool round = rounds_before(p.w.format, p.activation);
  if (round || !reads_in_place(p.x, p.x_row, p.x_group, p.w)) {
    if (p.workspace == nullptr) return cudaErrorInvalidValue;
    auto* padded = static_cast<float*>(p.workspace);
    const cudaError_t error =
        launch_pad({p.x, p.x_row, p.x_group, padded, p.w.row, p.n, p.w.n_groups, p.w.n_in, round, p.pdl}, stream);
    if (error != cudaSuccess) return error;
    p.x = padded;
    p.x_row = p.w.row * p.w.n_groups;
    p.x_group = p.w.row;
    if (round) p.activation = MOE_F32;
  }
  return with_product(p.w.format, p.activation, [&]<Format F, Mode M>() -> cudaError_t {
    // What a warp takes of a row of 2,048, all on its way at once.
    constexpr int kAhead = F == Format::kF16 || F == Format::kBF16 || F == Format::kF32 ? 8 : 4;
    if constexpr (M != Mode::kFma) {
      if (p.n > 2 * kTileTokens) return launch<F, M, 2, 4, 4>(p, stream);
      if (p.n > kTileTokens) return launch<F, M, 2, 2, 4>(p, stream);
    }
    return launch<F, M, 1, 1, kAhead>(p, stream);
  });
}

}  // namespace moe::cuda
