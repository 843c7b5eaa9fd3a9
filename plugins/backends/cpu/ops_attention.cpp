// Causal attention over a paged cache.
//
// A query's positions are cut at absolute multiples: blocks of kPositions, which one softmax runs through in ascending
// order (Dao et al. 2022, arXiv 2205.14135), and spans of kSpan, whose results are merged in ascending order. So its
// bits depend on its own range of positions alone, whether spans ran one after the other or on several threads.
#include <cmath>
#include <limits>

#include "moe/sdk/loops/attention.hpp"
#include "ops.hpp"

namespace moe::cpu {
namespace {

constexpr int64_t kSpan = 8 * kPositions;

int64_t padded(int64_t dim) { return (dim + 15) / 16 * 16; }

// Queries that one task works on at most: what it has mixed so far stays in the second-level cache.
constexpr int64_t kTaskQueries = 8 * kQueries;

// What one task works with.
struct Scratch {
  float* q;           // [kQueries, padded(k_dim)]
  float* scores;      // [kQueries, kScoreStride]
  float* o;           // [kTaskQueries, padded(v_dim)]: of the span at work
  float* total;       // [kTaskQueries, padded(v_dim)]: of the spans before it
  const void** rows;  // [kPositions + 16]: of keys or values
  const void** next;  // [kRowsAhead]
};
Scratch take_scratch(Arena& arena, int64_t k_dim, int64_t v_dim) {
  Scratch s{};
  s.q = arena.take<float>(kQueries * padded(k_dim));
  s.scores = arena.take<float>(kQueries * kScoreStride);
  s.o = arena.take<float>(kTaskQueries * padded(v_dim));
  s.total = arena.take<float>(kTaskQueries * padded(v_dim));
  s.rows = arena.take<const void*>(kPositions + 16);
  s.next = arena.take<const void*>(kRowsAhead);
  return s;
}

// Rows of one sequence, consecutive in the call.
struct Chunk {
  int32_t first;
  int32_t n;
};

struct Space {
  Chunk* chunks;  // [n]
  char* scratch;  // [n_threads] times scratch_bytes
  uint64_t scratch_bytes;
  float* partial;   // [rows, spans, n_heads, padded(v_dim)] where spans are tasks of their own
  Softmax* states;  // [rows, spans, n_heads]
};

// As many tasks keep the threads busy; fewer are cut further. With at most as many rows spans may be tasks of their
// own.
int64_t few_tasks() { return 4 * n_threads(); }
int64_t max_spans(const moe_attention_args& args) {
  return (args.pages.page_table.shape[1] * args.pages.page_size + kSpan - 1) / kSpan;
}

Space take_space(Arena& arena, const moe_attention_args& args) {
  const int64_t k_dim = args.q.shape[2];
  const int64_t v_dim = args.out.shape[2];
  Arena one;
  take_scratch(one, k_dim, v_dim);
  Space s{};
  s.scratch_bytes = one.used();
  s.chunks = arena.take<Chunk>(args.q.shape[0]);
  s.scratch = arena.take<char>(static_cast<int64_t>(one.used()) * n_threads());
  const int64_t spans = max_spans(args);
  const int64_t parts = spans > 1 ? std::min(args.q.shape[0], few_tasks()) * spans * args.q.shape[1] : 0;
  s.partial = arena.take<float>(parts * padded(v_dim));
  s.states = arena.take<Softmax>(parts);
  return s;
}

class Attention {
 public:
  Attention(const Kernels& kernels, const moe_attention_args& args, const Space& space)
      : kernels_(kernels),
        a_(args),
        s_(space),
        heads_(args.q.shape[1]),
        k_dim_(args.q.shape[2]),
        v_dim_(args.out.shape[2]),
        kv_heads_(args.k.ndim == 3 ? args.k.shape[1] : 1),
        o_stride_(padded(args.out.shape[2])) {}

