// Random cases of rope, cache_store and attention.
#include "tools/conformance/ops/op_cases.hpp"
#include "tools/conformance/ops/op_parts.hpp"

namespace patchbay::conformance {

OpCase rope_case(uint64_t seed) {
  CaseBuilder<moe_rope_args> b(MOE_OP_ROPE, seed);
  const int64_t n = some_rows(b.random);
  const int64_t heads = 1 + b.random.below(5);
  const int64_t half = b.random.pick<int64_t>({1, 2, 3, 4, 5, 8, 9, 16, 17, 32});
  const int64_t before = b.random.pick<int64_t>({0, 0, 1, 4, 16});
  const int64_t dim = before + 2 * half + b.random.pick<int64_t>({0, 0, 1, 3});
  b.args.offset = before;
  b.args.interleaved = b.random.chance(0.5) ? 1 : 0;
  b.args.scale = b.random.chance(0.6) ? 1.0F : static_cast<float>(b.random.uniform(0.5, 1.5));
  b.note("n", n);
  b.note("heads", heads);
  b.note("dim", dim);
  b.note("half", half);
  b.note("offset", before);
  b.note("interleaved", b.args.interleaved);
  const size_t x = b.f32(b.args.x, {n, heads, dim}, true);
  const int64_t reach = b.random.pick<int64_t>({10, 5000, 2000000});  // an angle in f32 would be off by 0.1 at the last
  b.i32(b.args.positions, {n}, true, [&](int64_t) { return static_cast<int32_t>(b.random.below(reach)); });
  const size_t f = b.vector(b.args.inv_freq, half, 0, 1);
  for (int64_t i = 0; i < half; ++i) {
    b.array(f).as<float>()[i] =
        static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half)));
  }
  size_t out = x;
  if (b.random.chance(0.4)) {
    out = b.output(b.args.out, {n, heads, dim});  // what is not rotated stays as it is there
  } else {
    b.array(x).output = true;
  }
  b.note("in_place", static_cast<int64_t>(out == x));
  return b.build(n, [out](const moe_rope_args& a, const WeightRow&, Tolerances& tol) {
    const int64_t pairs = a.inv_freq.shape[0];
    const moe_tensor& to = moe::present(a.out) ? a.out : a.x;
    for (int64_t t = 0; t < a.x.shape[0]; ++t) {
      for (int64_t h = 0; h < a.x.shape[1]; ++h) {
        for (int64_t i = 0; i < pairs; ++i) {
          const int64_t first = a.offset + (a.interleaved != 0 ? 2 * i : i);
          const int64_t second = a.interleaved != 0 ? first + 1 : first + pairs;
          const double m = a.scale * (std::fabs(value(a.x, t, h, first)) + std::fabs(value(a.x, t, h, second)));
          tol[out][index_of(to, t, h, first)] = tol[out][index_of(to, t, h, second)] = 8 * kUnit * m;
        }
      }
    }
  });
}

OpCase cache_store_case(uint64_t seed, int32_t dtype) {
  CaseBuilder<moe_cache_store_args> b(MOE_OP_CACHE_STORE, seed);
  const int64_t n = some_rows(b.random);
  const int64_t heads = b.random.pick<int64_t>({1, 1, 1, 2, 5});
  const int64_t dim = heads * some_width(b.random);
  const int64_t n_cache = n + 5;
  b.note("heads", heads);
  b.note("n", n);
  b.note("dim", dim);
  b.note("dtype", dtype);
  const size_t x =
      b.f32(b.args.x, {n, dim}, true, b.random.pick({1e-6, 1.0, 1e5}));  // subnormal and infinite halves among them
  for (int64_t i = 0; i < b.array(x).n; i += 3) {                        // and values half-way between two of bf16
    auto* bits = b.array(x).as<uint32_t>();
    bits[i] = (bits[i] & 0xFFFF0000U) | 0x8000U;
  }
  std::vector<int64_t> order(static_cast<size_t>(n_cache));
  for (int64_t i = 0; i < n_cache; ++i) order[static_cast<size_t>(i)] = i;
  for (int64_t i = n_cache - 1; i > 0; --i)
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(b.random.below(i + 1))]);
  const size_t rows = b.tensor(b.args.rows, MOE_I64, {n}, true);
  for (int64_t i = 0; i < b.array(rows).n && i < n_cache; ++i) {
    b.array(rows).as<int64_t>()[i] = b.random.chance(0.2) ? -1 : order[static_cast<size_t>(i)];
  }
  size_t cache = 0;
  if (heads == 1) {
    cache = b.tensor(b.args.cache, dtype, {n_cache, dim}, false);
  } else {
    b.args.header.must_understand = MOE_CACHE_STORE_HEADS;
    cache = b.tensor(b.args.cache, dtype, {heads, n_cache, dim / heads}, false);
    std::swap(b.args.cache.shape[0], b.args.cache.shape[1]);  // a head's rows lie one after the other
    std::swap(b.args.cache.strides[0], b.args.cache.strides[1]);
  }
  b.array(cache).output = true;
  return b.build(n, [](const moe_cache_store_args&, const WeightRow&, Tolerances&) {});  // rounded the one right way
}

