// Experts for few tokens, the second launch: out = sum of weight * (down hidden) (ffn_stage.hpp). A block takes 16 rows
// of the output from every expert: its warps take an expert's segment of k each, and a token's sums meet in shared
// memory in the order of its experts.
#include "kernels/ffn_block.cuh"

namespace moe::cuda {
namespace {

constexpr int64_t kSegment = 512;  // elements of a row that a warp takes at a time
constexpr int64_t kMostSegments = 8;
constexpr int64_t kSumBytes = 96 * 1024;   // for the sums of pairs and their lists
constexpr int64_t kStageBytes = 3 * 1024;  // of a warp
constexpr int64_t kSharedBytes = 224 * 1024;
constexpr int kMostWarps = 16;

// How a matrix's k is cut: from its shape alone.
struct Segments {
  int n_chunks;
  int share;  // chunks
  int n;
};
template <Format F>
__host__ __device__ inline Segments segments_of(const WeightView& down) {
  const auto chunks = static_cast<int>(down.row / kChunk<F>);
  const int64_t wanted = (down.n_in + kSegment - 1) / kSegment;
  const int most = static_cast<int>(wanted < 1 ? 1 : wanted < kMostSegments ? wanted : kMostSegments);
  const int share = (chunks + most - 1) / most;
  return {chunks, share, (chunks + share - 1) / share};
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

// What a block has to do, as its warps see it: items (expert, segment), warp after warp.
template <Format F>
struct Work {
  const FfnParams& p;
  Block block;
  Groups groups;  // of no use with one token
  Segments segments;
  int n_items;
  bool single;  // one token: an item's expert is a slot's

  __device__ __forceinline__ int expert(int item) const {
    const int at = item / segments.n;
    if (single) return expert_of(p, block, at);
    return p.ids == nullptr ? 0 : groups.active[at];
  }
  __device__ __forceinline__ int n_pairs(int item, int e) const {
    if (single) return e < 0 ? 0 : 1;
    return p.ids == nullptr ? block.n_tokens : groups.begin[e + 1] - groups.begin[e];
  }
  // Pair i of the item's expert, numbered in the block.
  __device__ __forceinline__ int pair(int item, int e, int i) const {
    if (single) return item / segments.n;
    return p.ids == nullptr ? i : groups.list[groups.begin[e] + i];
  }
};

// One of a warp's steps: up to 8 NT pairs of an item.
struct Step {
  int item;
  int expert;
  int begin;
  int n;  // 0: there is none
};
template <int NT, Format F>
__device__ __forceinline__ Step find_step(const Work<F>& work, int item, int begin, int n_warps) {
  for (; item < work.n_items; item += n_warps, begin = 0) {
    const int e = work.expert(item);
    const int left = work.n_pairs(item, e) - begin;
    if (left > 0) return {item, e, begin, min(left, NT * kTileTokens)};
  }
  return {0, 0, 0, 0};
}

// A warp's sums of a step into parts[(pair * segments + segment) * 16 + row].
template <Format F, Mode M, int NT>
__device__ __forceinline__ void store_step(const Work<F>& work, const Step& step, const float (&sums)[1][NT][kSums<M>],
                                           float* parts) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    float c[4];
    finish_tile<M>(sums[0][j], lane, c);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = j * kTileTokens + lane % 4 * 2 + i;
      if (token >= step.n) continue;
      const int pair = work.pair(step.item, step.expert, step.begin + token);
      float* part = parts + (pair * work.segments.n + step.item % work.segments.n) * kTileRows + lane / 4;
      part[0] = c[i];
      part[8] = c[2 + i];
    }
  }
}