  void run() {
    plan();
    const int64_t n = a_.q.shape[0];
    // A multiplication takes as long as reading about a byte and a half; short rows cost more than their numbers.
    const int64_t cost = n * heads_ * longest_ * (k_dim_ + v_dim_ + 64) * 3 / 2;
    const int64_t spans = (longest_ + kSpan - 1) / kSpan;
    const bool split = spans > 1 && n <= few_tasks() && n_chunks_ < few_tasks() && cost >= kSpreadCost;
    const int64_t parts = split ? spans : 1;
    const int64_t ranges = cut_units(n_chunks_ * parts);
    spread(n_chunks_ * ranges * parts, cost, [&](int64_t index, int32_t thread) {
      const Task t = make_task(index / parts / ranges, index / parts % ranges, thread);
      if (split) {
        span_task(t, index % parts, spans);
      } else {
        whole_task(t);
      }
    });
    if (!split) return;
    spread_rows(n * heads_, spans * v_dim_ * 4, [&](int64_t i, int32_t thread) {
      merge_row(i / heads_, i % heads_, spans, make_task(0, 0, thread).scratch.total);
    });
  }

 private:
  // A unit is some heads of one key head, at most head_tile_; with a chunk's rows these are the queries that go through
  // a block together. A task is a range of units of one chunk, so that it reads whole rows of the cache where they are
  // stored side by side.
  struct Task {
    Chunk chunk;
    int64_t first_unit;
    int64_t last_unit;  // not included
    Scratch scratch;
  };
  struct Unit {
    int64_t kv_head;
    int64_t first_head;
    int64_t n_heads;  // 0 where tiles do not divide evenly
    [[nodiscard]] int64_t row_of(const Chunk& chunk, int64_t q) const { return chunk.first + q / n_heads; }
    [[nodiscard]] int64_t head_of(int64_t q) const { return first_head + q % n_heads; }
  };

  [[nodiscard]] Range range_of(int64_t i) const {
    const int64_t position = item<int32_t>(a_.positions, i);
    return {loops::first_attended(a_, position), position + 1};
  }

  // Cuts rows and heads. The cut does not show in the results.
  void plan() {
    const int64_t n = a_.q.shape[0];
    const int64_t group = (heads_ + kv_heads_ - 1) / kv_heads_;
    head_tile_ = std::min(group, kQueries);
    while (head_tile_ > 4 && n * kv_heads_ * ((group + head_tile_ - 1) / head_tile_) < 2 * n_threads()) {
      head_tile_ = (head_tile_ + 1) / 2;
    }
    head_tiles_ = (group + head_tile_ - 1) / head_tile_;
    const int64_t rows = std::max<int64_t>(1, kQueries / head_tile_);
    for (int64_t i = 0; i < n; ++i) {
      longest_ = std::max(longest_, range_of(i).last);
      const bool same = n_chunks_ > 0 && s_.chunks[n_chunks_ - 1].n < rows &&
                        item<int32_t>(a_.sequences, i) == item<int32_t>(a_.sequences, i - 1);
      if (same) {
        ++s_.chunks[n_chunks_ - 1].n;
      } else {
        s_.chunks[n_chunks_++] = {static_cast<int32_t>(i), 1};
      }
    }
    task_units_ = std::max<int64_t>(1, kTaskQueries / (head_tile_ * std::min(rows, n)));
  }
  // How many ranges the units of a chunk make, so that there are enough tasks; sets task_units_.
  int64_t cut_units(int64_t tasks) {
    const int64_t units = kv_heads_ * head_tiles_;
    const int64_t wanted = std::clamp<int64_t>((few_tasks() + tasks - 1) / tasks, 1, units);
    task_units_ = std::min(task_units_, (units + wanted - 1) / wanted);
    return (units + task_units_ - 1) / task_units_;
  }

  [[nodiscard]] Task make_task(int64_t chunk, int64_t range, int32_t thread) const {
    moe_op_args part{};
    part.workspace = s_.scratch + static_cast<uint64_t>(thread) * s_.scratch_bytes;
    Arena mine(part);
    const int64_t first = range * task_units_;
    return {s_.chunks[chunk], first, std::min(first + task_units_, kv_heads_ * head_tiles_),
            take_scratch(mine, k_dim_, v_dim_)};
  }
  [[nodiscard]] Unit unit(int64_t index) const {
    Unit u{};
    u.kv_head = index / head_tiles_;
    const int64_t first =
        (u.kv_head * heads_ + kv_heads_ - 1) / kv_heads_;  // heads h with h * kv_heads / heads == kv_head
    const int64_t last = ((u.kv_head + 1) * heads_ + kv_heads_ - 1) / kv_heads_;
    u.first_head = first + index % head_tiles_ * head_tile_;
    u.n_heads = std::max<int64_t>(0, std::min(head_tile_, last - u.first_head));
    return u;
  }