// The tolerance of one head of one token: the error of the scores changes every weight, that of the weighted sum comes
// on top.
static void attention_tolerance(const moe_attention_args& a, int64_t i, int64_t h, std::vector<double>& tol) {
  const int64_t last = element<int32_t>(a.positions, i);
  int64_t first = a.window > 0 ? std::max<int64_t>(0, last - a.window + 1) : 0;
  if (a.chunk > 0) first = std::max(first, last / a.chunk * a.chunk);
  double scale = a.scale;
  if (a.temperature > 0) {
    const int64_t lengths = (last + a.temperature_offset) / a.temperature_length;
    scale *= 1 + a.temperature * std::log(1.0 + static_cast<double>(lengths));
  }
  const int64_t kv = h * (a.k.ndim == 3 ? a.k.shape[1] : 1) / a.q.shape[1];
  const auto* pages = static_cast<const int32_t*>(a.pages.page_table.data) +
                      element<int32_t>(a.sequences, i) * a.pages.page_table.strides[0];
  const auto at = [&](int64_t p) { return pages[p / a.pages.page_size] * a.pages.page_size + p % a.pages.page_size; };
  std::vector<double> s;
  double error = 0.0;
  double largest = moe::present(a.sinks) ? static_cast<const float*>(a.sinks.data)[h] : -INFINITY;
  for (int64_t p = first; p <= last; ++p) {
    double dot = 0.0;
    double size = 0.0;
    for (int64_t c = 0; c < a.q.shape[2]; ++c) {
      const double term = scale * value(a.q, i, h, c) * value(a.k, at(p), kv, c);
      dot += term;
      size += std::fabs(term);
    }
    s.push_back(a.soft_cap > 0 ? a.soft_cap * std::tanh(dot / a.soft_cap) : dot);
    error = std::max(error, kSumUnits * (size + a.soft_cap));
    largest = std::max(largest, s.back());
  }
  double sum = moe::present(a.sinks) ? std::exp(static_cast<const float*>(a.sinks.data)[h] - largest) : 0.0;
  for (double& v : s) sum += v = std::exp(v - largest);
  for (int64_t c = 0; c < a.out.shape[2]; ++c) {
    double m = 0.0;
    for (int64_t p = first; p <= last; ++p)
      m += s[static_cast<size_t>(p - first)] / sum * std::fabs(value(a.v, at(p), kv, c));
    tol[static_cast<size_t>(index_of(a.out, i, h, c))] = m * (2.0 * error + kSumUnits);
  }
}

static AttentionShape some_attention_shape(Random& random, bool latent) {
  AttentionShape s{};
  s.n_sequences = 1 + random.below(4);
  s.page_size = random.pick<int64_t>({1, 4, 16});
  s.max_pages = random.pick<int64_t>({1, 3, 9});
  s.n = some_rows(random);
  s.kv_heads = latent ? 1 : random.pick<int64_t>({1, 2, 3});
  s.heads = s.kv_heads * random.pick<int64_t>({1, 2, 4, 7});
  s.v_dim = random.pick<int64_t>({1, 4, 7, 8, 16, 17, 32, 64, 65});
  s.k_dim = latent ? s.v_dim + random.pick<int64_t>({2, 8, 16}) : (random.chance(0.5) ? s.v_dim : some_width(random));
  return s;
}

