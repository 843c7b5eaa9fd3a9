// Experts for few tokens, the first launch: hidden = act(gate x, up x) (ffn_stage.hpp). A block streams 16 rows of gate
// and of up of one expert at a time, four warps share k. Which tokens go to the expert it finds out by itself from the
// ids, a few hundred numbers.
//
// Where a warp's weights come into registers, blocks stay for tile after tile, and ask for the next one's weights
// before they store what the last one came to. With a block a tile none were on their way while it looked for its
// expert and its tokens, nor at its end: 3.1 TB/s of 4.6 (an H200, OLMoE, 32 tokens).
#include "kernels/ffn_block.cuh"

namespace moe::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kAhead = 3;              // chunks of 16 rows of gate and up: 6 KB a warp
constexpr int kPartStride = 20;        // floats of a token's 16 rows: 20 keeps a warp's stores on different banks
constexpr int kBlocksEach = 4;         // of a multiprocessor
constexpr int64_t kStageBytes = 4608;  // of a warp: four blocks a multiprocessor

// Which pairs of the block go where, in shared memory.
struct Pairs {
  int n;
  int n_words;
  unsigned* mask;  // [n_words]: the experts that have any; of no use with one token
  int16_t* of;     // [n]: their experts
};
// All threads.
__device__ __forceinline__ Pairs find_pairs(const FfnParams& p, const Block& b, char* memory) {
  Pairs pairs{b.n_pairs, static_cast<int>((p.gate.n_groups + 31) / 32), reinterpret_cast<unsigned*>(memory), nullptr};
  pairs.of = reinterpret_cast<int16_t*>(pairs.mask + pairs.n_words);
  for (int i = threadIdx.x; i < pairs.n_words; i += kWarps * 32) pairs.mask[i] = 0;
  __syncthreads();
  for (int pair = threadIdx.x; pair < pairs.n; pair += kWarps * 32) {
    const int e = expert_of(p, b, pair);
    pairs.of[pair] = static_cast<int16_t>(e);
    if (e >= 0) atomicOr(pairs.mask + e / 32, 1U << e % 32);
  }
  __syncthreads();
  return pairs;
}

// The index-th expert that has pairs, in ascending order; -1: there are not so many. By a warp.
__device__ __forceinline__ int find_expert(const Pairs& pairs, int index) {
  const auto lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
  for (int i = 0; i < pairs.n_words; ++i) {
    const unsigned word = pairs.mask[i];
    const int here = __popc(word);
    if (index < here) {
      const bool mine = (word >> lane & 1U) != 0 && __popc(word & ((1U << lane) - 1U)) == index;
      return i * 32 + __ffs(static_cast<int>(__ballot_sync(kFullWarp, mine))) - 1;
    }
    index -= here;
  }
  return -1;
}

// The expert's pairs from the begin-th on into list, `most` of them at most; returns how many the expert has in all. By
// a warp.
__device__ __forceinline__ int list_pairs(const Pairs& pairs, int expert, int begin, int most, int16_t* list) {
  const auto lane = static_cast<int>(threadIdx.x) % 32;
  int n = 0;
#pragma unroll 4
  for (int base = 0; base < pairs.n; base += 32) {
    const int pair = base + lane;
    const bool mine = pair < pairs.n && pairs.of[pair] == expert;
    const unsigned votes = __ballot_sync(kFullWarp, mine);
    const int at = n + __popc(votes & ((1U << lane) - 1U)) - begin;
    if (mine && at >= 0 && at < most) list[at] = static_cast<int16_t>(pair);
    n += __popc(votes);
  }
  __syncwarp();
  return n;
}

// Shared memory: this, a ring and a stage for each warp (where activations are staged), Pairs.
constexpr int kMostTiles = 2;  // of tokens
struct Shared {
  float parts[kWarps][2][kMostTiles * kTileTokens][kPartStride];
  int16_t lists[kWarps][2][kMostTiles * kTileTokens];  // this step's and the next one's
};
constexpr int64_t kSharedBytes = (sizeof(Shared) + 15) / 16 * 16;