  // All positions that some row of the chunk looks at.
  [[nodiscard]] Range range_of(const Chunk& chunk) const {
    Range all{std::numeric_limits<int64_t>::max(), 0};
    for (int64_t i = 0; i < chunk.n; ++i) {
      const Range r = range_of(chunk.first + i);
      if (!r.empty()) all = {std::min(all.first, r.first), std::max(all.last, r.last)};
    }
    return all;
  }

  void whole_task(const Task& t) const {
    const Range all = range_of(t.chunk);
    const int64_t unit_queries = t.chunk.n * head_tile_;
    Softmax state[kTaskQueries];
    Softmax total[kTaskQueries];
    const auto slot = [&](int64_t u, int64_t q) { return (u - t.first_unit) * unit_queries + q; };
    std::fill_n(total, (t.last_unit - t.first_unit) * unit_queries, kNothing);
    for (int64_t span = all.first / kSpan; !all.empty() && span * kSpan < all.last; ++span) {
      run_span(t, all, span, state);
      for (int64_t i = 0; i < (t.last_unit - t.first_unit) * unit_queries; ++i) {
        merge(total[i], t.scratch.total + i * o_stride_, state[i], t.scratch.o + i * o_stride_);
      }
    }
    for (int64_t u = t.first_unit; u < t.last_unit; ++u) {
      const Unit it = unit(u);
      for (int64_t q = 0; q < t.chunk.n * it.n_heads; ++q) {
        finish(it.row_of(t.chunk, q), it.head_of(q), total[slot(u, q)], t.scratch.total + slot(u, q) * o_stride_);
      }
    }
  }

  // Where the results of a row and head over a span lie, heads side by side.
  [[nodiscard]] int64_t part_of(int64_t i, int64_t span, int64_t spans, int64_t head) const {
    return (i * spans + span) * heads_ + head;
  }
  // Through scratch, because the queries of a unit may be of several rows.
  void span_task(const Task& t, int64_t span, int64_t spans) const {
    const Range all = range_of(t.chunk);
    const int64_t unit_queries = t.chunk.n * head_tile_;
    Softmax state[kTaskQueries];
    run_span(t, all, span, state);
    for (int64_t u = t.first_unit; u < t.last_unit; ++u) {
      const Unit it = unit(u);
      for (int64_t q = 0; q < t.chunk.n * it.n_heads; ++q) {
        const int64_t slot = (u - t.first_unit) * unit_queries + q;
        const int64_t part = part_of(it.row_of(t.chunk, q), span, spans, it.head_of(q));
        s_.states[part] = state[slot];
        std::copy_n(t.scratch.o + slot * o_stride_, v_dim_, s_.partial + part * o_stride_);
      }
    }
  }
  void merge_row(int64_t i, int64_t head, int64_t spans, float* o) const {
    Softmax total = kNothing;
    for (int64_t span = 0; span < spans; ++span) {
      const int64_t part = part_of(i, span, spans, head);
      merge(total, o, s_.states[part], s_.partial + part * o_stride_);
    }
    finish(i, head, total, o);
  }