OpCase attention_case_of(CaseBuilder<moe_attention_args>& b, const AttentionShape& shape, int32_t dtype, bool latent) {
  const auto& [n_sequences, page_size, max_pages, n, kv_heads, heads, v_dim, k_dim] = shape;
  const int64_t n_positions = max_pages * page_size;  // of a sequence
  const int64_t n_rows = n_sequences * n_positions;
  b.args.window = b.random.pick<int64_t>({0, 0, 1, 3, 17, 1000});
  b.args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(k_dim)));
  b.args.soft_cap = b.random.chance(0.3) ? static_cast<float>(b.random.uniform(1, 50)) : 0.0F;
  if (b.random.chance(0.3)) {
    b.args.chunk = b.random.pick<int64_t>({1, 4, 11});
    b.args.header.must_understand |= MOE_ATTENTION_CHUNK;
  }
  if (b.random.chance(0.3)) {
    b.args.temperature = 0.3F;
    b.args.temperature_length = b.random.pick<int64_t>({1, 3, 20});
    b.args.temperature_offset = static_cast<int32_t>(b.random.below(2));
    b.args.header.must_understand |= MOE_ATTENTION_TEMPERATURE;
  }
  b.args.pages.page_size = page_size;
  for (const auto& [name, v] :
       std::initializer_list<std::pair<const char*, int64_t>>{{"n", n},
                                                              {"heads", heads},
                                                              {"kv_heads", kv_heads},
                                                              {"k_dim", k_dim},
                                                              {"v_dim", v_dim},
                                                              {"dtype", dtype},
                                                              {"latent", latent},
                                                              {"page_size", page_size},
                                                              {"max_pages", max_pages},
                                                              {"window", b.args.window},
                                                              {"chunk", b.args.chunk},
                                                              {"temperature_length", b.args.temperature_length}}) {
    b.note(name, v);
  }
  b.f32(b.args.q, {n, heads, k_dim}, true, b.random.pick({1.0, 1.0, 20.0}));
  const auto fill = [&](size_t a) {
    for (int64_t i = 0; i < b.array(a).n; ++i) {
      const auto v = static_cast<float>(b.random.uniform(-2, 2));
      if (dtype == MOE_F32) {
        b.array(a).template as<float>()[i] = v;
      } else {
        b.array(a).template as<uint16_t>()[i] = dtype == MOE_F16 ? moe::f32_to_f16(v) : moe::f32_to_bf16(v);
      }
    }
  };
  const size_t k = b.tensor(b.args.k, dtype, {n_rows, kv_heads, k_dim}, false);
  fill(k);
  if (latent) {
    b.args.v = b.args.k;
    b.args.v.shape[2] = v_dim;
    b.view(b.args.v, k, 0, false);
  } else {
    fill(b.tensor(b.args.v, dtype, {n_rows, kv_heads, v_dim}, false));
  }
  std::vector<int32_t> pages(static_cast<size_t>(n_sequences * max_pages));
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
  for (size_t i = pages.size() - 1; i > 0; --i)
    std::swap(pages[i], pages[static_cast<size_t>(b.random.below(static_cast<int64_t>(i) + 1))]);
  b.i32(
      b.args.pages.page_table, {n_sequences, max_pages}, false,
      [&](int64_t i) { return pages[static_cast<size_t>(i)]; }, false);
  b.i32(b.args.sequences, {n}, true, [&](int64_t) { return static_cast<int32_t>(b.random.below(shape.n_sequences)); });
  b.i32(b.args.positions, {n}, true,
        [&](int64_t i) { return static_cast<int32_t>(i == 0 ? n_positions - 1 : b.random.below(n_positions)); });
  if (b.random.chance(0.4)) b.vector(b.args.sinks, heads, -3, 3);
  const size_t out = b.output(b.args.out, {n, heads, v_dim});
  return b.build(n, [out](const moe_attention_args& a, const WeightRow&, Tolerances& tol) {
    for (int64_t i = 0; i < a.q.shape[0]; ++i) {
      for (int64_t h = 0; h < a.q.shape[1]; ++h) attention_tolerance(a, i, h, tol[out]);
    }
  });
}

OpCase attention_case(uint64_t seed, int32_t dtype, bool latent) {
  CaseBuilder<moe_attention_args> b(MOE_OP_ATTENTION, seed);
  const AttentionShape shape = some_attention_shape(b.random, latent);
  return attention_case_of(b, shape, dtype, latent);
}

}  // namespace patchbay::conformance