// The block's rows of the output: over j in ascending order, inside it over the segments.
__device__ void combine(const FfnParams& p, const Block& b, const float* parts, int n_segments) {
  const int k = static_cast<int>(p.k);
  for (int i = threadIdx.x; i < b.n_tokens * kTileRows; i += static_cast<int>(blockDim.x)) {
    const int row = i % kTileRows;
    const int token = i / kTileRows;
    const int64_t o = static_cast<int64_t>(blockIdx.x) * kTileRows + row;
    if (o >= p.down.n_out) continue;
    float y = 0.0F;
    for (int pair = token * k; pair < (token + 1) * k; ++pair) {
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

// The chunks of a step.
template <Format F>
__device__ __forceinline__ int first_chunk(const Work<F>& work, const Step& step) {
  return step.item % work.segments.n * work.segments.share;
}
template <Format F>
__device__ __forceinline__ int n_chunks(const Work<F>& work, const Step& step) {
  return min(work.segments.share, work.segments.n_chunks - first_chunk(work, step));
}

// What the warps of a block share.
struct Place {
  const Hidden& hidden;
  float* parts;
  char* warp_memory;  // a stage and a ring, where activations are staged
  int stage_size;
  int n_warps;
};
template <Format F>
__device__ __forceinline__ TokenRow row_of(const Work<F>& work, const Place& place, const Step& step, int i) {
  const int pair = work.pair(step.item, step.expert, step.begin + i);
  return {place.hidden.data + (work.block.token0 * work.p.k + pair) * place.hidden.row, 1.0F};
}

// A warp's steps from the given one: activations converted on the way, the next step's weights asked for before this
// one's sums are stored ...
template <Format F, Mode M, int NT, int kAhead>
__device__ __forceinline__ auto stream_of(const Work<F>& work, const Step& step) {
  const int lane = threadIdx.x % 32;
  const RowPair rows[1] = {row_pair<F>(work.p.down, step.expert, static_cast<int64_t>(blockIdx.x) * kTileRows, lane)};
  const int first = first_chunk(work, step);
  return DirectStream<F, M, 1, NT, kAhead>(rows, first, first + n_chunks(work, step));
}
// Chunks ahead where a step has two tiles of tokens.
template <int kAhead>
inline constexpr int kWideAhead = kAhead > 3 ? 3 : kAhead;
template <Format F, Mode M, int NT, int kAhead>
__device__ __forceinline__ void prime(const Work<F>& work, const Step& step, uint4 (&ahead)[kAhead][1][2]) {
  if (step.n > kTileTokens) {
    stream_of<F, M, NT, kWideAhead<kAhead>>(work, step).prime(ahead);
  } else if (step.n > 0) {
    stream_of<F, M, 1, kAhead>(work, step).prime(ahead);
  }
}
// One step, NT and kAhead its own; kMost and kMostAhead those of the kernel. Returns the next.
template <Format F, Mode M, int NT, int kAhead, int kMost, int kMostAhead>
__device__ __forceinline__ Step run_step_direct(const Work<F>& work, const Place& place, const Step& step,
                                                uint4 (&ahead)[kMostAhead][1][2]) {
  const int lane = threadIdx.x % 32;
  TokenRow tokens[NT];
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int i = j * kTileTokens + lane / 4;
    tokens[j] = i < step.n ? row_of(work, place, step, i) : TokenRow{nullptr, 1.0F};
  }
  float sums[1][NT][kSums<M>] = {};
  stream_of<F, M, NT, kAhead>(work, step).run(tokens, {nullptr, 0}, lane, ahead, sums);
  const Step next = find_step<kMost>(work, step.item, step.begin + step.n, place.n_warps);
  prime<F, M, kMost>(work, next, ahead);
  store_step<F, M, NT>(work, step, sums, place.parts);
  return next;
}
template <Format F, Mode M, int NT, int kAhead>
__device__ __forceinline__ void run_direct(const Work<F>& work, const Place& place, Step step) {
  uint4 ahead[kAhead][1][2];
  prime<F, M, NT>(work, step, ahead);
  pdl_wait();
  while (step.n > 0) {
    if (NT > 1 && step.n > kTileTokens) {
      step = run_step_direct<F, M, NT, kWideAhead<kAhead>, NT>(work, place, step, ahead);
    } else {
      step = run_step_direct<F, M, 1, kAhead, NT>(work, place, step, ahead);
    }
  }
}

// ... or before, into shared memory.
template <Format F, Mode M, int NT, int kAhead>
__device__ __forceinline__ void run_staged(const Work<F>& work, const Place& place, Step step) {
  const int lane = threadIdx.x % 32;
  Step ahead = step;
  const auto next = [&](RowPair(&rows)[1], int& chunk, int& count) {
    if (ahead.n == 0) return false;
    rows[0] = row_pair<F>(work.p.down, ahead.expert, static_cast<int64_t>(blockIdx.x) * kTileRows, lane);
    chunk = first_chunk(work, ahead);
    count = n_chunks(work, ahead);
    ahead = find_step<NT>(work, ahead.item, ahead.begin + ahead.n, place.n_warps);
    return true;
  };
  WeightRing<F, 1, kAhead, decltype(next)> ring(place.warp_memory + place.stage_size, next);
  pdl_wait();
  for (; step.n > 0; step = find_step<NT>(work, step.item, step.begin + step.n, place.n_warps)) {
    const int first = first_chunk(work, step);
    const int mine = n_chunks(work, step);
    const auto row_at = [&](int token) { return row_of(work, place, step, token); };
    float sums[1][NT][kSums<M>] = {};
    const int capacity = stage_chunks<F, M>(place.stage_size, step.n);
    for (int from = 0; from < mine; from += capacity) {
      const int to = min(mine, from + capacity);
      const TokenStage stage = make_stage<F, M>(place.warp_memory, to - from, step.n);
      __syncwarp();
      fill_stage<F, M>(stage, (first + from) * kBlocks<F>, (to - from) * kBlocks<F>, row_at, {nullptr, 0},
                       work.p.activation);
      ring.run(from, to,
               [&](const Chunk(&w)[1], int chunk) { chunk_product<F, M, 1, NT>(w, stage, chunk - from, lane, sums); });
    }
    store_step<F, M, NT>(work, step, sums, place.parts);
  }
}

// Blocks: (tiles of 16 rows, blocks of tokens). Shared memory: sums of pairs, a stage and a ring for each warp (where
// activations are staged), groups.
template <Format F, Mode M, int NT, int kAhead, bool kSingle>
__global__ void __launch_bounds__(kMostWarps * 32)
    down_kernel(const __grid_constant__ FfnParams p, const Hidden hidden, int64_t block_tokens, int per_warp) {
  extern __shared__ __align__(16) char memory[];
  const int warp = threadIdx.x / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  const Segments segments = segments_of<F>(p.down);
  auto* parts = reinterpret_cast<float*>(memory);
  char* warps = memory + block_tokens * p.k * segments.n * kTileRows * sizeof(float);
  Work<F> work{p, block_of(p, block_tokens, blockIdx.y), {}, segments, static_cast<int>(p.k) * segments.n, kSingle};
  pdl_launch();
  // Weights and ids were there before the first kernel let this one begin: only hidden has to be waited for, once the
  // first weights have been asked for.
  if constexpr (!kSingle) {
    if (p.ids != nullptr) work.groups = group_pairs(p, work.block, warps + n_warps * per_warp);
    work.n_items = (p.ids != nullptr ? work.groups.n_active : 1) * segments.n;
  }
  const Place place{hidden, parts, warps + warp * per_warp, per_warp - kRingBytes<F, 1, kAhead>, n_warps};
  const Step step = find_step<NT>(work, warp, 0, n_warps);
  if constexpr (kDirect<F, M>) {
    run_direct<F, M, NT, kAhead>(work, place, step);
  } else {
    run_staged<F, M, NT, kAhead>(work, place, step);
  }
  __syncthreads();
  combine(p, work.block, parts, segments.n);
}

template <Format F, Mode M, int NT, int kAhead, bool kSingle>
cudaError_t launch(const FfnParams& p, const Hidden& hidden, cudaStream_t stream) {
  const Segments segments = segments_of<F>(p.down);
  const int64_t pair_bytes = p.k * segments.n * kTileRows * static_cast<int64_t>(sizeof(float));
  const int64_t left = kSumBytes - groups_bytes(p.gate.n_groups, kMostBlockTokens * p.k);
  const int64_t block_tokens =
      std::max<int64_t>(1, std::min({kMostBlockTokens, left / std::max<int64_t>(pair_bytes, 1), p.n}));
  const int64_t experts = p.ids == nullptr ? 1 : std::min(block_tokens * p.k, p.gate.n_groups);
  const int64_t items = std::max<int64_t>(experts * segments.n, 1);
  const int64_t rounds = (items + kMostWarps - 1) / kMostWarps;
  const int64_t stage = stage_of<F, M>(segments.share, std::min<int64_t>(block_tokens, NT * kTileTokens), kStageBytes);
  const int64_t per_warp = kDirect<F, M> ? 0 : stage + kRingBytes<F, 1, kAhead>;
  const int64_t sums = block_tokens * pair_bytes + groups_bytes(p.gate.n_groups, block_tokens * p.k);
  int64_t warps = std::clamp<int64_t>((items + rounds - 1) / rounds, 4, kMostWarps);
  while (warps > 4 && sums + warps * per_warp > kSharedBytes) --warps;
  const LaunchShape shape{
      dim3(dim((p.down.n_out + kTileRows - 1) / kTileRows), dim((p.n + block_tokens - 1) / block_tokens)),
      dim(warps * 32), static_cast<size_t>(sums + warps * per_warp), p.pdl};
  return launch_kernel(down_kernel<F, M, NT, kAhead, kSingle>, shape, stream, p, hidden, block_tokens,
                       static_cast<int>(per_warp));
}

}  // namespace

cudaError_t launch_ffn_down(const FfnParams& p, const Hidden& hidden, cudaStream_t stream) {
  return with_product(p.down.format, p.activation, [&]<Format F, Mode M>() -> cudaError_t {
    if (p.n == 1) return launch<F, M, 1, 6, true>(p, hidden, stream);
    if constexpr (M != Mode::kFma) {
      if (p.n > kTileTokens && (kDirect<F, M> || p.n > kFewBlockTokens))
        return launch<F, M, 2, 4, false>(p, hidden, stream);
    }
    return launch<F, M, 1, 4, false>(p, hidden, stream);
  });
}

}  // namespace moe::cuda