  // One span of positions for all units of a task, from nothing.
  void run_span(const Task& t, const Range& all, int64_t span, Softmax* state) const {
    const int64_t unit_queries = t.chunk.n * head_tile_;
    const int64_t n = (t.last_unit - t.first_unit) * unit_queries;
    std::fill_n(t.scratch.o, n * o_stride_, 0.0F);
    std::fill_n(state, n, kNothing);
    const int64_t begin = std::max(all.first, span * kSpan);
    const int64_t end = std::min(all.last, (span + 1) * kSpan);
    for (int64_t first = t.first_unit; first < t.last_unit;) {
      const int64_t last = end_of_group(t, first);
      for (int64_t position = begin; position < end;) {
        const int64_t stop = std::min(end, (position / kPositions + blocks_together(t)) * kPositions);
        for (int64_t u = first; u < last; ++u) {
          const Keys next = u + 1 < last         ? Keys{u + 1, {position, stop}}
                            : stop < end         ? Keys{first, {stop, end}}
                            : last < t.last_unit ? Keys{last, {begin, end}}
                                                 : Keys{u, {0, 0}};
          const int64_t slot = (u - t.first_unit) * unit_queries;
          run_blocks(t, u, {position, stop}, next, t.scratch.o + slot * o_stride_, state + slot);
        }
        position = stop;
      }
      first = last;
    }
  }
  // Blocks of which all keys are read before their values, so that memory is read in long runs: those whose scores
  // there is room for. Not where units share rows, which the next is to find in a cache.
  [[nodiscard]] int64_t blocks_together(const Task& t) const {
    return by_head() ? std::max<int64_t>(1, kQueries / (t.chunk.n * head_tile_)) : 1;
  }
  [[nodiscard]] bool by_head() const { return a_.k.ndim == 3 && a_.k.strides[0] < a_.k.strides[1]; }
  // Units that go through a block together. Where the rows of a head lie one after the other, units of one key head, so
  // that memory is read in its order; else all of them, since the rows of a token do.
  [[nodiscard]] int64_t end_of_group(const Task& t, int64_t u) const {
    return by_head() ? std::min(t.last_unit, (u / head_tiles_ + 1) * head_tiles_) : t.last_unit;
  }
  // Some blocks for the queries of one unit. `next`: what is read after them.
  struct Keys {
    int64_t unit;
    Range positions;
  };
  void run_blocks(const Task& t, int64_t index, const Range& seen, const Keys& next, float* o, Softmax* state) const {
    const Unit u = unit(index);
    const int64_t n = t.chunk.n * u.n_heads;
    if (n == 0) return;
    const Scratch& s = t.scratch;
    const float* queries[kQueries];
    for (int64_t q = 0; q < n; ++q) queries[q] = query(s, u.row_of(t.chunk, q), u.head_of(q), q);
    float* scores = s.scores;
    for (Range part = first_part(seen); !part.empty(); part = part_after(part, seen)) {
      point_at_rows(t, a_.k, u.kv_head, part, s.rows);
      const bool last = part.last == seen.last;
      const RowsNext then =
          last ? rows_from(t, a_.v, v_dim_, index, seen) : rows_from(t, a_.k, k_dim_, index, {part.last, seen.last});
      kernels_.score({queries, n, s.rows, part.last - part.first, k_dim_, a_.k.dtype, scores + part.first % kPositions,
                      asks(t), then});
      scores += n * kScoreStride;
    }
    scores = s.scores;
    for (Range part = first_part(seen); !part.empty(); part = part_after(part, seen)) {
      const int64_t block = part.first / kPositions * kPositions;
      Range ranges[kQueries];
      float scale[kQueries];
      alignas(64) float shrink[kQueries];
      for (int64_t q = 0; q < n; ++q) {
        const Range own = range_of(u.row_of(t.chunk, q));
        ranges[q] = {std::max(own.first, block) - block, std::min(own.last, block + kPositions) - block};
        if (ranges[q].empty()) ranges[q] = {0, 0};
        scale[q] = static_cast<float>(loops::attention_scale(a_, own.last - 1));
      }
      kernels_.softmax({scores, n, ranges, scale, a_.soft_cap, state, shrink});
      point_at_rows(t, a_.v, u.kv_head, part, s.rows + part.first % kPositions);
      const bool last = part.last == seen.last;
      const RowsNext then = last ? rows_from(t, a_.k, k_dim_, next.unit, next.positions)
                                 : rows_from(t, a_.v, v_dim_, index, {part.last, seen.last});
      for (int64_t q = 0; q < n;) {
        int64_t same = 1;
        while (q + same < n && ranges[q + same].first == ranges[q].first && ranges[q + same].last == ranges[q].last)
          ++same;
        if (same < 4) same = std::min<int64_t>(4, n - q);
        mix({scores, s.rows, ranges, shrink, o, asks(t)}, q, same, then);
        q += same;
      }
      scores += n * kScoreStride;
    }
  }
  // The positions cut at multiples of kPositions.
  static Range first_part(const Range& all) { return part_after({0, all.first}, all); }
  static Range part_after(const Range& part, const Range& all) {
    return {part.last, std::min(all.last, (part.last / kPositions + 1) * kPositions)};
  }
  // A query where kernels may read whole vectors of it.
  [[nodiscard]] const float* query(const Scratch& s, int64_t i, int64_t head, int64_t q) const {
    const float* from = at(a_.q, i, head);
    if (k_dim_ == padded(k_dim_)) return from;
    float* to = s.q + q * padded(k_dim_);
    std::copy_n(from, k_dim_, to);
    std::fill(to + k_dim_, to + padded(k_dim_), 0.0F);
    return to;
  }