// What a block does at a time: a tile of 16 rows of an expert, for some of its pairs.
struct Step {
  int tile;
  int begin;  // of the expert's pairs
  int n;      // pairs; 0: there is nothing left to do
  int left;   // pairs after these
  int expert;
  int first;            // row of gate and up
  const int16_t* list;  // the pairs, in the warp's own memory
};

// The block's work; all warps find the same.
struct Work {
  const FfnParams& p;
  Block block;
  Pairs pairs;
  int n_tiles;  // of an expert
  int n_all;    // at most
  int most;     // pairs of a step
  bool one;     // blocks are of one token: an expert a pair

  // The first from this tile and this pair of its expert on.
  __device__ __forceinline__ Step find_step(int tile, int begin, int16_t* list) const {
    for (; tile < n_all; tile += static_cast<int>(gridDim.x), begin = 0) {
      const int index = tile / n_tiles;
      Step step{tile, begin, 1, 0, 0, (tile - index * n_tiles) * kTileRows, list};
      if (one) {
        step.expert = index < pairs.n ? pairs.of[index] : -1;
        if (threadIdx.x % 32 == 0) list[0] = static_cast<int16_t>(index);
        __syncwarp();
        if (step.expert < 0) continue;
        return step;
      }
      step.expert = find_expert(pairs, index);
      if (step.expert < 0) break;
      step.left = list_pairs(pairs, step.expert, begin, most, list) - begin;
      step.n = min(step.left, most);
      step.left -= step.n;
      return step;
    }
    return {};
  }
  __device__ __forceinline__ Step after(const Step& step, int16_t* list) const {
    const bool same = step.left > 0;
    return find_step(same ? step.tile : step.tile + static_cast<int>(gridDim.x), same ? step.begin + step.n : 0, list);
  }
};

