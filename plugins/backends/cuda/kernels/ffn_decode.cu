// Experts for few tokens (ffn.hpp): a launch for gate, up and the activation, and one for down and the weighted sum.
// Both stream the weights of each chosen expert once for a block of up to 64 tokens; which tokens go to an expert each
// block finds out by itself from the ids, a few hundred numbers.
#include <algorithm>

#include "kernels/ffn_pairs.cuh"
#include "kernels/ffn_stage.hpp"
#include "kernels/gemv_fragment.cuh"
#include "kernels/gemv_launch.hpp"

namespace moe::cuda {
namespace {

constexpr int kPartStride = 20;  // floats of a token's 16 rows: 20 keeps a warp's stores on different banks
constexpr int64_t kMostBlockTokens = 64;

// Chunks on their way at any time: as many as registers hold (128 a thread), or what a warp has at all.
template <Format F>
constexpr bool kPlain = F == Format::kF16 || F == Format::kBF16 || F == Format::kF32;
template <Format F>
constexpr int kUpAhead = 2;
template <Format F>
constexpr int kDownAhead = kPlain<F> ? 6 : 4;
constexpr int64_t kSharedBytes = 160 * 1024;

// --- which expert a pair goes to

// The tokens of a block.
struct Block {
  int64_t token0;
  int n_tokens;
  int n_pairs;
};
__device__ Block block_of(const FfnParams& p, int64_t block_tokens, int64_t index) {
  const int64_t token0 = index * block_tokens;
  const int n_tokens = static_cast<int>(min(p.n - token0, block_tokens));
  return {token0, n_tokens, n_tokens * static_cast<int>(p.k)};
}

// Of a pair, numbered in the block.
__device__ __forceinline__ int expert_of(const FfnParams& p, const Block& b, int pair) {
  const int k = static_cast<int>(p.k);
  return expert_of(p, b.token0 + pair / k, pair % k);
}
__device__ __forceinline__ float weight_of(const FfnParams& p, const Block& b, int pair) {
  const int k = static_cast<int>(p.k);
  return weight_of(p, b.token0 + pair / k, pair % k);
}

// The block's index-th expert in ascending order, its pairs into `list`; returns how many (0: there is no such expert).
// `mask` [n_experts / 32, rounded up], `of` [n_pairs]. All threads.
__device__ int find_expert(const FfnParams& p, const Block& b, int index, unsigned* mask, int16_t* of, int16_t* list,
                           int* shared, int* expert) {
  const int n_words = static_cast<int>((p.gate.n_groups + 31) / 32);
  for (int i = threadIdx.x; i < n_words; i += static_cast<int>(blockDim.x)) mask[i] = 0;
  __syncthreads();
  for (int pair = threadIdx.x; pair < b.n_pairs; pair += static_cast<int>(blockDim.x)) {
    const int e = expert_of(p, b, pair);
    of[pair] = static_cast<int16_t>(e);
    if (e >= 0) atomicOr(mask + e / 32, 1U << e % 32);
  }
  __syncthreads();
  int e = -1;
  for (int i = 0; i < n_words && e < 0; ++i) {
    unsigned word = mask[i];
    const int here = __popc(word);
    if (index >= here) {
      index -= here;
      continue;
    }
    for (; index > 0; --index) word &= word - 1;
    e = i * 32 + __ffs(static_cast<int>(word)) - 1;
  }
  *expert = e;
  if (e < 0) return 0;
  if (threadIdx.x < 32) {
    int n = 0;
    for (int base = 0; base < b.n_pairs; base += 32) {
      const int pair = base + static_cast<int>(threadIdx.x);
      const bool mine = pair < b.n_pairs && of[pair] == e;
      const unsigned votes = __ballot_sync(kFullWarp, mine);
      if (mine) list[n + __popc(votes & ((1U << threadIdx.x) - 1U))] = static_cast<int16_t>(pair);
      n += __popc(votes);
    }
    if (threadIdx.x == 0) *shared = n;
  }
  __syncthreads();
  return *shared;
}

// --- hidden = act(gate x, up x)

constexpr int kUpWarps = 4;

// Shared memory of the first kernel.
struct UpShared {
  float parts[kUpWarps][2][2 * kTileTokens][kPartStride];
  int n;
};

struct UpTask {
  Block block;
  int expert;
  int64_t first;        // row of gate and up
  const int16_t* list;  // pairs of the block; null: pair `first_pair` + i
  int first_pair;
  __device__ int pair(int i) const { return list == nullptr ? first_pair + i : list[i]; }
};

// Pairs [begin, begin + n) of the task, n <= 8 NT.
template <Format F, Mode M, int NT, int kAhead>
__device__ void up_pairs(const FfnParams& p, const Hidden& hidden, const UpTask& task, int begin, int n,
                         UpShared& shared) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const RowPair rows[2] = {row_pair<F>(p.gate, task.expert, task.first, lane),
                           row_pair<F>(p.up.data != nullptr ? p.up : p.gate, task.expert, task.first, lane)};
  const int n_chunks = static_cast<int>(p.gate.row / kChunk<F>);
  const int share = (n_chunks + kUpWarps - 1) / kUpWarps;
  Stream<F, M, 2, NT, kAhead> stream(rows, warp * share, min(n_chunks, (warp + 1) * share));
  stream.prime();
  TokenRow tokens[NT];
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int i = j * kTileTokens + lane / 4;
    tokens[j] = {nullptr, 1.0F};
    if (i >= n) continue;
    const int pair = task.pair(begin + i);
    tokens[j].x = p.x + (task.block.token0 + pair / p.k) * p.x_row;
    if (p.weight_on == MOE_WEIGHT_ON_INPUT) tokens[j].factor = weight_of(p, task.block, pair);
  }
  float sums[2][NT][kSums<M>] = {};
  stream.run(tokens, lane, p.activation, sums);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float c[4];
      finish_tile<M>(sums[m][j], lane, c);
      float(*part)[kPartStride] = shared.parts[warp][m] + j * kTileTokens + lane % 4 * 2;
      part[0][lane / 4] = c[0];
      part[1][lane / 4] = c[1];
      part[0][lane / 4 + 8] = c[2];
      part[1][lane / 4 + 8] = c[3];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n * kTileRows; i += kUpWarps * 32) {
    const int row = i % kTileRows;
    const int64_t o = task.first + row;
    if (o >= hidden.row) continue;
    float g = 0.0F;
    float u = 0.0F;
#pragma unroll
    for (int w = 0; w < kUpWarps; ++w) {
      g += shared.parts[w][0][i / kTileRows][row];
      u += shared.parts[w][1][i / kTileRows][row];
    }
    if (p.gate_bias != nullptr && o < p.gate.n_out) g += p.gate_bias[task.expert * p.gate_bias_row + o];
    if (p.up_bias != nullptr && o < p.gate.n_out) u += p.up_bias[task.expert * p.up_bias_row + o];
    const int64_t pair = task.block.token0 * p.k + task.pair(begin + i / kTileRows);
    hidden.data[pair * hidden.row + o] = o < p.gate.n_out ? gated(p.gating, g, u) : 0.0F;
  }
  __syncthreads();
}

