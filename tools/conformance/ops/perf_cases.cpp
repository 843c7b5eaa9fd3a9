#include "tools/conformance/ops/perf_cases.hpp"

#include <algorithm>

namespace patchbay::conformance {
namespace {

const auto kAnything = [](const auto&, const WeightRow&, Tolerances&) {};

PerfCase embed() {
  CaseBuilder<moe_embed_args> b(MOE_OP_EMBED, 1);
  constexpr int64_t n = 512, d = 2048, vocab = 8192;
  b.weight(b.args.table, 1, vocab, d);
  b.i32(b.args.ids, {n}, true, [&](int64_t i) { return static_cast<int32_t>(i * 37 % vocab); });
  b.output(b.args.out, {n, d});
  b.args.scale = 1;
  return {"512 tokens of 2048", b.build(n, kAnything), n * d, 4.0 * n * d, 0};
}

PerfCase norm() {
  CaseBuilder<moe_norm_args> b(MOE_OP_NORM, 1);
  constexpr int64_t n = 512, d = 4096;
  b.f32(b.args.x, {n, d}, true);
  b.vector(b.args.weight, d, 0.5, 1.5);
  b.output(b.args.out, {n, d});
  b.args.kind = MOE_NORM_RMS;
  b.args.eps = 1e-6F;
  return {"512 rows of 4096", b.build(n, kAnything), 0, 8.0 * n * d, 3.0 * n * d};
}

PerfCase matmul(const char* what, int64_t n, int64_t n_out, int64_t n_in, int32_t activation) {
  CaseBuilder<moe_matmul_args> b(MOE_OP_MATMUL, 1);
  b.weight(b.args.weight, 1, n_out, n_in);
  b.f32(b.args.x, {n, n_in}, true);
  b.output(b.args.out, {n, n_out});
  b.args.scale = 1;
  b.args.activation = activation;
  const auto weights = static_cast<double>(n_out * n_in);
  return {what, b.build(n, kAnything), weights, 4.0 * static_cast<double>(n * (n_in + n_out)),
          2.0 * static_cast<double>(n) * weights};
}

PerfCase grouped_matmul() {
  CaseBuilder<moe_grouped_matmul_args> b(MOE_OP_GROUPED_MATMUL, 1);
  constexpr int64_t groups = 8, each = 32, n_out = 1024, n_in = 2048;
  b.weight(b.args.weight, groups, n_out, n_in);
  b.f32(b.args.x, {groups * each, n_in}, false);
  b.i32(
      b.args.offsets, {groups + 1}, false, [&](int64_t i) { return static_cast<int32_t>(i * each); }, false);
  b.output(b.args.out, {groups * each, n_out}, false);
  b.args.activation = MOE_BF16;
  constexpr double weights = groups * n_out * n_in;
  return {"8 groups of 32 rows, 1024 x 2048", b.build(0, kAnything), weights, 4.0 * groups * each * (n_in + n_out),
          2.0 * each * weights};
}

PerfCase rope() {
  CaseBuilder<moe_rope_args> b(MOE_OP_ROPE, 1);
  constexpr int64_t n = 512, heads = 16, dim = 128;
  const size_t x = b.f32(b.args.x, {n, heads, dim}, true);
  b.array(x).output = true;
  b.i32(b.args.positions, {n}, true, [](int64_t i) { return static_cast<int32_t>(i); });
  b.vector(b.args.inv_freq, dim / 2, 0, 1);
  b.args.scale = 1;
  return {"512 tokens, 16 heads of 128", b.build(n, kAnything), 0, 8.0 * n * heads * dim, 3.0 * n * heads * dim};
}

PerfCase cache_store() {
  CaseBuilder<moe_cache_store_args> b(MOE_OP_CACHE_STORE, 1);
  constexpr int64_t n = 512, d = 2048;
  b.f32(b.args.x, {n, d}, true);
  const size_t rows = b.tensor(b.args.rows, MOE_I64, {n}, true, false);
  for (int64_t i = 0; i < n; ++i) b.array(rows).as<int64_t>()[i] = (i * 37) % n;
  const size_t cache = b.tensor(b.args.cache, MOE_F16, {n, d}, false, false);
  b.array(cache).output = true;
  return {"512 tokens of 2048 to f16", b.build(n, kAnything), 0, 6.0 * n * d, 0};
}

PerfCase attention(const char* what, int64_t n, int64_t context) {
  CaseBuilder<moe_attention_args> b(MOE_OP_ATTENTION, 1);
  constexpr int64_t heads = 32, kv_heads = 8, dim = 128, page = 16;
  const int64_t pages = context / page;
  b.f32(b.args.q, {n, heads, dim}, true);
  b.tensor(b.args.k, MOE_F16, {context, kv_heads, dim}, false, false);
  b.tensor(b.args.v, MOE_F16, {context, kv_heads, dim}, false, false);
  b.i32(
      b.args.pages.page_table, {1, pages}, false, [](int64_t i) { return static_cast<int32_t>(i); }, false);
  b.i32(b.args.sequences, {n}, true, [](int64_t) { return 0; });
  b.i32(b.args.positions, {n}, true, [&](int64_t i) { return static_cast<int32_t>(context - n + std::min(i, n - 1)); });
  b.output(b.args.out, {n, heads, dim});
  b.args.pages.page_size = page;
  b.args.scale = 0.088F;
  const auto seen = static_cast<double>(n) * (static_cast<double>(context) - static_cast<double>(n) / 2);
  return {what, b.build(n, kAnything), 0,
          4.0 * static_cast<double>(context * kv_heads * dim) + 8.0 * static_cast<double>(n * heads * dim),
          4.0 * seen * heads * dim};
}

PerfCase route() {
  CaseBuilder<moe_route_op_args> b(MOE_OP_ROUTE, 1);
  constexpr int64_t n = 512, experts = 128, k = 8;
  b.f32(b.args.logits, {n, experts}, true, 4);
  const size_t ids = b.i32(b.args.ids, {n, k}, true, [](int64_t) { return 0; });
  b.array(ids).output = true;
  b.output(b.args.weights, {n, k});
  b.args.n_experts = experts;
  b.args.top_k = k;
  b.args.score = MOE_SCORE_SOFTMAX;
  b.args.renorm = MOE_RENORM_SUM;
  b.args.scale = 1;
  return {"512 tokens, 8 of 128 experts", b.build(n, kAnything), 0, 4.0 * n * (experts + 2 * k), 0};
}

PerfCase activation() {
  CaseBuilder<moe_activation_args> b(MOE_OP_ACTIVATION, 1);
  constexpr int64_t n = 512, width = 2048;
  b.f32(b.args.gate, {n, width}, true);
  b.f32(b.args.up, {n, width}, true);
  b.output(b.args.out, {n, width});
  b.args.gating.kind = MOE_ACT_SILU;
  return {"512 rows of 2048, silu", b.build(n, kAnything), 0, 12.0 * n * width, 0};
}

PerfCase ffn(const char* what, int64_t n) {
  CaseBuilder<moe_ffn_args> b(MOE_OP_FFN, 1);
  constexpr int64_t experts = 16, k = 8, d = 1024, width = 1024;
  b.weight(b.args.gate, experts, width, d, 0.05);
  b.weight(b.args.up, experts, width, d, 0.05);
  b.weight(b.args.down, experts, d, width, 0.05);
  b.f32(b.args.x, {n, d}, true);
  b.i32(
      b.args.ids, {n, k}, true, [&](int64_t i) { return static_cast<int32_t>(i * 5 % experts); }, false);
  b.f32(b.args.weights, {n, k}, true);
  b.output(b.args.out, {n, d});
  b.args.n_experts = experts;
  b.args.width = width;
  b.args.gating.kind = MOE_ACT_SILU;
  b.args.activation = MOE_BF16;
  b.args.scale = 1;
  constexpr double expert = 3.0 * d * width;
  const double distinct = std::min<double>(experts, static_cast<double>(n * k));
  return {what, b.build(n, kAnything), distinct * expert, 8.0 * static_cast<double>(n * d),
          2.0 * static_cast<double>(n * k) * expert};
}

PerfCase combine() {
  CaseBuilder<moe_combine_args> b(MOE_OP_COMBINE, 1);
  constexpr int64_t n = 256, k = 8, d = 2048;
  b.f32(b.args.x, {n * k, d}, false);
  b.i32(
      b.args.slots, {n, k}, true, [](int64_t i) { return static_cast<int32_t>(i % (n * k)); }, false);
  b.f32(b.args.weights, {n, k}, true);
  b.output(b.args.out, {n, d});
  return {"256 tokens, 8 rows of 2048 each", b.build(n, kAnything), 0, 4.0 * n * d * (k + 1), 2.0 * n * k * d};
}

PerfCase add() {
  CaseBuilder<moe_add_args> b(MOE_OP_ADD, 1);
  constexpr int64_t n = 512, d = 4096;
  b.f32(b.args.x, {n, d}, true);
  b.f32(b.args.y, {n, d}, true);
  b.output(b.args.out, {n, d});
  b.args.alpha = b.args.beta = 1;
  return {"512 rows of 4096", b.build(n, kAnything), 0, 12.0 * n * d, 2.0 * n * d};
}

PerfCase gather() {
  CaseBuilder<moe_gather_args> b(MOE_OP_GATHER, 1);
  constexpr int64_t n = 512, m = 2048, d = 2048;
  b.f32(b.args.x, {n, d}, false);
  b.i32(b.args.rows, {m}, true, [](int64_t i) { return static_cast<int32_t>(i * 37 % n); });
  b.output(b.args.out, {m, d});
  return {"2048 of 512 rows of 2048", b.build(m, kAnything), 0, 4.0 * d * (n + m), 0};
}

PerfCase identity() {
  CaseBuilder<moe_identity_args> b(MOE_OP_IDENTITY, 1);
  constexpr int64_t n = 512, k = 8, d = 4096;
  b.args.first = 12;
  b.args.scale = 1;
  b.f32(b.args.x, {n, d}, true);
  b.i32(b.args.ids, {n, k}, true, [](int64_t i) { return static_cast<int32_t>(i % k + 8); });
  b.f32(b.args.weights, {n, k}, true);
  b.output(b.args.out, {n, d});
  return {"512 rows of 4096, 4 of 8 experts", b.build(n, kAnything), 0, 12.0 * n * d, 2.0 * n * d};
}

PerfCase clamp() {
  CaseBuilder<moe_clamp_args> b(MOE_OP_CLAMP, 1);
  constexpr int64_t n = 512, d = 4096;
  b.args.limit = 1;
  b.f32(b.args.x, {n, d}, true);
  b.output(b.args.out, {n, d});
  return {"512 rows of 4096", b.build(n, kAnything), 0, 8.0 * n * d, 0};
}

PerfCase argmax() {
  CaseBuilder<moe_argmax_args> b(MOE_OP_ARGMAX, 1);
  constexpr int64_t n = 32, d = 151936;
  b.f32(b.args.x, {n, d}, true);
  const size_t ids = b.i32(b.args.ids, {n}, true, [](int64_t) { return 0; });
  b.array(ids).output = true;
  return {"32 rows of 151,936", b.build(n, kAnything), 0, 4.0 * n * d, 0};
}

}  // namespace

PerfCase perf_case(size_t index) {
  switch (index) {
    case 0:
      return embed();
    case 1:
      return norm();
    case 2:
      return matmul("1 token, 8192 x 4096", 1, 8192, 4096, MOE_BF16);
    case 3:
      return matmul("256 tokens, 2048 x 2048", 256, 2048, 2048, MOE_BF16);
    case 4:
      return grouped_matmul();
    case 5:
      return rope();
    case 6:
      return cache_store();
    case 7:
      return attention("1 token over 8192", 1, 8192);
    case 8:
      return attention("256 tokens over 1024", 256, 1024);
    case 9:
      return route();
    case 10:
      return activation();
    case 11:
      return ffn("1 token, 8 of 16 experts, 1024 x 1024", 1);
    case 12:
      return ffn("128 tokens, 8 of 16 experts, 1024 x 1024", 128);
    case 13:
      return combine();
    case 14:
      return add();
    case 15:
      return gather();
    case 16:
      return identity();
    case 17:
      return clamp();
    default:
      return argmax();
  }
}

}  // namespace patchbay::conformance
