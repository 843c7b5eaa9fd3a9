// Products of few rows with a weight (matvec.hpp). A block takes 16 rows of the weight at a time (32 where there are
// many tokens); its warps share k between them and add up their sums in shared memory in warp order. Blocks stay for
// tile after tile, so that the activations are converted once and the next tile's weights are on their way while the
// last one's sums are stored.
#include <algorithm>

#include "kernels/gemv_direct.cuh"
#include "kernels/gemv_launch.hpp"
#include "kernels/gemv_norm.cuh"
#include "kernels/gemv_product.cuh"
#include "kernels/matvec.hpp"
#include "kernels/single.hpp"

namespace moe::cuda {
namespace {

constexpr int kMaxWarps = 8;
constexpr int kWarpK = 256;      // elements of a row that a warp takes, if there are no more than kMaxWarps of them
constexpr int kPartStride = 20;  // floats of a token's 16 rows: 20 keeps a warp's stores on different banks

// Floats of one of the two sets of sums.
template <int MT, int NT>
constexpr int kParts = MT* NT* kTileTokens* kPartStride;

template <Mode M, int MT, int NT>
__device__ __forceinline__ void store_parts(const float (&sums)[MT][NT][kSums<M>], float* parts) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float c[4];
      finish_tile<M>(sums[m][j], lane, c);
      float* part = parts + (m * (NT * kTileTokens) + j * kTileTokens + lane % 4 * 2) * kPartStride + lane / 4;
      part[0] = c[0];
      part[kPartStride] = c[1];
      part[8] = c[2];
      part[kPartStride + 8] = c[3];
    }
  }
}

// The outputs of a tile from the sums of all warps.
template <int MT, int NT>
__device__ __forceinline__ void store_tile(const MatvecParams& p, int64_t first, int64_t token0, int n_tokens,
                                           const float* parts) {
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  const int64_t group = blockIdx.y;
  for (int i = threadIdx.x; i < MT * kTileRows * n_tokens; i += static_cast<int>(blockDim.x)) {
    const int row = i % (MT * kTileRows);
    const int token = i / (MT * kTileRows);
    const int64_t o = first + row;
    if (o >= p.w.n_out) continue;
    float y = 0.0F;
    for (int w = 0; w < n_warps; ++w) {
      y += parts[w * kParts<MT, NT> + (row / kTileRows * (NT * kTileTokens) + token) * kPartStride + row % kTileRows];
    }
    if (p.bias != nullptr) y += p.bias[group * p.w.n_out + o];
    y *= p.scale;
    float* out = p.out + (token0 + token) * p.out_row + group * p.out_group + o;
    if (p.accumulate) y += *out;
    if (p.soft_cap > 0.0F) y = p.soft_cap * tanhf(y / p.soft_cap);
    *out = y;
  }
}

// What a block of the kernel does.
template <Format F, int MT, int NT>
struct Work {
  const MatvecParams& p;
  int64_t group;
  int64_t token0;
  int n_tokens;
  int first;  // the warp's chunks
  int n_chunks;
  int n_tiles;
  float* parts;    // two sets of sums of all warps
  float* inverse;  // [NT * 8]: of each token's norm
  char* stage;     // the warp's
  int stage_size;

  __device__ __forceinline__ void find_rows(int tile, RowPair (&rows)[MT]) const {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      rows[m] =
          row_pair<F>(p.w, group, static_cast<int64_t>(tile * MT + m) * kTileRows, static_cast<int>(threadIdx.x) % 32);
    }
  }
  // Once the first weights have been asked for: waits for what came before, then for the norms (of few tokens).
  __device__ __forceinline__ void begin() const {
    pdl_launch();
    pdl_wait();
    if (NT > 1 || p.norm_weight == nullptr) return;
    find_norms(p, token0, n_tokens, NT * kTileTokens, parts, inverse);
    if (p.normed != nullptr) store_normed(p, token0, n_tokens, inverse);
  }
  __device__ __forceinline__ TokenRow row_of(int token) const {
    return {p.x + (token0 + token) * p.x_row + group * p.x_group, p.norm_weight != nullptr ? inverse[token] : 1.0F};
  }
  __device__ __forceinline__ NormRow norm() const { return {p.norm_weight, static_cast<int>(p.w.n_in)}; }
  // Ends a tile; `set` alternates, so that one barrier a tile is enough.
  template <Mode M>
  __device__ __forceinline__ void end(int tile, int set, const float (&sums)[MT][NT][kSums<M>]) const {
    const int n_warps = static_cast<int>(blockDim.x) / 32;
    float* to = parts + set * n_warps * kParts<MT, NT>;
    store_parts<M, MT, NT>(sums, to + static_cast<int>(threadIdx.x) / 32 * kParts<MT, NT>);
    __syncthreads();  // the set before is free after this, too
    store_tile<MT, NT>(p, static_cast<int64_t>(tile) * (MT * kTileRows), token0, n_tokens, to);
  }
};