template <Format F, Mode M>
__device__ void up_task(const FfnParams& p, const Hidden& hidden, const UpTask& task, int n, UpShared& shared) {
  for (int begin = 0; begin < n;) {
    const int left = n - begin;
    if constexpr (M != Mode::kFma) {
      if (left > kTileTokens) {
        up_pairs<F, M, 2, kPlain<F> ? 2 : 1>(p, hidden, task, begin, min(left, 2 * kTileTokens), shared);
        begin += 2 * kTileTokens;
        continue;
      }
    }
    up_pairs<F, M, 1, kUpAhead<F>>(p, hidden, task, begin, min(left, kTileTokens), shared);
    begin += kTileTokens;
  }
}

// Blocks: (tiles of 16 rows, experts of the block of tokens, blocks of tokens). With one token a block takes slot
// blockIdx.y.
template <Format F, Mode M>
__global__ void __launch_bounds__(kUpWarps * 32, 4)
    up_kernel(const __grid_constant__ FfnParams p, const Hidden hidden, int64_t block_tokens) {
  extern __shared__ __align__(16) char memory[];
  UpShared& shared = *reinterpret_cast<UpShared*>(memory);
  pdl_wait();
  pdl_launch();
  UpTask task{block_of(p, block_tokens, blockIdx.z), 0, static_cast<int64_t>(blockIdx.x) * kTileRows, nullptr, 0};
  int n = task.block.n_tokens;
  if (p.ids != nullptr && n == 1) {
    task.first_pair = static_cast<int>(blockIdx.y);
    task.expert = task.first_pair < task.block.n_pairs ? expert_of(p, task.block, task.first_pair) : -1;
    if (task.expert < 0) return;
  } else if (p.ids != nullptr) {
    auto* mask = reinterpret_cast<unsigned*>(&shared + 1);
    auto* of = reinterpret_cast<int16_t*>(mask + (p.gate.n_groups + 31) / 32);
    int16_t* list = of + block_tokens * p.k;
    n = find_expert(p, task.block, static_cast<int>(blockIdx.y), mask, of, list, &shared.n, &task.expert);
    task.list = list;
  }
  up_task<F, M>(p, hidden, task, n, shared);
}