  // Adds values to queries [q, q + n): what all look at at once, what only some do one by one, each in ascending order.
  // The first addition shrinks what is there.
  struct Mix {
    const float* scores;
    const void* const* rows;
    const Range* ranges;
    float* shrink;
    float* o;
    bool asks;
  };
  void mix(const Mix& m, int64_t q, int64_t n, const RowsNext& next) const {
    const Range* ranges = m.ranges;
    Range common = ranges[q];
    for (int64_t i = 1; i < n; ++i) {
      common = {std::max(common.first, ranges[q + i].first), std::min(common.last, ranges[q + i].last)};
    }
    if (common.empty()) {
      for (int64_t i = 0; i < n; ++i) mix_range(m, ranges[q + i], q + i, 1);
      return;
    }
    for (int64_t i = 0; i < n; ++i) mix_range(m, {ranges[q + i].first, common.first}, q + i, 1);
    mix_range(m, common, q, n, next);
    for (int64_t i = 0; i < n; ++i) mix_range(m, {common.last, ranges[q + i].last}, q + i, 1);
  }
  void mix_range(const Mix& m, const Range& r, int64_t q, int64_t n, const RowsNext& next = {}) const {
    if (r.empty()) return;
    kernels_.mix({m.scores + q * kScoreStride, n, m.rows, r.first, r.last, v_dim_, a_.v.dtype, m.o + q * o_stride_,
                  o_stride_, m.shrink + q, m.asks, next});
    std::fill_n(m.shrink + q, n, 1.0F);
  }

  [[nodiscard]] static int64_t cache_bytes(const moe_tensor& cache) { return cache.dtype == MOE_F32 ? 4 : 2; }
  [[nodiscard]] static const char* cache_head(const moe_tensor& cache, int64_t kv_head) {
    const int64_t at = cache.ndim == 3 ? kv_head * cache.strides[1] * cache_bytes(cache) : 0;
    return static_cast<const char*>(cache.data) + at;
  }
  // Calls f(rows, i, n) for runs of positions that lie one after the other: n rows from the i-th position on.
  template <typename F>
  void each_run(const Task& t, const moe_tensor& cache, int64_t kv_head, const Range& positions, F&& f) const {
    const int32_t* pages = row<int32_t>(a_.pages.page_table, item<int32_t>(a_.sequences, t.chunk.first));
    const char* head = cache_head(cache, kv_head);
    for (int64_t p = positions.first; p < positions.last;) {
      const int64_t in_page = p % a_.pages.page_size;
      const int64_t in_cache = pages[p / a_.pages.page_size] * a_.pages.page_size + in_page;
      const int64_t n = std::min(positions.last - p, a_.pages.page_size - in_page);
      f(head + in_cache * cache.strides[0] * cache_bytes(cache), p - positions.first, n);
      p += n;
    }
  }
  // A head's rows at some positions; after the last it once more, because kernels take several at once.
  void point_at_rows(const Task& t, const moe_tensor& cache, int64_t kv_head, const Range& positions,
                     const void** rows) const {
    const int64_t row_bytes = cache.strides[0] * cache_bytes(cache);
    each_run(t, cache, kv_head, positions, [&](const char* from, int64_t at, int64_t n) {
      for (int64_t i = 0; i < n; ++i) rows[at + i] = from + i * row_bytes;
    });
    const int64_t n = positions.last - positions.first;
    std::fill_n(rows + n, 16, rows[n - 1]);
  }
  [[nodiscard]] bool asks(const Task& t) const { return kernels_.asks_for_few || t.chunk.n * head_tile_ > kFewQueries; }
  // The first rows of a unit at some positions, where calls ask ahead.
  [[nodiscard]] RowsNext rows_from(const Task& t, const moe_tensor& cache, int64_t dim, int64_t u,
                                   const Range& positions) const {
    if (!asks(t)) return {};
    const Range first{positions.first, std::min(positions.last, positions.first + kRowsAhead)};
    const int64_t row_bytes = cache.strides[0] * cache_bytes(cache);
    each_run(t, cache, unit(u).kv_head, first, [&](const char* from, int64_t at, int64_t n) {
      for (int64_t i = 0; i < n; ++i) t.scratch.next[at + i] = from + i * row_bytes;
    });
    return {t.scratch.next, first.last - first.first, dim * cache_bytes(cache)};
  }