// Activations converted on the way ...
template <Format F, Mode M, int MT, int NT, int kAhead>
__device__ __forceinline__ void run_direct(const Work<F, MT, NT>& work) {
  const int lane = threadIdx.x % 32;
  int set = 0;
  bool begun = false;
  for (int tile = static_cast<int>(blockIdx.x); tile < work.n_tiles; tile += static_cast<int>(gridDim.x), set ^= 1) {
    RowPair rows[MT];
    work.find_rows(tile, rows);
    DirectStream<F, M, MT, NT, kAhead> stream(rows, work.first, work.first + work.n_chunks);
    uint4 ahead[kAhead][MT][2];
    stream.prime(ahead);
    if (!begun) work.begin();
    begun = true;
    TokenRow tokens[NT];
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const int token = j * kTileTokens + lane / 4;
      tokens[j] = {token < work.n_tokens ? work.row_of(token).x : nullptr, 1.0F};
    }
    float sums[MT][NT][kSums<M>] = {};
    stream.run(tokens, NormRow{}, lane, ahead, sums);  // more tokens than are normalised here
    work.template end<M>(tile, set, sums);
  }
}

// ... or once, into shared memory, while the weights of tile after tile come through a ring.
template <Format F, Mode M, int MT, int NT, int kAhead>
__device__ __forceinline__ void run_staged(const Work<F, MT, NT>& work) {
  const int lane = threadIdx.x % 32;
  int next_tile = static_cast<int>(blockIdx.x);
  const auto next = [&](RowPair(&rows)[MT], int& chunk, int& count) {
    if (next_tile >= work.n_tiles || work.n_chunks == 0) return false;
    work.find_rows(next_tile, rows);
    chunk = work.first;
    count = work.n_chunks;
    next_tile += static_cast<int>(gridDim.x);
    return true;
  };
  WeightRing<F, MT, kAhead, decltype(next)> ring(work.stage + work.stage_size, next);
  work.begin();
  const int capacity = stage_chunks<F, M>(work.stage_size, work.n_tokens);
  const bool once = capacity >= work.n_chunks;
  const auto row_of = [&](int token) { return work.row_of(token); };
  const auto fill = [&](int from, int to) {
    const TokenStage stage = make_stage<F, M>(work.stage, to - from, work.n_tokens);
    fill_stage<F, M>(stage, (work.first + from) * kBlocks<F>, (to - from) * kBlocks<F>, row_of, work.norm(),
                     work.p.activation);
    return stage;
  };
  TokenStage stage{};
  if (once && work.n_chunks > 0) stage = fill(0, work.n_chunks);
  int set = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < work.n_tiles; tile += static_cast<int>(gridDim.x), set ^= 1) {
    float sums[MT][NT][kSums<M>] = {};
    for (int from = 0; from < work.n_chunks; from += capacity) {
      const int to = min(work.n_chunks, from + capacity);
      if (!once) {
        __syncwarp();
        stage = fill(from, to);
      }
      ring.run(from, to, [&](const Chunk(&w)[MT], int chunk) {
        chunk_product<F, M, MT, NT>(w, stage, chunk - from, lane, sums);
      });
    }
    work.template end<M>(tile, set, sums);
  }
}

// Blocks: (any number, groups, blocks of NT * 8 tokens). Shared memory: two sets of sums of all warps, a stage and a
// ring for each warp (where activations are staged), norms.
template <Format F, Mode M, int MT, int NT, int kAhead, bool kStaged>
__global__ void __launch_bounds__(kMaxWarps * 32, MT* NT == 1 ? 2 : 1)
    matvec_kernel(const __grid_constant__ MatvecParams p, int per_warp) {
  extern __shared__ __align__(16) char memory[];
  const int warp = threadIdx.x / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  const int64_t token0 = static_cast<int64_t>(blockIdx.z) * (NT * kTileTokens);
  const int n_chunks = static_cast<int>(p.w.row / kChunk<F>);
  const int share = (n_chunks + n_warps - 1) / n_warps;
  const int first = min(n_chunks, warp * share);
  char* warps = memory + 2 * n_warps * kParts<MT, NT> * sizeof(float);
  const Work<F, MT, NT> work{p,
                             static_cast<int64_t>(blockIdx.y),
                             token0,
                             static_cast<int>(min(p.n - token0, int64_t{NT * kTileTokens})),
                             first,
                             min(n_chunks, first + share) - first,
                             static_cast<int>((p.w.n_out + MT * kTileRows - 1) / (MT * kTileRows)),
                             reinterpret_cast<float*>(memory),
                             reinterpret_cast<float*>(warps + n_warps * per_warp),
                             warps + warp * per_warp,
                             per_warp - kRingBytes<F, MT, kAhead>};
  if constexpr (kStaged) {
    run_staged<F, M, MT, NT, kAhead>(work);
  } else {
    run_direct<F, M, MT, NT, kAhead>(work);
  }
}