// --- out = sum of weight * (down hidden)

constexpr int kDownWarps = 16;
constexpr int64_t kSegment = 512;  // elements of a row that a warp takes at a time
constexpr int64_t kMostSegments = 8;

__host__ __device__ inline int segments_of(const WeightView& down) {
  const int64_t wanted = (down.n_in + kSegment - 1) / kSegment;
  return static_cast<int>(wanted < 1 ? 1 : wanted < kMostSegments ? wanted : kMostSegments);
}

// What a block knows of its pairs: those of one expert stand together.
struct Groups {
  int* begin;       // [n_experts + 1]
  int16_t* active;  // [n_experts]: those that have pairs
  int16_t* list;    // [n_pairs]
  int n_active;
};
__host__ __device__ inline int64_t groups_bytes(int64_t n_experts, int64_t n_pairs) {
  return (n_experts + 2) * 4 + (n_experts + n_pairs + 2) * 2;
}

// Counts and places pairs. The order inside an expert does not matter: a pair's sums do not depend on its place.
__device__ Groups group_pairs(const FfnParams& p, const Block& b, char* memory) {
  const int n_experts = static_cast<int>(p.gate.n_groups);
  Groups g{};
  int* n_active = reinterpret_cast<int*>(memory);
  g.begin = n_active + 1;
  g.active = reinterpret_cast<int16_t*>(g.begin + n_experts + 1);
  g.list = g.active + n_experts;
  const int threads = static_cast<int>(blockDim.x);
  for (int e = threadIdx.x; e <= n_experts; e += threads) g.begin[e] = 0;
  __syncthreads();
  for (int pair = threadIdx.x; pair < b.n_pairs; pair += threads) {
    const int e = expert_of(p, b, pair);
    if (e >= 0) atomicAdd(g.begin + e, 1);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    int before = 0;
    int active = 0;
    for (int base = 0; base <= n_experts; base += 32) {
      const int e = base + lane;
      const int mine = e < n_experts ? g.begin[e] : 0;
      int upto = mine;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(kFullWarp, upto, step);
        if (lane >= step) upto += other;
      }
      const unsigned votes = __ballot_sync(kFullWarp, mine > 0);
      if (mine > 0) g.active[active + __popc(votes & ((1U << lane) - 1U))] = static_cast<int16_t>(e);
      if (e <= n_experts) g.begin[e] = before + upto;  // where it ends; placing walks down to where it begins
      before += __shfl_sync(kFullWarp, upto, 31);
      active += __popc(votes);
    }
    if (lane == 0) *n_active = active;
  }
  __syncthreads();
  for (int pair = threadIdx.x; pair < b.n_pairs; pair += threads) {
    const int e = expert_of(p, b, pair);
    if (e >= 0) g.list[atomicSub(g.begin + e, 1) - 1] = static_cast<int16_t>(pair);
  }
  __syncthreads();
  g.n_active = *n_active;
  return g;
}

// One warp: chunks [begin, end) of 16 rows of an expert for pairs [0, n) of it, into parts[(pair * segments + segment)
// * 16 + row].
struct DownTask {
  Block block;
  int expert;
  int segment;
  int n_segments;
  const int16_t* list;  // null: the pairs from first_pair
  int first_pair;
  __device__ int pair(int i) const { return list == nullptr ? first_pair + i : list[i]; }
};

