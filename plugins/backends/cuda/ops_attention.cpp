// Rotary embedding, the cache, attention.
#include <limits>

#include "kernels/attention.hpp"
#include "moe/sdk/loops/attention.hpp"
#include "ops.hpp"

namespace moe::cuda {

using loops::expect_shape;
using loops::given;

RopeParams rope_params(const moe_rope_args& a) {
  RopeParams p{};
  p.x = rows_of<const float>(a.x);
  p.out = rows_of<float>(given(a.out) ? a.out : a.x);
  p.positions = data_of<int32_t>(a.positions);
  p.positions_stride = a.positions.strides[0];
  p.inv_freq = data_of<float>(a.inv_freq);
  p.n = a.x.shape[0];
  p.heads = heads_of(a.x);
  p.half = a.inv_freq.shape[0];
  p.offset = a.offset;
  p.scale = a.scale;
  p.interleaved = a.interleaved != 0;
  return p;
}

CacheStoreParams cache_store_params(const moe_cache_store_args& a) {
  CacheStoreParams p{};
  p.x = rows_of<const float>(a.x);
  p.rows = data_of<int64_t>(a.rows);
  p.rows_stride = a.rows.strides[0];
  p.cache = a.cache.data;
  p.cache_stride = a.cache.strides[0];
  p.n = a.x.shape[0];
  p.dim = a.x.shape[1];
  p.dtype = a.cache.dtype;
  return p;
}

namespace {

constexpr int64_t kSharedBytes = 48 * 1024;

// --- rope
Result<Found> find_rope(const Context&, const moe_rope_args& a) {
  const int64_t half = a.inv_freq.shape[0];
  const int64_t dim = width_of(a.x);
  if (a.offset < 0 || half < 0 || half > (dim - a.offset) / 2) {
    return loops::bad("inv_freq", "at most half of the " + std::to_string(dim - a.offset) + " elements from the offset",
                      half);
  }
  if (half * 8 > kSharedBytes)
    return unimplemented("inv_freq: expected at most 6144 pairs, got " + std::to_string(half));
  return Found{};
}
Status run_rope(const Context&, const moe_rope_args& a, cudaStream_t stream) {
  MOE_CUDA_TRY(launch_rope(rope_params(a), stream));
  return {};
}

// --- cache_store
Result<Found> find_cache_store(const Context&, const moe_cache_store_args& a) {
  MOE_TRY(loops::check_cache_dtype("cache", a.cache.dtype));
  if (a.cache.shape[1] != a.x.shape[1]) {
    return loops::bad("cache", "rows of " + std::to_string(a.x.shape[1]) + " elements", a.cache.shape[1]);
  }
  return Found{};
}
Status run_cache_store(const Context&, const moe_cache_store_args& a, cudaStream_t stream) {
  MOE_CUDA_TRY(launch_cache_store(cache_store_params(a), stream));
  return {};
}

// --- attention
AttentionParams attention_params(const Context& context, const moe_attention_args& a) {
  AttentionParams p{};
  p.q = rows_of<const float>(a.q);
  p.k = a.k.data;
  p.v = a.v.data;
  p.k_row = a.k.strides[0];
  p.k_head = a.k.ndim == 3 ? a.k.strides[1] : 0;
  p.v_row = a.v.strides[0];
  p.v_head = a.v.ndim == 3 ? a.v.strides[1] : 0;
  p.dtype = a.k.dtype;
  p.sequences = data_of<int32_t>(a.sequences);
  p.sequences_stride = a.sequences.strides[0];
  p.positions = data_of<int32_t>(a.positions);
  p.positions_stride = a.positions.strides[0];
  p.page_table = data_of<int32_t>(a.pages.page_table);
  p.page_table_row = a.pages.page_table.strides[0];
  p.page_size = a.pages.page_size;
  p.n_sequences = a.pages.page_table.shape[0];
  p.max_positions = a.pages.page_table.shape[1] * a.pages.page_size;
  p.sinks = data_of<float>(a.sinks);
  p.out = rows_of<float>(a.out);
  p.n = a.q.shape[0];
  p.heads = a.q.shape[1];
  p.kv_heads = heads_of(a.k);
  p.k_dim = a.q.shape[2];
  p.v_dim = a.out.shape[2];
  p.window = a.window;
  p.chunk = a.chunk;
  p.scale = a.scale;
  p.soft_cap = a.soft_cap;
  p.temperature = a.temperature;
  p.temperature_length = a.temperature_length;
  p.temperature_offset = a.temperature_offset;
  p.n_multiprocessors = context.n_multiprocessors;
  p.shared_bytes = context.shared_bytes;
  p.deterministic = context.deterministic;
  p.pdl = context.pdl;
  return p;
}

Result<Found> find_attention(const Context& context, const moe_attention_args& a) {
  MOE_TRY(loops::check_cache_dtype("k", a.k.dtype));
  MOE_TRY(loops::check_cache_dtype("v", a.v.dtype));
  if (a.k.dtype != a.v.dtype) return unimplemented("v: expected the dtype of k, got another");
  MOE_TRY(expect_shape("out", a.out, a.q.shape[0], a.q.shape[1], a.out.shape[2]));
  MOE_TRY(loops::check_attention_range(a));
  if (a.q.shape[2] * 4 > kSharedBytes) return unimplemented("q: expected heads of at most 12288 elements, got more");
  const AttentionParams p = attention_params(context, a);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (p.max_positions > kMost) return loops::bad("pages", "fewer than 2^31 positions", p.max_positions);
  if (a.k.shape[0] > kMost) return loops::bad("k", "fewer than 2^31 rows", a.k.shape[0]);
  Space space;
  space.take<float>(attention_partial_floats(p));
  return Found{attention::fits_tensor_cores(p) ? "mma" : "cuda", space.wanted()};
}
Status run_attention(const Context& context, const moe_attention_args& a, cudaStream_t stream) {
  AttentionParams p = attention_params(context, a);
  Space space(a.header);
  p.partial_floats = attention_partial_floats(p);
  p.partial = space.take<float>(p.partial_floats);
  if (stream == context.stream) {  // kernels of other streams would count those of this one
    p.tickets = context.tickets;
    p.n_tickets = kTickets;
  }
  MOE_TRY(space.check());
  MOE_CUDA_TRY(launch_attention(p, stream));
  return {};
}

constexpr OpRow kOps[] = {
    op_row<moe_rope_args, find_rope, run_rope>(MOE_OP_ROPE),
    op_row<moe_cache_store_args, find_cache_store, run_cache_store>(MOE_OP_CACHE_STORE),
    op_row<moe_attention_args, find_attention, run_attention>(MOE_OP_ATTENTION,
                                                              MOE_ATTENTION_CHUNK | MOE_ATTENTION_TEMPERATURE),
};

}  // namespace

std::span<const OpRow> attention_ops() { return kOps; }

}  // namespace moe::cuda
