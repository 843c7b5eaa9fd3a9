// Loops of attention: rope, cache_store, attention over a paged cache. See moe/sdk/loops.hpp.
#pragma once

#include "moe/sdk/loops/common.hpp"

namespace moe::loops {

// MOE_OP_ROPE.
inline Status rope(const moe_rope_args& args, const LoopContext& ctx) {
  const int64_t n = args.x.shape[0];
  const int64_t heads = args.x.ndim == 3 ? args.x.shape[1] : 1;
  const int64_t dim = args.x.shape[args.x.ndim - 1];
  const int64_t half = args.inv_freq.shape[0];
  if (args.offset < 0 || half < 0 || half > (dim - args.offset) / 2) {
    return bad("inv_freq", "at most half of the " + std::to_string(dim - args.offset) + " elements from the offset",
               half);
  }
  const auto* inv_freq = static_cast<const float*>(args.inv_freq.data);
  spread(ctx, n, half * (40 + 8 * heads), [&](int64_t t, int32_t) {
    const double position = item<int32_t>(args.positions, t);
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * inv_freq[i];
      const double cosine = args.scale * std::cos(angle);
      const double sine = args.scale * std::sin(angle);
      const int64_t first = args.offset + (args.interleaved != 0 ? 2 * i : i);
      const int64_t second = args.interleaved != 0 ? first + 1 : first + half;
      for (int64_t h = 0; h < heads; ++h) {
        const float* x = at(args.x, t, h);
        float* out = present(args.out) ? at(args.out, t, h) : at(args.x, t, h);
        const double a = x[first];
        const double b = x[second];
        out[first] = static_cast<float>(a * cosine - b * sine);
        out[second] = static_cast<float>(a * sine + b * cosine);
      }
    }
  });
  return {};
}

inline Status check_cache_dtype(std::string_view name, int32_t dtype) {
  if (dtype == MOE_F32 || dtype == MOE_F16 || dtype == MOE_BF16) return {};
  return bad(name, "MOE_F32, MOE_F16 or MOE_BF16", dtype);
}

// MOE_OP_CACHE_STORE.
inline Status cache_store(const moe_cache_store_args& args, const LoopContext& ctx) {
  MOE_TRY(check_cache_dtype("cache", args.cache.dtype));
  const int64_t n = args.x.shape[0];
  const int64_t dim = args.x.shape[1];
  const int64_t heads = args.cache.ndim == 3 ? args.cache.shape[1] : 1;
  const int64_t head_dim = args.cache.shape[args.cache.ndim == 3 ? 2 : 1];
  if (heads * head_dim != dim) return bad("cache", "rows of " + std::to_string(dim) + " elements", heads * head_dim);
  spread(ctx, n, 4 * dim, [&](int64_t i, int32_t) {
    const int64_t to = item<int64_t>(args.rows, i);
    if (to < 0) return;
    const float* x = at(args.x, i);
    for (int64_t h = 0; h < heads; ++h, x += head_dim) {
      const int64_t offset = to * args.cache.strides[0] + (heads > 1 ? h * args.cache.strides[1] : 0);
      if (args.cache.dtype == MOE_F32) {
        std::copy_n(x, head_dim, static_cast<float*>(args.cache.data) + offset);
        continue;
      }
      auto* out = static_cast<uint16_t*>(args.cache.data) + offset;
      const bool bf16 = args.cache.dtype == MOE_BF16;
      for (int64_t c = 0; c < head_dim; ++c) out[c] = bf16 ? f32_to_bf16(x[c]) : f32_to_f16(x[c]);
    }
  });
  return {};
}

