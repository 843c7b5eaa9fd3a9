// Causal attention over a paged cache. The positions of a row are cut into chunks, each chunk's result goes to
// `partial`, and the chunks of a row are combined in an order that their number decides: by the block that is through
// with its chunk last, or, where that would be much for one block, by a kernel of its own. Where bits must not depend
// on the batch the cuts are absolute multiples; else a row is cut into as many chunks as fill the card, by its real
// length.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/rows.hpp"

namespace moe::cuda {

struct AttentionParams {
  Rows<const float> q;  // [n, heads, k_dim]
  const void* k;        // row r, kv head g at k + r * k_row + g * k_head elements of dtype
  const void* v;
  int64_t k_row, k_head, v_row, v_head;
  int32_t dtype;  // of k and v: MOE_F32, MOE_F16, MOE_BF16
  const int32_t* sequences;
  int64_t sequences_stride;
  const int32_t* positions;
  int64_t positions_stride;
  const int32_t* page_table;
  int64_t page_table_row;
  int64_t page_size;
  int64_t n_sequences;    // rows of the table
  int64_t max_positions;  // that its columns hold
  const float* sinks;     // [heads]; null: none
  Rows<float> out;        // [n, heads, v_dim]
  int64_t n, heads, kv_heads, k_dim, v_dim;
  int64_t window;  // 0: all
  int64_t chunk;   // positions attend within chunks of so many; 0: all
  float scale, soft_cap;
  float temperature;  // moe_attention_args; 0: none
  int64_t temperature_length, temperature_offset;
  float* partial;  // attention_partial_floats() floats
  int64_t partial_floats;
  // [n_tickets], all 0 between calls; null: chunks are combined by a kernel of its own. Kernels that may run at the
  // same time must not share them.
  unsigned* tickets;
  int64_t n_tickets;
  int n_multiprocessors;
  size_t shared_bytes;  // that a block may have
  bool deterministic;   // a row's bits depend on nothing but its own sequence
  bool pdl;
  // Set by launch_attention.
  int64_t n_chunks;  // of a row, at most
  int64_t cut;  // positions of a chunk, at absolute multiples; 0: a row's share of n_chunks, whole tiles of `grain`
  int64_t grain;
  int64_t group, group_tiles;  // heads of a kv head; tiles of them that launch_heads takes at a time
  // Where `split`, the tokens before the first whose sequence goes on in the next one are
  // taken by the kernels for few tokens, the others by the one for prompts.
  bool split;
  int64_t token0;  // of the call that this is a part of
  int64_t n_call;
  const int32_t* call_sequences;
};

// Floats of `partial` to lend for calls of up to these shapes: fewer than a long prompt could use, since its tokens are
// taken in lots.
int64_t attention_partial_floats(const AttentionParams& p);

cudaError_t launch_attention(const AttentionParams& p, cudaStream_t stream);

// The stages; not for others.
namespace attention {

// Chunks of `positions` that p's longest row has.
inline int64_t chunks_of(const AttentionParams& p, int64_t positions) {
  return p.max_positions <= positions ? 1 : (p.max_positions + positions - 1) / positions;
}
// Floats of a chunk's result: largest score, sum of exponentials below it, mix of values [v_dim].
inline int64_t partial_row(const AttentionParams& p) { return p.v_dim + 2; }

// Any shape and type; a block for a head of a token and a chunk.
cudaError_t launch_any(const AttentionParams& p, cudaStream_t stream);
// 16-bit caches of heads that tensor cores take; a block for the heads that share a kv head of a token, and a chunk.
bool fits_tensor_cores(const AttentionParams& p);
// Positions that launch_heads takes at a time, and blocks that a multiprocessor has room for.
struct HeadsShape {
  int64_t tile;
  int64_t blocks;
};
HeadsShape heads_shape(const AttentionParams& p);
// Whether launch_heads combines the chunks, n_chunks of which are set.
bool heads_combine(const AttentionParams& p);
cudaError_t launch_heads(const AttentionParams& p, cudaStream_t stream);
// The same for many tokens, many of which follow each other in a sequence: no chunks, no partial results.
bool fits_prompt(const AttentionParams& p);
cudaError_t launch_prompt(const AttentionParams& p, cudaStream_t stream);
// Combines the chunks of each row into out.
cudaError_t launch_combine(const AttentionParams& p, cudaStream_t stream);

}  // namespace attention
}  // namespace moe::cuda
