// What the kernels of attention share.
#pragma once

#include "kernels/attention.hpp"
#include "kernels/device.cuh"

namespace moe::cuda::attention {

// What a token attends to.
struct Span {
  int64_t first, last;  // positions; last < 0: none
  float scale;
  const int32_t* pages;
};

__device__ inline Span span_of(const AttentionParams& p, int64_t i) {
  Span s{};
  // A position beyond the table would be read from nowhere.
  s.last = min(static_cast<int64_t>(p.positions[i * p.positions_stride]), p.max_positions - 1);
  s.first = p.window > 0 ? max(int64_t{0}, s.last - p.window + 1) : 0;
  if (p.chunk > 0 && s.last >= 0) s.first = max(s.first, s.last - s.last % p.chunk);
  s.scale = p.scale;
  if (p.temperature > 0.0F && s.last >= 0) {
    const int64_t lengths = (s.last + p.temperature_offset) / p.temperature_length;
    s.scale *= fmaf(p.temperature, log1pf(static_cast<float>(lengths)), 1.0F);
  }
  s.pages = p.page_table + p.sequences[i * p.sequences_stride] * p.page_table_row;
  return s;
}

// Where a row's positions are cut: chunk c of [first, first + n) has those from base + c * size on.
struct Cut {
  int64_t base, size;
  int first, n;
};
// `grain` is p.grain where p.cut is 0.
__device__ inline Cut cut_of(const AttentionParams& p, const Span& s, uint32_t grain) {
  const auto last = static_cast<uint32_t>(s.last);
  const auto begin = static_cast<uint32_t>(s.first);
  if (p.cut > 0) {
    const auto size = static_cast<uint32_t>(p.cut);
    const auto first = static_cast<int>(begin / size);
    return {0, p.cut, first, static_cast<int>(last / size) - first + 1};
  }
  const uint32_t tile = begin / grain;
  const uint32_t tiles = last / grain - tile + 1;
  const auto most = static_cast<uint32_t>(p.n_chunks);
  const uint32_t share = (tiles + most - 1) / most;
  return {int64_t{tile} * grain, int64_t{share} * grain, 0, static_cast<int>((tiles + share - 1) / share)};
}

// Where the result of a chunk of a row of [n, heads] lies. The mixes begin on 16 bytes.
struct ChunkResult {
  float* stats;  // largest score, sum of exponentials below it
  float* mix;    // [v_dim]
};
__device__ inline ChunkResult chunk_result(const AttentionParams& p, int64_t row, int64_t chunk) {
  const int64_t at = row * p.n_chunks + chunk;
  const int64_t stats = (2 * p.n * p.heads * p.n_chunks + 3) / 4 * 4;
  return {p.partial + 2 * at, p.partial + stats + at * p.v_dim};
}

__device__ inline int64_t cache_row(const AttentionParams& p, const Span& s, int64_t position) {
  const auto at = static_cast<uint32_t>(position);
  const auto page = static_cast<uint32_t>(p.page_size);
  return s.pages[at / page] * p.page_size + at % page;
}

// The first token of the call whose sequence goes on in the next one; 0 if there is none among as many as there are
// sequences. By a whole warp.
__device__ inline int64_t first_of_prompts(const AttentionParams& p) {
  const int64_t end = min(p.n_call - 1, p.n_sequences + 1);
  for (int64_t base = 0; base < end; base += 32) {
    const int64_t i = base + threadIdx.x % 32;
    const bool goes_on =
        i < end && p.call_sequences[i * p.sequences_stride] == p.call_sequences[(i + 1) * p.sequences_stride];
    const unsigned found = __ballot_sync(kFullWarp, goes_on);
    if (found != 0) return base + __ffs(static_cast<int>(found)) - 1;
  }
  return 0;
}
// Whether token i of this part is left to the kernel for prompts. By a whole warp.
__device__ inline bool is_of_prompt(const AttentionParams& p, int64_t i) {
  return p.split && p.token0 + i >= first_of_prompts(p);
}

// exp(score - base), where base is the largest score so far; a row without any has no base.
__device__ inline float below(float score, float base) { return expf(score - (base == -INFINITY ? 0.0F : base)); }
// How much a part with its own largest score counts beside a common one. An empty part counts nothing.
__device__ inline float share(float largest, float common) {
  return largest == -INFINITY ? 0.0F : expf(largest - common);
}

__device__ inline float capped(const AttentionParams& p, float score) {
  return p.soft_cap > 0.0F ? p.soft_cap * tanhf(score / p.soft_cap) : score;
}

// Sums of chunks apart from each other, chunk c in the sum c % kChunkSums.
inline constexpr int kChunkSums = 4;

// Divides a mix by the sum of all exponentials, the sink's among them.
__device__ inline float finished(const AttentionParams& p, int64_t h, float largest, float sum, float acc) {
  if (p.sinks == nullptr) return acc / sum;
  const float common = fmaxf(largest, p.sinks[h]);
  const float scale = share(largest, common);
  return acc * scale / (sum * scale + expf(p.sinks[h] - common));
}

}  // namespace moe::cuda::attention