// Row (r, g) of a cache of any dtype as f32: where it lies, or in scratch.
inline const float* cache_row(const moe_tensor& t, int64_t r, int64_t g, int64_t n, float* scratch) {
  const int64_t offset = r * t.strides[0] + (t.ndim == 3 ? g * t.strides[1] : 0);
  if (t.dtype == MOE_F32) return static_cast<const float*>(t.data) + offset;
  const auto* from = static_cast<const uint16_t*>(t.data) + offset;
  if (t.dtype == MOE_BF16) {
    for (int64_t c = 0; c < n; ++c) scratch[c] = bf16_to_f32(from[c]);
  } else {
    for (int64_t c = 0; c < n; ++c) scratch[c] = f16_to_f32(from[c]);
  }
  return scratch;
}

// The first position that a row at `position` attends to.
inline int64_t first_attended(const moe_attention_args& args, int64_t position) {
  int64_t first = args.window > 0 ? position - args.window + 1 : 0;
  if (args.chunk > 0) first = std::max(first, position - position % args.chunk);
  return std::max<int64_t>(first, 0);
}
// Its scale of q . k.
inline double attention_scale(const moe_attention_args& args, int64_t position) {
  if (!(args.temperature > 0.0F) || position < 0) return args.scale;
  const int64_t lengths = (position + args.temperature_offset) / args.temperature_length;
  return args.scale * (1.0 + args.temperature * std::log1p(static_cast<double>(lengths)));
}
inline Status check_attention_range(const moe_attention_args& args) {
  if (args.window < 0) return bad("window", "0 or more", args.window);
  if (args.chunk < 0) return bad("chunk", "0 or more", args.chunk);
  if (!(args.temperature > 0.0F)) return {};
  if (args.temperature_length < 1) return bad("temperature_length", "1 or more", args.temperature_length);
  if (args.temperature_offset < 0) return bad("temperature_offset", "0 or more", args.temperature_offset);
  return {};
}

// What one thread of attention needs.
struct AttentionSpace {
  double* scores;  // [max_positions]
  double* query;   // [k_dim]
  double* sum;     // [v_dim]
  float* scratch;  // [4, max(k_dim, v_dim)]
};

// The parts of thread t; the same call in the same order lays them out for all threads.
inline AttentionSpace attention_space(Arena& arena, const moe_attention_args& args) {
  const int64_t k_dim = args.q.shape[args.q.ndim - 1];
  const int64_t v_dim = args.out.shape[args.out.ndim - 1];
  AttentionSpace space{};
  space.scores = arena.take<double>(args.pages.page_table.shape[1] * args.pages.page_size);
  space.query = arena.take<double>(k_dim);
  space.sum = arena.take<double>(v_dim);
  space.scratch = arena.take<float>(4 * std::max(k_dim, v_dim));
  return space;
}
inline uint64_t attention_workspace(const moe_attention_args& args, const LoopContext& ctx) {
  Arena arena;
  attention_space(arena, args);
  return arena.used() * static_cast<uint64_t>(n_threads(ctx));
}

// One head of one token: positions [first, last] of its sequence.
struct AttentionRow {
  const moe_attention_args& args;
  const AttentionSpace& space;
  const int32_t* pages;
  int64_t kv_head;
  int64_t first;
  int64_t last;
  double scale;

  [[nodiscard]] int64_t cache_row_of(int64_t p) const {
    return pages[p / args.pages.page_size] * args.pages.page_size + p % args.pages.page_size;
  }