// Adds up the warps' sums of a step and applies the activation.
__device__ __forceinline__ void store_hidden(const Work& work, const Hidden& hidden, const Step& step,
                                             const Shared& shared) {
  const FfnParams& p = work.p;
  for (int i = threadIdx.x; i < step.n * kTileRows; i += kWarps * 32) {
    const int row = i % kTileRows;
    const int64_t o = step.first + row;
    if (o >= hidden.row) continue;
    float g = 0.0F;
    float u = 0.0F;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      g += shared.parts[w][0][i / kTileRows][row];
      u += shared.parts[w][1][i / kTileRows][row];
    }
    if (p.gate_bias != nullptr && o < p.gate.n_out) g += p.gate_bias[step.expert * p.gate_bias_row + o];
    if (p.up_bias != nullptr && o < p.gate.n_out) u += p.up_bias[step.expert * p.up_bias_row + o];
    const int64_t pair = work.block.token0 * p.k + step.list[i / kTileRows];
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
__device__ __forceinline__ void find_rows(const FfnParams& p, const Step& step, RowPair (&rows)[2]) {
  const int lane = threadIdx.x % 32;
  rows[0] = row_pair<F>(p.gate, step.expert, step.first, lane);
  rows[1] = row_pair<F>(p.up.data != nullptr ? p.up : p.gate, step.expert, step.first, lane);
}

// The row that pair i of the step multiplies.
__device__ __forceinline__ TokenRow row_of(const Work& work, const Step& step, int i) {
  const FfnParams& p = work.p;
  const int pair = step.list[i];
  const float factor = p.weight_on == MOE_WEIGHT_ON_INPUT ? weight_of(p, work.block, pair) : 1.0F;
  return {p.x + (work.block.token0 + pair / static_cast<int>(p.k)) * p.x_row, factor};
}

// The warps' sums, then what they come to.
template <Mode M, int NT>
__device__ __forceinline__ void store_step(const Work& work, const Hidden& hidden, const Step& step,
                                           const float (&sums)[2][NT][kSums<M>], Shared& shared) {
  const int lane = threadIdx.x % 32;
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
  store_hidden(work, hidden, step, shared);
  __syncthreads();
}

// Steps of a block: activations converted on the way, the next step's weights asked for before this one's sums go ...
constexpr int kDirectAhead = 4;  // chunks; of two tiles of tokens half as many
using Ahead = uint4[kDirectAhead][2][2];

template <Format F, Mode M, int NT>
__device__ __forceinline__ auto stream_of(const Work& work, const Step& step) {
  RowPair rows[2];
  find_rows<F>(work.p, step, rows);
  const Share share = share_of<F>(work.p.gate, static_cast<int>(threadIdx.x) / 32);
  return DirectStream<F, M, 2, NT, kDirectAhead / NT>(rows, share.first, share.first + share.n);
}
template <Format F, Mode M, int NT>
__device__ __forceinline__ void prime(const Work& work, const Step& step, Ahead& ahead) {
  if (step.n > kTileTokens) {
    stream_of<F, M, NT>(work, step).prime(ahead);
  } else if (step.n > 0) {
    stream_of<F, M, 1>(work, step).prime(ahead);
  }
}
// A step's sums, NT its own.
template <Format F, Mode M, int NT, int kMost>
__device__ __forceinline__ void multiply_direct(const Work& work, const Step& step, Ahead& ahead,
                                                float (&sums)[2][kMost][kSums<M>]) {
  const int lane = threadIdx.x % 32;
  TokenRow tokens[NT];
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int i = j * kTileTokens + lane / 4;
    tokens[j] = i < step.n ? row_of(work, step, i) : TokenRow{nullptr, 1.0F};
  }
  float of_step[2][NT][kSums<M>] = {};
  stream_of<F, M, NT>(work, step).run(tokens, {nullptr, 0}, lane, ahead, of_step);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#pragma unroll
      for (int i = 0; i < kSums<M>; ++i) sums[m][j][i] = of_step[m][j][i];
    }
  }
}
// All is there once: of one token this code runs hardly more often.
template <Format F, Mode M, int NT>
__device__ __forceinline__ void run_direct(const Work& work, const Hidden& hidden, Shared& shared) {
  int16_t(*lists)[kMostTiles * kTileTokens] = shared.lists[threadIdx.x / 32];
  Ahead ahead;
  float sums[2][NT][kSums<M>] = {};
  Step step{};  // nothing, before the first
  step.tile = static_cast<int>(blockIdx.x) - static_cast<int>(gridDim.x);
#pragma unroll 1
  for (int list = 0;; list ^= 1) {
    const Step next = work.after(step, lists[list]);
    prime<F, M, NT>(work, next, ahead);
    if (step.n > 0) store_step<M, NT>(work, hidden, step, sums, shared);
    step = next;
    if (step.n == 0) return;
    if (NT > 1 && step.n > kTileTokens) {
      multiply_direct<F, M, NT>(work, step, ahead, sums);
    } else {
      multiply_direct<F, M, 1>(work, step, ahead, sums);
    }
  }
}

