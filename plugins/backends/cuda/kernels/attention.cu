// Attention for any shape, the combination of chunks, and the choice among kernels.
#include <algorithm>

#include "kernels/attention.cuh"
#include "kernels/launch.hpp"

namespace moe::cuda {
namespace attention {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kPositions = 64;  // of a chunk that launch_any takes

// The cache's elements as f32.
template <int32_t kDtype>
__device__ float cache_element(const void* base, int64_t at) {
  if constexpr (kDtype == MOE_F32) return static_cast<const float*>(base)[at];
  const uint16_t bits = static_cast<const uint16_t*>(base)[at];
  return kDtype == MOE_BF16 ? from_bf16_bits(bits) : from_f16_bits(bits);
}

// A block for a head of a token, and a chunk.
template <int32_t kDtype>
__global__ void __launch_bounds__(kThreads) any_kernel(const __grid_constant__ AttentionParams p) {
  extern __shared__ float q[];  // [k_dim]
  __shared__ float scores[kPositions];
  __shared__ int64_t rows[kPositions];
  __shared__ float shared[32];
  const int64_t i = blockIdx.x / p.heads;
  const int64_t h = blockIdx.x % p.heads;
  const int64_t kv = h * p.kv_heads / p.heads;
  const int64_t chunk = blockIdx.y;
  const int lane = threadIdx.x % 32;
  const Span span = span_of(p, i);
  const int64_t begin = max(span.first, chunk * kPositions);
  const int64_t end = min(span.last + 1, (chunk + 1) * kPositions);
  if (begin >= end || is_of_prompt(p, i)) return;
  const auto n = static_cast<int>(end - begin);
  for (int64_t c = threadIdx.x; c < p.k_dim; c += kThreads) q[c] = p.q.data[i * p.q.stride + h * p.q.head_stride + c];
  for (int j = threadIdx.x; j < n; j += kThreads) rows[j] = cache_row(p, span, begin + j);
  __syncthreads();
  for (int j = threadIdx.x / 32; j < n; j += kWarps) {
    const int64_t base = rows[j] * p.k_row + kv * p.k_head;
    float dot = 0.0F;
    for (int64_t c = lane; c < p.k_dim; c += 32) dot = fmaf(q[c], cache_element<kDtype>(p.k, base + c), dot);
    dot = warp_sum(dot) * span.scale;
    if (lane == 0) scores[j] = capped(p, dot);
  }
  __syncthreads();
  float largest = -INFINITY;
  for (int j = lane; j < n; j += 32) largest = fmaxf(largest, scores[j]);
  largest = warp_max(largest);  // every warp finds the same
  __syncthreads();
  float sum = 0.0F;
  for (int j = threadIdx.x; j < n; j += kThreads) sum += scores[j] = below(scores[j], largest);
  sum = block_sum(sum, shared);  // its barrier also publishes the scores
  const ChunkResult result = chunk_result(p, blockIdx.x, chunk);
  if (threadIdx.x == 0) {
    result.stats[0] = largest;
    result.stats[1] = sum;
  }
  for (int64_t c = threadIdx.x; c < p.v_dim; c += kThreads) {
    float acc = 0.0F;
#pragma unroll 4
    for (int j = 0; j < n; ++j)
      acc = fmaf(scores[j], cache_element<kDtype>(p.v, rows[j] * p.v_row + kv * p.v_head + c), acc);
    result.mix[c] = acc;
  }
}

constexpr int kColumns = 64;  // of a block
constexpr int kParts = kChunkSums;

// A block for a head of a token and kColumns of its output. With more chunks than fit the shared weights, rounds of so
// many.
__global__ void __launch_bounds__(kColumns* kParts) combine_kernel(const __grid_constant__ AttentionParams p) {
  constexpr int kThreadsHere = kColumns * kParts;
  constexpr int kRound = 512;
  __shared__ float weights[kRound];
  __shared__ float sums[kParts][kColumns];
  __shared__ float shared[32];
  if (p.pdl) begin_early();
  const int64_t i = blockIdx.x / p.heads;
  const int64_t h = blockIdx.x % p.heads;
  if (is_of_prompt(p, i)) return;
  const auto column = static_cast<int>(blockIdx.y) * kColumns + static_cast<int>(threadIdx.x) % kColumns;
  const int part = static_cast<int>(threadIdx.x) / kColumns;
  const bool mine = column < p.v_dim;
  float* out = p.out.data + i * p.out.stride + h * p.out.head_stride;
  const Span span = span_of(p, i);
  if (span.last < 0) {
    if (mine && part == 0) out[column] = 0.0F;
    return;
  }
  const Cut cut = cut_of(p, span, static_cast<uint32_t>(p.grain));
  const ChunkResult result = chunk_result(p, blockIdx.x, cut.first);
  const auto* stats = reinterpret_cast<const float2*>(result.stats);
  // The largest score of all: every warp finds the same.
  float largest = -INFINITY;
  for (int c = threadIdx.x % 32; c < cut.n; c += 32) largest = fmaxf(largest, stats[c].x);
  largest = warp_max(largest);
  float sum = 0.0F;
  float acc = 0.0F;
  for (int first = 0; first < cut.n; first += kRound) {
    const int here = min(kRound, cut.n - first);
    __syncthreads();
    for (int c = threadIdx.x; c < here; c += kThreadsHere) {
      const float2 s = stats[first + c];
      weights[c] = share(s.x, largest);
      sum = fmaf(weights[c], s.y, sum);
    }
    __syncthreads();
    if (!mine) continue;
    const float* mix = result.mix + static_cast<int64_t>(first) * p.v_dim + column;
#pragma unroll 8
    for (int c = part; c < here; c += kParts) acc = fmaf(weights[c], mix[c * p.v_dim], acc);
  }
  sum = block_sum(sum, shared);
  sums[part][threadIdx.x % kColumns] = acc;
  __syncthreads();
  if (!mine || part != 0) return;
  for (int other = 1; other < kParts; ++other) acc += sums[other][threadIdx.x];
  out[column] = finished(p, h, largest, sum, acc);
}

}  // namespace

cudaError_t launch_any(const AttentionParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.n * p.heads), static_cast<unsigned>(p.n_chunks));
  const auto shared = static_cast<size_t>(p.k_dim) * sizeof(float);
  if (p.dtype == MOE_F32) any_kernel<MOE_F32><<<grid, kThreads, shared, stream>>>(p);
  if (p.dtype == MOE_F16) any_kernel<MOE_F16><<<grid, kThreads, shared, stream>>>(p);
  if (p.dtype == MOE_BF16) any_kernel<MOE_BF16><<<grid, kThreads, shared, stream>>>(p);
  return MOE_CUDA_LAUNCHED();
}