// How a number of tokens is treated: tiles, chunks ahead, and shared memory for converted activations.
template <Format F, Mode M, int MT, int NT, int kAhead, bool kStaged>
cudaError_t launch(const MatvecParams& p, int64_t most_stage_bytes, cudaStream_t stream) {
  int multiprocessors = 0;
  if (const cudaError_t error = count_multiprocessors(&multiprocessors); error != cudaSuccess) return error;
  const int64_t warps = std::clamp<int64_t>((p.w.n_in + kWarpK - 1) / kWarpK, 1, kMaxWarps);
  const int64_t tiles = (p.w.n_out + MT * kTileRows - 1) / (MT * kTileRows);
  const int64_t token_blocks = (p.n + NT * kTileTokens - 1) / (NT * kTileTokens);
  const int64_t tokens = std::min<int64_t>(p.n, NT * kTileTokens);
  const int64_t share = (p.w.row / kChunk<F> + warps - 1) / warps;
  constexpr int64_t kSharedOfAll = 224 * 1024;
  const int64_t sums = warps * 2 * kParts<MT, NT> * static_cast<int64_t>(sizeof(float));
  int64_t per_warp = 0;
  int64_t blocks = tiles;
  if constexpr (kStaged) {
    constexpr int64_t kRing = kRingBytes<F, MT, kAhead>;
    const int64_t most = std::min(most_stage_bytes, kSharedOfAll - sums - warps * kRing) / warps / 16 * 16;
    per_warp = kRing + std::max(stage_bytes<F, M>(1, tokens), std::min(stage_bytes<F, M>(share, tokens), most));
    // One block of 256 threads a multiprocessor keeps memory busy, and leaves room for the next kernel's to ask for its
    // weights.
    blocks = std::max<int64_t>(1, multiprocessors * (kMaxWarps / warps) / (p.w.n_groups * token_blocks));
  }
  const int64_t shared = sums + warps * per_warp + NT * kTileTokens * static_cast<int64_t>(sizeof(float));
  const LaunchShape shape{dim3(static_cast<unsigned>(std::min(tiles, blocks)), static_cast<unsigned>(p.w.n_groups),
                               static_cast<unsigned>(token_blocks)),
                          static_cast<unsigned>(warps * 32), static_cast<size_t>(shared), p.pdl};
  return launch_kernel(matvec_kernel<F, M, MT, NT, kAhead, kStaged>, shape, stream, p, static_cast<int>(per_warp));
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

bool matvec_takes_norm(const MatvecParams& p) { return p.w.n_groups == 1 && !rounds_before(p.w.format, p.activation); }

cudaError_t launch_matvec(const MatvecParams& params, cudaStream_t stream) {
  MatvecParams p = params;
  if (p.n == 0 || p.w.n_out == 0 || p.w.n_groups == 0) return cudaSuccess;
  if (p.norm_weight != nullptr && (p.n > kMostNormedRows || !matvec_takes_norm(p))) return cudaErrorNotSupported;
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
  if (single_fits(p)) return launch_single(p, stream);
  return with_product(p.w.format, p.activation, [&]<Format F, Mode M>() -> cudaError_t {
    constexpr int64_t kStage = 40 * 1024;
    constexpr int64_t kWideStage = 160 * 1024;
    if constexpr (kDirect<F, M>) {
      constexpr int64_t kFew = kMostNormedRows;  // for whom converting once is worth it
      if (p.n > 2 * kTileTokens) return launch<F, M, 2, 4, 4, false>(p, 0, stream);
      if (p.n > kTileTokens) return launch<F, M, 2, 2, 4, false>(p, 0, stream);
      if (p.n > kFew) return launch<F, M, 1, 1, 8, false>(p, 0, stream);
    } else if constexpr (M != Mode::kFma) {
      // Wider tiles of tokens where a stage has room for a chunk of them.
      if constexpr (!(M == Mode::kSplit && kScaled<F>)) {
        if (p.n > 2 * kTileTokens) return launch<F, M, 2, 4, 4, true>(p, kWideStage, stream);
      }
      if (p.n > kTileTokens) return launch<F, M, 2, 2, 4, true>(p, kWideStage, stream);
    }
    return launch<F, M, 1, 1, 8, true>(p, kStage, stream);
  });
}

}  // namespace moe::cuda