// ... or before, into shared memory.
template <Format F, Mode M, int NT>
__device__ __forceinline__ void multiply_staged(const Work& work, const Step& step, char* warp_memory, int stage_size,
                                                float (&sums)[2][NT][kSums<M>]) {
  const int lane = threadIdx.x % 32;
  const Share share = share_of<F>(work.p.gate, static_cast<int>(threadIdx.x) / 32);
  bool begun = share.n == 0;
  const auto next = [&](RowPair(&rows)[2], int& chunk, int& count) {
    if (begun) return false;
    begun = true;
    find_rows<F>(work.p, step, rows);
    chunk = share.first;
    count = share.n;
    return true;
  };
  WeightRing<F, 2, kAhead, decltype(next)> ring(warp_memory + stage_size, next);
  const auto row_at = [&](int token) { return row_of(work, step, token); };
  const int capacity = stage_chunks<F, M>(stage_size, step.n);
  for (int from = 0; from < share.n; from += capacity) {
    const int to = min(share.n, from + capacity);
    const TokenStage stage = make_stage<F, M>(warp_memory, to - from, step.n);
    __syncwarp();
    fill_stage<F, M>(stage, (share.first + from) * kBlocks<F>, (to - from) * kBlocks<F>, row_at, {nullptr, 0},
                     work.p.activation);
    ring.run(from, to,
             [&](const Chunk(&w)[2], int chunk) { chunk_product<F, M, 2, NT>(w, stage, chunk - from, lane, sums); });
  }
}
template <Format F, Mode M, int NT>
__device__ __forceinline__ void run_staged(const Work& work, const Hidden& hidden, char* warp_memory, int stage_size,
                                           Shared& shared) {
  int16_t* list = shared.lists[threadIdx.x / 32][0];
  for (Step step = work.find_step(static_cast<int>(blockIdx.x), 0, list); step.n > 0; step = work.after(step, list)) {
    if (NT > 1 && step.n > kTileTokens) {
      float sums[2][NT][kSums<M>] = {};
      multiply_staged<F, M, NT>(work, step, warp_memory, stage_size, sums);
      store_step<M, NT>(work, hidden, step, sums, shared);
    } else {
      float sums[2][1][kSums<M>] = {};
      multiply_staged<F, M, 1>(work, step, warp_memory, stage_size, sums);
      store_step<M, 1>(work, hidden, step, sums, shared);
    }
  }
}

// Blocks: (any number, blocks of tokens).
template <Format F, Mode M, int NT>
__global__ void __launch_bounds__(kWarps * 32, kBlocksEach)
    up_kernel(const __grid_constant__ FfnParams p, const Hidden hidden, int64_t block_tokens, int per_warp, int n_all) {
  extern __shared__ __align__(16) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  char* warps = memory + kSharedBytes;
  pdl_wait();
  pdl_launch();
  const Block block = block_of(p, block_tokens, blockIdx.y);
  const Pairs pairs = find_pairs(p, block, warps + kWarps * per_warp);
  const Work work{
      p, block, pairs, static_cast<int>(hidden.row / kTileRows), n_all, NT * kTileTokens, block_tokens == 1};
  if constexpr (kDirect<F, M>) {
    run_direct<F, M, NT>(work, hidden, shared);
  } else {
    run_staged<F, M, NT>(work, hidden, warps + static_cast<int>(threadIdx.x) / 32 * per_warp,
                         per_warp - kRingBytes<F, 2, kAhead>, shared);
  }
}

template <Format F, Mode M, int NT>
cudaError_t launch(const FfnParams& p, const Hidden& hidden, int64_t block_tokens, cudaStream_t stream) {
  const int64_t share = (p.gate.row / kChunk<F> + kWarps - 1) / kWarps;
  const int64_t tokens = std::min<int64_t>(block_tokens, NT * kTileTokens);
  const int64_t per_warp = kDirect<F, M> ? 0 : stage_of<F, M>(share, tokens, kStageBytes) + kRingBytes<F, 2, kAhead>;
  const int64_t pairs = (p.gate.n_groups + 31) / 32 * 4 + block_tokens * p.k * 2;
  const int64_t experts = p.ids == nullptr    ? 1
                          : block_tokens == 1 ? p.k
                                              : std::min(block_tokens * p.k, p.gate.n_groups);
  const int64_t n_all = hidden.row / kTileRows * experts;
  int multiprocessors = 0;
  if (const cudaError_t error = count_multiprocessors(&multiprocessors); error != cudaSuccess) return error;
  const int64_t blocks = kDirect<F, M> ? std::min<int64_t>(n_all, kBlocksEach * multiprocessors) : n_all;
  // Not early: a step at batch 1 takes 1.77 ms so, and 1.85 where blocks wait for the routing on the multiprocessors.
  const LaunchShape shape{dim3(dim(blocks), dim((p.n + block_tokens - 1) / block_tokens)), kWarps * 32,
                          static_cast<size_t>(kSharedBytes + kWarps * per_warp + pairs), false};
  return launch_kernel(up_kernel<F, M, NT>, shape, stream, p, hidden, block_tokens, static_cast<int>(per_warp),
                       static_cast<int>(n_all));
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
