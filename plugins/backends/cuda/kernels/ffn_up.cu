// Experts for few tokens, the first launch: hidden = act(gate x, up x) (ffn_stage.hpp). A block streams 16 rows of gate
// and of up of one expert, four warps share k. Which tokens go to the expert it finds out by itself from the ids, a few
// hundred numbers.
#include "kernels/ffn_block.cuh"

namespace moe::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kAhead = 3;              // chunks of 16 rows of gate and up: 6 KB a warp
constexpr int kPartStride = 20;        // floats of a token's 16 rows: 20 keeps a warp's stores on different banks
constexpr int64_t kStageBytes = 4608;  // of a warp: four blocks a multiprocessor

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

// Shared memory: this, a ring and a stage for each warp (where activations are staged), the lists of find_expert.
constexpr int kMostTiles = 2;  // of tokens
struct Shared {
  float parts[kWarps][2][kMostTiles * kTileTokens][kPartStride];
  int n;
};
constexpr int64_t kSharedBytes = (sizeof(Shared) + 15) / 16 * 16;

struct Task {
  Block block;
  int expert;
  int64_t first;        // row of gate and up
  const int16_t* list;  // pairs of the block; null: pair `first_pair` + i
  int first_pair;
  __device__ int pair(int i) const { return list == nullptr ? first_pair + i : list[i]; }
};

// Adds up the warps' sums of pairs [begin, begin + n) and applies the activation.
__device__ __forceinline__ void store_hidden(const FfnParams& p, const Hidden& hidden, const Task& task, int begin,
                                             int n, const Shared& shared) {
  for (int i = threadIdx.x; i < n * kTileRows; i += kWarps * 32) {
    const int row = i % kTileRows;
    const int64_t o = task.first + row;
    if (o >= hidden.row) continue;
    float g = 0.0F;
    float u = 0.0F;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      g += shared.parts[w][0][i / kTileRows][row];
      u += shared.parts[w][1][i / kTileRows][row];
    }
    if (p.gate_bias != nullptr && o < p.gate.n_out) g += p.gate_bias[task.expert * p.gate_bias_row + o];
    if (p.up_bias != nullptr && o < p.gate.n_out) u += p.up_bias[task.expert * p.up_bias_row + o];
    const int64_t pair = task.block.token0 * p.k + task.pair(begin + i / kTileRows);
    hidden.data[pair * hidden.row + o] = o < p.gate.n_out ? gated(p.gating, g, u) : 0.0F;
  }
}

// A warp's part of k.
struct Share {
  int first;
  int n;
};
template <Format F>
__device__ __forceinline__ Share share_of(const WeightView& w, int warp) {
  const int n_chunks = static_cast<int>(w.row / kChunk<F>);
  const int share = (n_chunks + kWarps - 1) / kWarps;
  const int first = min(n_chunks, warp * share);
  return {first, min(n_chunks, first + share) - first};
}

template <Format F>
__device__ __forceinline__ void find_rows(const FfnParams& p, const Task& task, RowPair (&rows)[2]) {
  const int lane = threadIdx.x % 32;
  rows[0] = row_pair<F>(p.gate, task.expert, task.first, lane);
  rows[1] = row_pair<F>(p.up.data != nullptr ? p.up : p.gate, task.expert, task.first, lane);
}

// The row that pair i of the task multiplies.
__device__ __forceinline__ TokenRow row_of(const FfnParams& p, const Task& task, int i) {
  const int pair = task.pair(i);
  const float factor = p.weight_on == MOE_WEIGHT_ON_INPUT ? weight_of(p, task.block, pair) : 1.0F;
  return {p.x + (task.block.token0 + pair / static_cast<int>(p.k)) * p.x_row, factor};
}

// The warp's sums of pairs [begin, begin + n), n <= 8 NT, of gate and of up: activations converted on the way ...
template <Format F, Mode M, int NT>
__device__ __forceinline__ void multiply_direct(const FfnParams& p, const Task& task, int begin, int n,
                                                float (&sums)[2][NT][kSums<M>]) {
  const int lane = threadIdx.x % 32;
  const Share share = share_of<F>(p.gate, static_cast<int>(threadIdx.x) / 32);
  RowPair rows[2];
  find_rows<F>(p, task, rows);
  DirectStream<F, M, 2, NT, (NT == 1 ? 4 : 2)> stream(rows, share.first, share.first + share.n);
  stream.prime();
  TokenRow tokens[NT];
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int i = j * kTileTokens + lane / 4;
    tokens[j] = i < n ? row_of(p, task, begin + i) : TokenRow{nullptr, 1.0F};
  }
  stream.run(tokens, {nullptr, 0}, lane, sums);
}

// ... or before, into shared memory.
template <Format F, Mode M, int NT>
__device__ __forceinline__ void multiply_staged(const FfnParams& p, const Task& task, int begin, int n,
                                                char* warp_memory, int stage_size, float (&sums)[2][NT][kSums<M>]) {
  const int lane = threadIdx.x % 32;
  const Share share = share_of<F>(p.gate, static_cast<int>(threadIdx.x) / 32);
  bool begun = share.n == 0;
  const auto next = [&](RowPair(&rows)[2], int& chunk, int& count) {
    if (begun) return false;
    begun = true;
    find_rows<F>(p, task, rows);
    chunk = share.first;
    count = share.n;
    return true;
  };
  WeightRing<F, 2, kAhead, decltype(next)> ring(warp_memory + stage_size, next);
  const auto row_at = [&](int token) { return row_of(p, task, begin + token); };
  const int capacity = stage_chunks<F, M>(stage_size, n);
  for (int from = 0; from < share.n; from += capacity) {
    const int to = min(share.n, from + capacity);
    const TokenStage stage = make_stage<F, M>(warp_memory, to - from, n);
    __syncwarp();
    fill_stage<F, M>(stage, (share.first + from) * kBlocks<F>, (to - from) * kBlocks<F>, row_at, {nullptr, 0},
                     p.activation);
    ring.run(from, to,
             [&](const Chunk(&w)[2], int chunk) { chunk_product<F, M, 2, NT>(w, stage, chunk - from, lane, sums); });
  }
}

