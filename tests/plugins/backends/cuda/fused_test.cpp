// Operations in order against the same in one (moe.backend.fused/1), on a device.
#include "plugins/backends/cuda/on_device.hpp"

namespace patchbay::test {
namespace {

// Heads of queries and keys in one row, as the engine has them.
struct AttentionShape {
  int64_t n, heads, kv_heads, dim, n_rot;
  bool whole;  // one norm over all heads
};

// Norms, ropes, stores and attention; what the caches and the output come to.
struct ChainResult {
  std::vector<float> k, v, out;
};
ChainResult run_chain(OnDevice& device, const AttentionShape& s, Random random, bool fused,
                      const std::function<std::vector<float>(Random&, int64_t)>& numbers) {
  const int64_t q_dim = s.heads * s.dim;
  const int64_t kv_dim = s.kv_heads * s.dim;
  const int64_t width = q_dim + 2 * kv_dim;
  constexpr int64_t kPage = 4;
  const int64_t n_pages = (s.n + kPage - 1) / kPage;
  const moe_tensor qkv = device.put(numbers(random, s.n * width), {s.n, width});
  const auto part = [&](int64_t begin, int64_t heads, int64_t dim) { return columns_of(qkv, begin, heads, dim); };
  std::vector<int32_t> positions;
  std::vector<int64_t> rows;
  std::vector<int32_t> table;
  for (int64_t i = 0; i < s.n; ++i) {
    positions.push_back(static_cast<int32_t>(i));
    rows.push_back(i);
  }
  for (int64_t i = 0; i < n_pages; ++i) table.push_back(static_cast<int32_t>(i));
  auto q_norm = moe::op_args<moe_norm_args>();
  q_norm.x = q_norm.out = s.whole ? part(0, 0, q_dim) : part(0, s.heads, s.dim);
  q_norm.weight = device.put(numbers(random, s.whole ? q_dim : s.dim), {s.whole ? q_dim : s.dim});
  q_norm.eps = 1e-6F;
  q_norm.kind = MOE_NORM_RMS;
  moe_norm_args k_norm = q_norm;
  k_norm.x = k_norm.out = s.whole ? part(q_dim, 0, kv_dim) : part(q_dim, s.kv_heads, s.dim);
  k_norm.weight = device.put(numbers(random, s.whole ? kv_dim : s.dim), {s.whole ? kv_dim : s.dim});
  auto q_rope = moe::op_args<moe_rope_args>();
  q_rope.x = part(0, s.heads, s.dim);
  q_rope.positions = device.put(positions, {s.n});
  q_rope.inv_freq = device.put(numbers(random, s.n_rot / 2), {s.n_rot / 2});
  q_rope.scale = 1.0F;
  moe_rope_args k_rope = q_rope;
  k_rope.x = part(q_dim, s.kv_heads, s.dim);
  auto k_store = moe::op_args<moe_cache_store_args>();
  k_store.x = part(q_dim, 0, kv_dim);
  k_store.rows = device.put(rows, {s.n});
  const int64_t n_rows = n_pages * kPage;
  k_store.cache = device.put(std::vector<float>(static_cast<size_t>(n_rows * kv_dim)), {n_rows, kv_dim});
  moe_cache_store_args v_store = k_store;
  v_store.x = part(q_dim + kv_dim, 0, kv_dim);
  v_store.cache = device.put(std::vector<float>(static_cast<size_t>(n_rows * kv_dim)), {n_rows, kv_dim});
  auto attention = moe::op_args<moe_attention_args>();
  attention.q = q_rope.x;
  attention.k = moe::tensor(k_store.cache.data, MOE_F32, {n_rows, s.kv_heads, s.dim}, k_store.cache.device);
  attention.v = moe::tensor(v_store.cache.data, MOE_F32, {n_rows, s.kv_heads, s.dim}, k_store.cache.device);
  attention.sequences = device.put(std::vector<int32_t>(static_cast<size_t>(s.n)), {s.n});
  attention.positions = q_rope.positions;
  attention.pages = {device.put(table, {1, n_pages}), kPage};
  attention.out = device.put(std::vector<float>(static_cast<size_t>(s.n * q_dim)), {s.n, s.heads, s.dim});
  attention.scale = 1.0F / std::sqrt(static_cast<float>(s.dim));
  const std::vector<const char*> ids = {MOE_OP_NORM,        MOE_OP_NORM,        MOE_OP_ROPE,     MOE_OP_ROPE,
                                        MOE_OP_CACHE_STORE, MOE_OP_CACHE_STORE, MOE_OP_ATTENTION};
  moe_op_args* const args[] = {&q_norm.header,  &k_norm.header,  &q_rope.header,   &k_rope.header,
                               &k_store.header, &v_store.header, &attention.header};
  if (fused) {
    EXPECT_TRUE(device.launch_fused(ids, {std::begin(args), std::end(args)}, 0x0F));
  } else {
    for (size_t i = 0; i < ids.size(); ++i) device.launch(ids[i], *args[i]);
  }
  return {device.get<float>(k_store.cache.data, n_rows * kv_dim),
          device.get<float>(v_store.cache.data, n_rows * kv_dim), device.get<float>(attention.out.data, s.n * q_dim)};
}

TEST_F(Fused, norms_ropes_stores_and_attention_are_those_one_by_one) {
  const AttentionShape shapes[] = {{1, 4, 2, 16, 16, false},
                                   {5, 4, 4, 128, 128, true},
                                   {3, 8, 2, 64, 32, false},
                                   {9, 3, 1, 20, 20, true},
                                   {70, 16, 16, 128, 128, true}};
  for (const auto& shape : shapes) {
    OnDevice device(*backend_);
    const auto numbers_of = [](Random& r, int64_t n) { return numbers(r, n); };
    const ChainResult one_by_one = run_chain(device, shape, Random(7), false, numbers_of);
    const ChainResult together = run_chain(device, shape, Random(7), true, numbers_of);
    const std::string text =
        "n " + std::to_string(shape.n) + " heads " + std::to_string(shape.heads) + " dim " + std::to_string(shape.dim);
    expect_near(together.k, one_by_one.k, text + " k");
    expect_near(together.v, one_by_one.v, text + " v");
    expect_near(together.out, one_by_one.out, text + " out");
  }
}

// A norm of random rows, and a product of what it gives.
struct NormAndProduct {
  int64_t n, n_in, n_out;
  moe_norm_args norm = moe::op_args<moe_norm_args>();
  moe_matmul_args product = moe::op_args<moe_matmul_args>();