template <Format F, Mode M, int NT, int kAhead>
__device__ void down_pairs(const FfnParams& p, const Hidden& hidden, const DownTask& task, int begin, int n,
                           float* parts, bool wait) {
  const int lane = threadIdx.x % 32;
  const RowPair rows[1] = {row_pair<F>(p.down, task.expert, static_cast<int64_t>(blockIdx.x) * kTileRows, lane)};
  const int n_chunks = static_cast<int>(p.down.row / kChunk<F>);
  const int share = (n_chunks + task.n_segments - 1) / task.n_segments;
  Stream<F, M, 1, NT, kAhead> stream(rows, task.segment * share, min(n_chunks, (task.segment + 1) * share));
  stream.prime();
  if (wait) pdl_wait();
  TokenRow tokens[NT];
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int i = j * kTileTokens + lane / 4;
    tokens[j] = {nullptr, 1.0F};
    if (i < n) tokens[j].x = hidden.data + (task.block.token0 * p.k + task.pair(begin + i)) * hidden.row;
  }
  float sums[1][NT][kSums<M>] = {};
  stream.run(tokens, lane, p.activation, sums);
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    float c[4];
    finish_tile<M>(sums[0][j], lane, c);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = j * kTileTokens + lane % 4 * 2 + i;
      if (token >= n) continue;
      float* part = parts + (task.pair(begin + token) * task.n_segments + task.segment) * kTileRows + lane / 4;
      part[0] = c[i];
      part[8] = c[2 + i];
    }
  }
}

template <Format F, Mode M>
__device__ void down_task(const FfnParams& p, const Hidden& hidden, const DownTask& task, int n, float* parts) {
  for (int begin = 0; begin < n;) {
    const int left = n - begin;
    if constexpr (M != Mode::kFma) {
      if (left > kTileTokens) {
        down_pairs<F, M, 2, kPlain<F> ? 3 : 2>(p, hidden, task, begin, min(left, 2 * kTileTokens), parts, false);
        begin += 2 * kTileTokens;
        continue;
      }
    }
    down_pairs<F, M, 1, 4>(p, hidden, task, begin, min(left, kTileTokens), parts, false);
    begin += kTileTokens;
  }
}

// The block's rows of the output: over j in ascending order, inside it over the segments.
__device__ void combine(const FfnParams& p, const Block& b, const float* parts, int n_segments) {
  for (int i = threadIdx.x; i < b.n_tokens * kTileRows; i += static_cast<int>(blockDim.x)) {
    const int row = i % kTileRows;
    const int token = i / kTileRows;
    const int64_t o = static_cast<int64_t>(blockIdx.x) * kTileRows + row;
    if (o >= p.down.n_out) continue;
    float y = 0.0F;
    for (int j = 0; j < p.k; ++j) {
      const int pair = token * static_cast<int>(p.k) + j;
      const int e = expert_of(p, b, pair);
      if (e < 0) continue;
      float sum = 0.0F;
      for (int s = 0; s < n_segments; ++s) sum += parts[(pair * n_segments + s) * kTileRows + row];
      if (p.down_bias != nullptr) sum += p.down_bias[e * p.down_bias_row + o];
      y = fmaf(p.weight_on == MOE_WEIGHT_ON_INPUT ? 1.0F : weight_of(p, b, pair), sum, y);
    }
    const float scale = scale_of(p, b.token0 + token);
    float* out = p.out + (b.token0 + token) * p.out_row + o;
    *out = p.accumulate ? fmaf(scale, y, *out) : scale * y;
  }
}