template <Format F, Mode M, int NT>
__device__ __forceinline__ void multiply_pairs(const FfnParams& p, const Hidden& hidden, const Task& task, int begin,
                                               int n, Shared& shared, char* warp_memory, int stage_size) {
  const int lane = threadIdx.x % 32;
  float sums[2][NT][kSums<M>] = {};
  if constexpr (kDirect<F, M>) {
    multiply_direct<F, M, NT>(p, task, begin, n, sums);
  } else {
    multiply_staged<F, M, NT>(p, task, begin, n, warp_memory, stage_size, sums);
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float c[4];
      finish_tile<M>(sums[m][j], lane, c);
      float(*part)[kPartStride] = shared.parts[threadIdx.x / 32][m] + j * kTileTokens + lane % 4 * 2;
      part[0][lane / 4] = c[0];
      part[1][lane / 4] = c[1];
      part[0][lane / 4 + 8] = c[2];
      part[1][lane / 4 + 8] = c[3];
    }
  }
  __syncthreads();
  store_hidden(p, hidden, task, begin, n, shared);
  __syncthreads();
}

// Blocks: (tiles of 16 rows, experts of the block of tokens, blocks of tokens). With one token a block takes slot
// blockIdx.y.
template <Format F, Mode M, int NT>
__global__ void __launch_bounds__(kWarps * 32, 4)
    up_kernel(const __grid_constant__ FfnParams p, const Hidden hidden, int64_t block_tokens, int per_warp) {
  extern __shared__ __align__(16) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  char* warps = memory + kSharedBytes;
  pdl_wait();
  pdl_launch();
  Task task{block_of(p, block_tokens, blockIdx.z), 0, static_cast<int64_t>(blockIdx.x) * kTileRows, nullptr, 0};
  int n = task.block.n_tokens;
  if (p.ids != nullptr && n == 1) {
    task.first_pair = static_cast<int>(blockIdx.y);
    task.expert = task.first_pair < task.block.n_pairs ? expert_of(p, task.block, task.first_pair) : -1;
    if (task.expert < 0) return;
  } else if (p.ids != nullptr) {
    auto* mask = reinterpret_cast<unsigned*>(warps + kWarps * per_warp);
    auto* of = reinterpret_cast<int16_t*>(mask + (p.gate.n_groups + 31) / 32);
    int16_t* list = of + block_tokens * p.k;
    n = find_expert(p, task.block, static_cast<int>(blockIdx.y), mask, of, list, &shared.n, &task.expert);
    task.list = list;
  }
  char* warp_memory = warps + static_cast<int>(threadIdx.x) / 32 * per_warp;
  const int stage_size = per_warp - kRingBytes<F, 2, kAhead>;
  for (int begin = 0; begin < n;) {
    const int here = min(n - begin, NT * kTileTokens);
    if (NT > 1 && here > kTileTokens) {
      multiply_pairs<F, M, NT>(p, hidden, task, begin, here, shared, warp_memory, stage_size);
    } else {
      multiply_pairs<F, M, 1>(p, hidden, task, begin, here, shared, warp_memory, stage_size);
    }
    begin += here;
  }
}

template <Format F, Mode M, int NT>
cudaError_t launch(const FfnParams& p, const Hidden& hidden, int64_t block_tokens, cudaStream_t stream) {
  const int64_t share = (p.gate.row / kChunk<F> + kWarps - 1) / kWarps;
  const int64_t tokens = std::min<int64_t>(block_tokens, NT * kTileTokens);
  const int64_t per_warp = kDirect<F, M> ? 0 : stage_of<F, M>(share, tokens, kStageBytes) + kRingBytes<F, 2, kAhead>;
  const int64_t lists = (p.gate.n_groups + 31) / 32 * 4 + block_tokens * p.k * 4;
  const int64_t experts =
      p.ids == nullptr ? 1 : std::min(block_tokens * p.k, block_tokens == 1 ? p.k : p.gate.n_groups);
  // Not early: a step at batch 1 takes 1.77 ms so, and 1.85 where blocks wait for the routing on the multiprocessors.
  const LaunchShape shape{dim3(dim(hidden.row / kTileRows), dim(experts), dim((p.n + block_tokens - 1) / block_tokens)),
                          kWarps * 32, static_cast<size_t>(kSharedBytes + kWarps * per_warp + lists), false};
  return launch_kernel(up_kernel<F, M, NT>, shape, stream, p, hidden, block_tokens, static_cast<int>(per_warp));
}

}  // namespace

cudaError_t launch_ffn_up(const FfnParams& p, const Hidden& hidden, cudaStream_t stream) {
  const int64_t block_tokens = std::min(kMostBlockTokens, p.n);
  return with_product(p.gate.format, p.activation, [&]<Format F, Mode M>() -> cudaError_t {
    if constexpr (M != Mode::kFma) {
      if (block_tokens > kTileTokens && (kDirect<F, M> || block_tokens > kFewBlockTokens)) {
        return launch<F, M, kMostTiles>(p, hidden, block_tokens, stream);
      }
    }
    return launch<F, M, 1>(p, hidden, block_tokens, stream);
  });
}

}  // namespace moe::cuda