cudaError_t launch_combine(const AttentionParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.n * p.heads), static_cast<unsigned>((p.v_dim + kColumns - 1) / kColumns));
  return launch_kernel(combine_kernel, {grid, kColumns * kParts, 0, p.pdl}, stream, p);
}

}  // namespace attention

namespace {

using namespace attention;

constexpr int64_t kMostPartialFloats = int64_t{32} << 20;
constexpr int64_t kAnyChunk = kPositions;
constexpr int64_t kFixedChunk = 128;
constexpr int64_t kLeastChunk = 32;
constexpr int64_t kStatsPad = 2;  // floats after the chunks' statistics

// Sets how rows are cut: enough chunks that the card is full once, and no more, since each costs a result in memory.
// When bits must not depend on the batch, one size.
AttentionParams with_cut(AttentionParams p) {
  p.grain = 0;
  p.cut = fits_tensor_cores(p) ? kFixedChunk : kAnyChunk;
  if (p.deterministic || !fits_tensor_cores(p)) {
    p.n_chunks = chunks_of(p, p.cut);
    return p;
  }
  const HeadsShape shape = heads_shape(p);
  const int64_t tiles = p.n * p.kv_heads * ((p.heads / p.kv_heads + 15) / 16);
  p.cut = 0;
  p.grain = shape.tile;
  p.n_chunks = std::clamp<int64_t>(shape.blocks * p.n_multiprocessors / tiles, 1, chunks_of(p, shape.tile));
  return p;
}

}  // namespace

int64_t attention_partial_floats(const AttentionParams& p) {
  const int64_t chunk = fits_tensor_cores(p) ? kLeastChunk : kAnyChunk;
  const int64_t one = p.heads * chunks_of(p, chunk) * partial_row(p);
  return std::max(one, std::min(kMostPartialFloats, p.n * one)) + kStatsPad;
}

// Each chunk a block of its own, as many tokens at a time as there is room for their results.
static cudaError_t launch_in_chunks(const AttentionParams& call, cudaStream_t stream) {
  const AttentionParams p = with_cut(call);
  const int64_t per_token = p.heads * p.n_chunks * partial_row(p);
  constexpr int64_t kMostTokens = 65535;  // of a grid's third dimension
  const int64_t lot = std::min({p.n, (p.partial_floats - kStatsPad) / per_token, kMostTokens});
  if (lot < 1 || p.n_chunks > 65535) return cudaErrorInvalidValue;
  for (int64_t first = 0; first < p.n; first += lot) {
    AttentionParams part = p;
    part.n = std::min(lot, p.n - first);
    part.token0 = first;
    part.q.data += first * p.q.stride;
    part.out.data += first * p.out.stride;
    part.sequences += first * p.sequences_stride;
    part.positions += first * p.positions_stride;
    cudaError_t status = fits_tensor_cores(p) ? launch_heads(part, stream) : launch_any(part, stream);
    if (status == cudaSuccess && !heads_combine(part)) status = launch_combine(part, stream);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

cudaError_t launch_attention(const AttentionParams& p, cudaStream_t stream) {
  if (p.n == 0 || p.heads == 0 || p.v_dim == 0) return cudaSuccess;
  // More tokens than sequences: some follow each other.
  if (p.deterministic || p.n <= p.n_sequences || !fits_prompt(p)) return launch_in_chunks(p, stream);
  AttentionParams all = p;
  all.split = true;
  all.n_call = p.n;
  all.call_sequences = p.sequences;
  const cudaError_t status = launch_prompt(all, stream);
  if (status != cudaSuccess || p.n_sequences < 2) return status;
  all.n = std::min(p.n, p.n_sequences + 1);
  return launch_in_chunks(all, stream);
}

}  // namespace moe::cuda