// Blocks: (tiles of 16 rows, blocks of tokens).
template <Format F, Mode M>
__global__ void __launch_bounds__(kDownWarps * 32)
    down_kernel(const __grid_constant__ FfnParams p, const Hidden hidden, int64_t block_tokens) {
  extern __shared__ __align__(16) char memory[];
  const int warp = threadIdx.x / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  const Block block = block_of(p, block_tokens, blockIdx.y);
  const int n_segments = segments_of(p.down);
  auto* parts = reinterpret_cast<float*>(memory);
  pdl_launch();
  if (p.n == 1) {
    // Weights and ids were there before the first kernel began: only hidden has to be waited for. Every warp has one
    // task at most.
    bool waited = false;
    for (int item = warp; item < p.k * n_segments; item += n_warps) {
      const int slot = item / n_segments;
      const DownTask task{block, expert_of(p, block, slot), item % n_segments, n_segments, nullptr, slot};
      if (task.expert < 0) continue;
      down_pairs<F, M, 1, kDownAhead<F>>(p, hidden, task, 0, 1, parts, !waited);
      waited = true;
    }
    if (!waited) pdl_wait();
  } else {
    pdl_wait();
    Groups groups{};
    if (p.ids != nullptr) {
      groups = group_pairs(p, block, memory + block_tokens * p.k * n_segments * kTileRows * sizeof(float));
    } else {
      groups.n_active = 1;
    }
    for (int item = warp; item < groups.n_active * n_segments; item += n_warps) {
      DownTask task{block, 0, item % n_segments, n_segments, nullptr, 0};
      int n = block.n_tokens;
      if (p.ids != nullptr) {
        task.expert = groups.active[item / n_segments];
        task.list = groups.list + groups.begin[task.expert];
        n = groups.begin[task.expert + 1] - groups.begin[task.expert];
      }
      down_task<F, M>(p, hidden, task, n, parts);
    }
  }
  __syncthreads();
  combine(p, block, parts, n_segments);
}

int64_t pair_bytes(const FfnParams& p) {
  return p.k * segments_of(p.down) * kTileRows * static_cast<int64_t>(sizeof(float));
}

unsigned dim(int64_t n) { return static_cast<unsigned>(n); }

// Tokens that blocks treat together: what their sums leave room for.
int64_t block_tokens_of(const FfnParams& p) {
  const int64_t left = kSharedBytes - groups_bytes(p.gate.n_groups, kMostBlockTokens * p.k);
  return std::max<int64_t>(1, std::min({kMostBlockTokens, left / std::max<int64_t>(pair_bytes(p), 1), p.n}));
}

}  // namespace

cudaError_t launch_ffn_up(const FfnParams& p, const Hidden& hidden, cudaStream_t stream) {
  const int64_t block_tokens = block_tokens_of(p);
  const int64_t tiles = hidden.row / kTileRows;
  const int64_t experts =
      p.ids == nullptr ? 1 : std::min(block_tokens * p.k, block_tokens == 1 ? p.k : p.gate.n_groups);
  const dim3 grid(dim(tiles), dim(experts), dim((p.n + block_tokens - 1) / block_tokens));
  const size_t lists = static_cast<size_t>((p.gate.n_groups + 31) / 32 * 4 + block_tokens * p.k * 4);
  const LaunchShape shape{grid, kUpWarps * 32, sizeof(UpShared) + lists, p.pdl};
  return with_product(p.gate.format, p.activation, [&]<Format F, Mode M>() -> cudaError_t {
    return launch_kernel(up_kernel<F, M>, shape, stream, p, hidden, block_tokens);
  });
}

cudaError_t launch_ffn_down(const FfnParams& p, const Hidden& hidden, cudaStream_t stream) {
  const int64_t block_tokens = block_tokens_of(p);
  const int64_t tiles = (p.down.n_out + kTileRows - 1) / kTileRows;
  const int64_t experts = p.ids == nullptr ? 1 : std::min(block_tokens * p.k, p.gate.n_groups);
  const int64_t items = std::max<int64_t>(experts * segments_of(p.down), 1);
  const int64_t rounds = (items + kDownWarps - 1) / kDownWarps;
  const int64_t warps = std::clamp<int64_t>((items + rounds - 1) / rounds, 4, kDownWarps);
  const size_t shared =
      static_cast<size_t>(block_tokens * pair_bytes(p) + groups_bytes(p.gate.n_groups, block_tokens * p.k));
  const LaunchShape shape{dim3(dim(tiles), dim((p.n + block_tokens - 1) / block_tokens)), dim(warps * 32), shared,
                          p.pdl};
  return with_product(p.down.format, p.activation, [&]<Format F, Mode M>() -> cudaError_t {
    return launch_kernel(down_kernel<F, M>, shape, stream, p, hidden, block_tokens);
  });
}

}  // namespace moe::cuda