  // The arguments again, with outputs that nothing was written to.
  void clear(OnDevice& device) {
    norm.out = product.x = device.put(std::vector<float>(static_cast<size_t>(n * n_in)), {n, n_in});
    product.out = device.put(std::vector<float>(static_cast<size_t>(n * n_out)), {n, n_out});
  }
  void launch_one_by_one(OnDevice& device) {
    device.launch(MOE_OP_NORM, norm.header);
    device.launch(MOE_OP_MATMUL, product.header);
  }
  bool launch_fused(OnDevice& device, uint32_t temporary) {
    return device.launch_fused({MOE_OP_NORM, MOE_OP_MATMUL}, {&norm.header, &product.header}, temporary);
  }
  [[nodiscard]] std::vector<float> normed(OnDevice& device) const { return device.get<float>(norm.out.data, n * n_in); }
  [[nodiscard]] std::vector<float> out(OnDevice& device) const {
    return device.get<float>(product.out.data, n * n_out);
  }
};

class FusedProduct : public Fused {
 protected:
  static NormAndProduct make(OnDevice& device, int64_t n, int64_t n_in, int64_t n_out, const char* encoding,
                             int32_t activation) {
    Random random(static_cast<uint64_t>(n * n_in));
    NormAndProduct p{n, n_in, n_out};
    p.product.weight = device.weight(numbers(random, n_out * n_in), n_out, n_in, encoding);
    p.product.scale = 0.5F;
    p.product.activation = activation;
    p.norm.x = device.put(numbers(random, n * n_in, 3.0), {n, n_in});
    p.norm.weight = device.put(numbers(random, n_in), {n_in});
    p.norm.eps = 1e-5F;
    p.norm.kind = MOE_NORM_RMS;
    p.clear(device);
    return p;
  }
};

TEST_F(FusedProduct, a_norm_and_a_product_are_those_one_by_one) {
  for (const char* wanted : {"f32", "bf16", "int8", "fp8"}) {
    for (const int64_t n : {1, 2, 7, 40}) {
      for (const auto& [n_in, n_out] : {std::pair<int64_t, int64_t>{64, 33}, {100, 17}, {2048, 200}}) {
        OnDevice device(*backend_);
        NormAndProduct p = make(device, n, n_in, n_out, wanted, MOE_F32);
        p.launch_one_by_one(device);
        const auto normed = p.normed(device);
        const auto want = p.out(device);
        p.clear(device);
        if (!p.launch_fused(device, 0)) GTEST_SKIP() << "no faster way";
        const std::string text = std::string(wanted) + " n " + std::to_string(n) + " in " + std::to_string(n_in);
        expect_near(p.normed(device), normed, text + " norm");
        expect_near(p.out(device), want, text);
      }
    }
  }
}

// Rows that nobody else reads: the norm writes them as the product wants them.
TEST_F(FusedProduct, a_norm_whose_rows_only_the_product_reads_gives_the_same_bits) {
  for (const auto& [wanted, activation] :
       {std::pair<const char*, int32_t>{"bf16", MOE_BF16}, {"f16", MOE_F16}, {"fp8", MOE_BF16}}) {
    for (const auto& [n, n_in] : {std::pair<int64_t, int64_t>{33, 64}, {40, 100}, {150, 2048}}) {
      OnDevice device(*backend_);
      NormAndProduct p = make(device, n, n_in, 200, wanted, activation);
      p.launch_one_by_one(device);
      const auto want = p.out(device);
      p.clear(device);
      constexpr uint32_t kOnlyForTheProduct = 1;
      if (!p.launch_fused(device, kOnlyForTheProduct)) GTEST_SKIP() << "no faster way";
      EXPECT_EQ(p.out(device), want) << wanted << " n " << n << " in " << n_in;
    }
  }
}

}  // namespace
}  // namespace patchbay::test