  // scores[p - first] = scale * q . k[p], capped; four positions side by side, each a sum of its own.
  void score(int64_t k_dim) const {
    const double cap = args.soft_cap;
    for (int64_t p = first; p <= last; p += 4) {
      const int64_t count = std::min<int64_t>(4, last - p + 1);
      const float* k[4];
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t r = cache_row_of(p + std::min(j, count - 1));
        k[j] = cache_row(args.k, r, kv_head, k_dim, space.scratch + j * k_dim);
      }
      double dot[4] = {};
      for (int64_t c = 0; c < k_dim; ++c) {
        for (int64_t j = 0; j < 4; ++j) dot[j] += space.query[c] * k[j][c];
      }
      for (int64_t j = 0; j < count; ++j) {
        const double s = scale * dot[j];
        space.scores[p + j - first] = cap > 0.0 ? cap * std::tanh(s / cap) : s;
      }
    }
  }

  // Scores become exponentials; returns their sum, the sink's among them. A NaN makes the sum NaN.
  [[nodiscard]] double exponentiate(const float* sink) const {
    const int64_t n = last - first + 1;
    double largest = sink != nullptr ? *sink : -std::numeric_limits<double>::infinity();
    for (int64_t p = 0; p < n; ++p) largest = std::max(largest, space.scores[p]);
    double sum = 0.0;
    for (int64_t p = 0; p < n; ++p) {
      space.scores[p] = std::exp(space.scores[p] - largest);
      sum += space.scores[p];
    }
    return sink != nullptr ? sum + std::exp(*sink - largest) : sum;
  }

  void mix(double denominator, int64_t v_dim, float* out) const {
    for (int64_t c = 0; c < v_dim; ++c) space.sum[c] = 0.0;
    for (int64_t p = first; p <= last; ++p) {
      const double a = space.scores[p - first];
      const float* v = cache_row(args.v, cache_row_of(p), kv_head, v_dim, space.scratch);
      for (int64_t c = 0; c < v_dim; ++c) space.sum[c] += a * v[c];
    }
    for (int64_t c = 0; c < v_dim; ++c) out[c] = static_cast<float>(space.sum[c] / denominator);
  }
};

// MOE_OP_ATTENTION. A token at a negative position attends to nothing: zeros.
inline Status attention(const moe_attention_args& args, const LoopContext& ctx) {
  MOE_TRY(check_cache_dtype("k", args.k.dtype));
  MOE_TRY(check_cache_dtype("v", args.v.dtype));
  const int64_t n = args.q.shape[0];
  const int64_t heads = args.q.shape[1];
  const int64_t k_dim = args.q.shape[2];
  const int64_t v_dim = args.out.shape[2];
  const int64_t kv_heads = args.k.ndim == 3 ? args.k.shape[1] : 1;
  const int64_t max_positions = args.pages.page_table.shape[1] * args.pages.page_size;
  MOE_TRY(expect_shape("out", args.out, n, heads, v_dim));
  MOE_TRY(check_attention_range(args));
  if (n == 0 || heads == 0) return {};
  for (int64_t i = 0; i < n; ++i) {
    const int32_t position = item<int32_t>(args.positions, i);
    if (position >= max_positions) return bad("positions", "less than " + std::to_string(max_positions), position);
  }
  Arena one;
  attention_space(one, args);
  Arena all(args.header);
  char* memory = all.take<char>(static_cast<int64_t>(one.used()) * n_threads(ctx));
  MOE_TRY(all.check());
  const int64_t span = args.window > 0 ? std::min(args.window, max_positions) : max_positions;
  spread(ctx, n * heads, span * (k_dim + v_dim), [&](int64_t task, int32_t thread) {
    const int64_t i = task / heads;
    const int64_t h = task % heads;
    moe_op_args part{};
    part.workspace = memory + static_cast<uint64_t>(thread) * one.used();
    Arena mine(part);
    const AttentionSpace space = attention_space(mine, args);
    const int64_t last = item<int32_t>(args.positions, i);
    const int64_t first = first_attended(args, last);
    const int32_t* pages = row<int32_t>(args.pages.page_table, item<int32_t>(args.sequences, i));
    float* out = at(args.out, i, h);
    if (last < 0) {
      std::fill_n(out, v_dim, 0.0F);
      return;
    }
    const float* q = at(args.q, i, h);
    std::copy_n(q, k_dim, space.query);
    const AttentionRow one_row{args, space, pages, h * kv_heads / heads, first, last, attention_scale(args, last)};
    one_row.score(k_dim);
    const double denominator = one_row.exponentiate(present(args.sinks) ? &item<float>(args.sinks, h) : nullptr);
    one_row.mix(denominator, v_dim, out);
  });
  return {};
}

}  // namespace moe::loops