  void merge(Softmax& total, float* o, const Softmax& part, const float* part_o) const {
    if (part.sum == 0.0F) return;
    if (total.sum == 0.0F) {
      total = part;
      std::copy_n(part_o, v_dim_, o);
      return;
    }
    const float top = std::max(total.largest, part.largest);
    const float a = kernels_.exp(total.largest - top);
    const float b = kernels_.exp(part.largest - top);
    kernels_.blend(a, o, b, part_o, v_dim_);
    total = {top, total.sum * a + part.sum * b};
  }

  void finish(int64_t i, int64_t head, Softmax total, const float* o) const {
    float* out = at(a_.out, i, head);
    if (range_of(i).empty()) {
      std::fill_n(out, v_dim_, 0.0F);
      return;
    }
    float factor = 1.0F;
    if (present(a_.sinks)) {
      const float sink = item<float>(a_.sinks, head);
      const float top = std::max(total.largest, sink);
      factor = kernels_.exp(total.largest - top);
      total.sum = total.sum * factor + kernels_.exp(sink - top);
    }
    kernels_.add(factor / total.sum, o, 0.0F, nullptr, out, v_dim_);
  }

  static constexpr Softmax kNothing{-std::numeric_limits<float>::infinity(), 0.0F};

  const Kernels& kernels_;
  const moe_attention_args& a_;
  const Space& s_;
  int64_t heads_;
  int64_t k_dim_;
  int64_t v_dim_;
  int64_t kv_heads_;
  int64_t o_stride_;
  int64_t head_tile_ = 1;
  int64_t head_tiles_ = 1;
  int64_t task_units_ = 1;
  int64_t n_chunks_ = 0;
  int64_t longest_ = 0;  // the largest position of the call, plus one
};

uint64_t attention_workspace(const Kernels&, const moe_attention_args& args) {
  Arena arena;
  take_space(arena, args);
  return arena.used();
}

Status attention(const Kernels& kernels, const moe_attention_args& args) {
  MOE_TRY(loops::check_cache_dtype("k", args.k.dtype));
  MOE_TRY(loops::check_cache_dtype("v", args.v.dtype));
  const int64_t n = args.q.shape[0];
  const int64_t max_positions = args.pages.page_table.shape[1] * args.pages.page_size;
  MOE_TRY(loops::expect_shape("out", args.out, n, args.q.shape[1], args.out.shape[2]));
  MOE_TRY(loops::check_attention_range(args));
  if (n == 0 || args.q.shape[1] == 0) return {};
  for (int64_t i = 0; i < n; ++i) {
    const int32_t position = item<int32_t>(args.positions, i);
    if (position >= max_positions)
      return loops::bad("positions", "less than " + std::to_string(max_positions), position);
  }
  Arena arena(args.header);
  const Space space = take_space(arena, args);
  MOE_TRY(arena.check());
  Attention(kernels, args, space).run();
  return {};
}

constexpr OpRow kOps[] = {
    op_row<moe_attention_args, attention, attention_workspace, MOE_ATTENTION_CHUNK | MOE_ATTENTION_TEMPERATURE>(
        MOE_OP_ATTENTION)};

}  // namespace

std::span<const OpRow> attention_ops() { return kOps; }

}  // namespace moe::cpu
