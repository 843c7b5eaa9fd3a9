// A row's bits depend on that row alone: whole calls against the same rows in pieces, on other numbers of threads, in
// random cases.
#include <numeric>

#include "open_cpu.hpp"

namespace patchbay::test {
namespace {

constexpr int32_t kThreads = 3;

class Invariance : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (cpu_.backend() == nullptr) GTEST_SKIP() << cpu_.error().message;
  }

  const moe_weight* weight(Random& random, int64_t groups, int64_t n_out, int64_t n_in, const char* wanted) {
    values_.resize(static_cast<size_t>(groups * n_out * n_in));
    for (float& v : values_) v = static_cast<float>(random.uniform(-1, 1));
    auto source = moe::make<moe_weight_source>();
    source.name = "random";
    source.encoding = "f32";
    source.wanted = wanted;
    source.n_groups = groups;
    source.n_out = n_out;
    source.n_in = n_in;
    source.uses = MOE_USE_MATMUL;
    width_ = n_in;
    height_ = n_out;
    source.context = this;
    source.read_f32 = [](void* context, int64_t group, int64_t row, int64_t n_rows, float* out) {
      const auto& t = *static_cast<Invariance*>(context);
      std::copy_n(t.values_.data() + (group * t.height_ + row) * t.width_, n_rows * t.width_, out);
    };
    auto prepared = moe::make<moe_prepared>();
    const BackendUnderTest& b = *cpu_.backend();
    EXPECT_EQ(b.backend().prepare(b.instance(), &source, &prepared, message_.get()), MOE_OK) << message_.text();
    prepared_.push_back(prepared);
    return prepared.weight;
  }
  void TearDown() override {
    for (auto& p : prepared_) p.release(&p);
  }
  void release_weights() {
    for (auto& p : prepared_) p.release(&p);
    prepared_.clear();
  }

  // Runs args on `threads` threads, found with `largest`.
  template <typename Args>
  void run(const char* op, const Args& largest, Args args, int32_t threads) {
    host_.limit_threads(threads);
    const BackendUnderTest& b = *cpu_.backend();
    auto info = moe::make<moe_op_info>();
    ASSERT_EQ(b.backend().find_op(b.instance(), op, &largest.header, &info, message_.get()), MOE_OK) << message_.text();
    workspace_.assign(info.workspace_bytes / 8 + 16, ~uint64_t{0});  // NaN: what is read before it is written shows
    args.header.workspace = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace_.data()) + 63) / 64 * 64);
    args.header.workspace_bytes = info.workspace_bytes;
    ASSERT_EQ(b.backend().launch(b.instance(), info.op, &args.header, nullptr, message_.get()), MOE_OK)
        << message_.text();
  }

  // Rows [0, n) cut at random: calls f(first, count).
  template <typename F>
  static void in_pieces(Random& random, int64_t n, F&& f) {
    for (int64_t i = 0; i < n;) {
      const int64_t take = std::min(n - i, 1 + random.below(random.chance(0.5) ? 3 : n));
      f(i, take);
      i += take;
    }
  }
  static moe_tensor rows(moe_tensor t, int64_t first, int64_t n) {
    if (!moe::present(t)) return t;
    t.data = static_cast<char*>(t.data) + first * t.strides[0] * dtype_bytes(t.dtype);
    t.shape[0] = n;
    return t;
  }
  static std::vector<float> floats(Random& random, int64_t n) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = static_cast<float>(random.uniform(-1, 1));
    return v;
  }

  TestHost host_{kThreads};
  OpenCpu cpu_{host_, GetParam()};
  moe::MessageBuffer message_;
  std::vector<moe_prepared> prepared_;
  std::vector<float> values_;
  int64_t width_ = 0;
  int64_t height_ = 0;
  std::vector<uint64_t> workspace_;
};

constexpr const char* kWanted[] = {"f32", "bf16", "f16", "int8", "int4"};
constexpr int32_t kActivations[] = {MOE_F32, MOE_BF16, MOE_F16, MOE_I8};

TEST_P(Invariance, matmul_in_pieces_gives_the_same_bits) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Random random(seed);
    const int64_t n = 1 + random.below(random.chance(0.2) ? 230 : 20);
    const int64_t n_out = 1 + random.below(300);
    const int64_t n_in = 1 + random.below(random.chance(0.2) ? 1500 : 130);
    auto args = moe::op_args<moe_matmul_args>();
    args.weight = weight(random, 1, n_out, n_in, kWanted[random.below(5)]);
    std::vector<float> x = floats(random, n * n_in);
    std::vector<float> whole(static_cast<size_t>(n * n_out), NAN);
    std::vector<float> pieces = whole;
    args.x = moe::tensor(x.data(), {n, n_in});
    args.out = moe::tensor(whole.data(), {n, n_out});
    args.scale = 1;
    args.activation = kActivations[random.below(4)];
    run(MOE_OP_MATMUL, args, args, kThreads);
    in_pieces(random, n, [&](int64_t first, int64_t count) {
      auto part = args;
      part.x = rows(args.x, first, count);
      part.out = rows(moe::tensor(pieces.data(), {n, n_out}), first, count);
      run(MOE_OP_MATMUL, args, part, static_cast<int32_t>(1 + random.below(kThreads)));
    });
    ASSERT_EQ(std::memcmp(whole.data(), pieces.data(), whole.size() * 4), 0) << "seed " << seed;
    release_weights();
  }
}

TEST_P(Invariance, ffn_in_pieces_gives_the_same_bits) {
  for (uint64_t seed = 1; seed <= 250; ++seed) {
    Random random(seed + 1000);
    const int64_t n = 1 + random.below(random.chance(0.2) ? 150 : 12);
    // Some so large that a call with few rows keeps every sum, and with many does not.
    const bool large = random.chance(0.08);
    const int64_t d = large ? 500 + random.below(200) : 1 + random.below(140);
    const int64_t width = large ? 500 + random.below(200) : 1 + random.below(140);
    const int64_t experts = 1 + random.below(8);
    const int64_t k = 1 + random.below(experts);
    const char* wanted = kWanted[random.below(5)];
    auto args = moe::op_args<moe_ffn_args>();
    args.gate = weight(random, experts, width, d, wanted);
    args.up = weight(random, experts, width, d, wanted);
    args.down = weight(random, experts, d, width, wanted);
    std::vector<float> x = floats(random, n * d);
    std::vector<float> weights = floats(random, n * k);
    std::vector<int32_t> ids(static_cast<size_t>(n * k));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t first = random.below(experts);
      for (int64_t j = 0; j < k; ++j)
        ids[static_cast<size_t>(i * k + j)] = static_cast<int32_t>((first + 3 * j) % experts);
    }
    std::vector<float> whole = floats(random, n * d);
    std::vector<float> pieces = whole;
    args.x = moe::tensor(x.data(), {n, d});
    args.ids = moe::tensor(ids.data(), {n, k});
    args.weights = moe::tensor(weights.data(), {n, k});
    args.out = moe::tensor(whole.data(), {n, d});
    args.n_experts = experts;
    args.width = width;
    args.gating.kind = MOE_ACT_SILU;
    args.activation = kActivations[random.below(4)];
    args.weight_on = random.chance(0.3) ? MOE_WEIGHT_ON_INPUT : MOE_WEIGHT_ON_OUTPUT;
    args.accumulate = random.chance(0.5) ? 1 : 0;
    args.scale = 0.5F;
    run(MOE_OP_FFN, args, args, kThreads);
    in_pieces(random, n, [&](int64_t first, int64_t count) {
      auto part = args;
      part.x = rows(args.x, first, count);
      part.ids = rows(args.ids, first, count);
      part.weights = rows(args.weights, first, count);
      part.out = rows(moe::tensor(pieces.data(), {n, d}), first, count);
      run(MOE_OP_FFN, args, part, static_cast<int32_t>(1 + random.below(kThreads)));
    });
    ASSERT_EQ(std::memcmp(whole.data(), pieces.data(), whole.size() * 4), 0) << "seed " << seed;
    release_weights();
  }
}

// Copies [rows, heads, dim] so that the rows of a head lie one after the other, and lets the tensor show it so.
std::vector<char> lay_by_head(moe_tensor& t) {
  const int64_t bytes = t.dtype == MOE_F32 ? 4 : 2;
  const int64_t row_bytes = t.shape[2] * bytes;
  const auto* from = static_cast<const char*>(t.data);
  std::vector<char> to(static_cast<size_t>(t.shape[0] * t.shape[1] * row_bytes));
  for (int64_t i = 0; i < t.shape[0]; ++i) {
    for (int64_t h = 0; h < t.shape[1]; ++h) {
      std::memcpy(to.data() + (h * t.shape[0] + i) * row_bytes, from + (i * t.strides[0] + h * t.strides[1]) * bytes,
                  static_cast<size_t>(row_bytes));
    }
  }
  t.data = to.data();
  t.strides[0] = t.shape[2];
  t.strides[1] = t.shape[0] * t.shape[2];
  return to;
}

// A sequence's positions in one call, or in chunks down to one at a time; other sequences beside it or not; contexts
// beyond one span of positions, so that spans run in one task and in many; the cache's rows by token or by head.
TEST_P(Invariance, attention_in_chunks_gives_the_same_bits) {
  for (uint64_t seed = 1; seed <= 450; ++seed) {
    Random random(seed + 5000);
    const bool is_long = random.chance(0.15);
    const bool latent = random.chance(0.3);
    const int64_t n = 1 + random.below(random.chance(0.3) ? 60 : 8);
    const int64_t kv_heads = latent ? 1 : 1 + random.below(3);
    const int64_t heads = kv_heads * (1 + random.below(latent ? 20 : 5));
    const int64_t v_dim = random.chance(0.2) ? 120 + random.below(80) : 1 + random.below(70);
    const int64_t k_dim = latent ? v_dim + random.below(20) : random.chance(0.5) ? v_dim : 1 + random.below(70);
    const int64_t page = 1 + random.below(40);
    const int64_t context = n + random.below(is_long ? 3000 : 200);
    const int64_t pages = (context + page - 1) / page;
    const int32_t dtype = random.pick<int32_t>({MOE_F32, MOE_F16, MOE_BF16});
    auto args = moe::op_args<moe_attention_args>();
    std::vector<float> q = floats(random, n * heads * k_dim);
    std::vector<float> k = floats(random, pages * page * kv_heads * k_dim);
    std::vector<float> v = floats(random, pages * page * kv_heads * v_dim);
    const auto as_dtype = [&](std::vector<float>& x) {
      auto* half = reinterpret_cast<uint16_t*>(x.data());
      for (size_t i = 0; dtype != MOE_F32 && i < x.size(); ++i) {
        const float value = x[i];
        half[i] = dtype == MOE_F16 ? moe::f32_to_f16(value) : moe::f32_to_bf16(value);
      }
    };
    as_dtype(k);
    as_dtype(v);
    std::vector<float> whole(static_cast<size_t>(n * heads * v_dim), NAN);
    std::vector<float> pieces = whole;
    std::vector<int32_t> sequences(static_cast<size_t>(n), 0);
    std::vector<int32_t> positions(sequences.size());
    std::vector<int32_t> table(static_cast<size_t>(pages));
    for (int64_t i = 0; i < n; ++i) positions[static_cast<size_t>(i)] = static_cast<int32_t>(context - n + i);
    for (int64_t i = 0; i < pages; ++i) table[static_cast<size_t>(i)] = static_cast<int32_t>((i * 7 + 3) % pages);
    if (std::gcd(7, pages) != 1) {
      for (int64_t i = 0; i < pages; ++i) table[static_cast<size_t>(i)] = static_cast<int32_t>(pages - 1 - i);
    }
    args.q = moe::tensor(q.data(), {n, heads, k_dim});
    args.k = moe::tensor(k.data(), dtype, {pages * page, kv_heads, k_dim});
    args.v = moe::tensor(latent ? k.data() : v.data(), dtype, {pages * page, kv_heads, v_dim});
    if (latent) args.v.strides[0] = args.v.strides[1] = k_dim;
    args.out = moe::tensor(whole.data(), {n, heads, v_dim});
    args.sequences = moe::tensor(sequences.data(), {n});
    args.positions = moe::tensor(positions.data(), {n});
    args.pages.page_table = moe::tensor(table.data(), {1, pages});
    args.pages.page_size = page;
    args.window = random.chance(0.3) ? 1 + random.below(context) : 0;
    args.scale = 0.3F;
    args.soft_cap = random.chance(0.2) ? 5.0F : 0.0F;
    std::vector<float> sinks = floats(random, heads);
    if (random.chance(0.3)) args.sinks = moe::tensor(sinks.data(), {heads});
    run(MOE_OP_ATTENTION, args, args, kThreads);
    auto by_head = args;  // the rows of a head one after the other, instead of those of a token
    const std::vector<char> heads_of_k = lay_by_head(by_head.k);
    const std::vector<char> heads_of_v = lay_by_head(by_head.v);
    in_pieces(random, n, [&](int64_t first, int64_t count) {
      auto part = random.chance(0.5) ? args : by_head;
      part.q = rows(args.q, first, count);
      part.sequences = rows(args.sequences, first, count);
      part.positions = rows(args.positions, first, count);
      part.out = rows(moe::tensor(pieces.data(), {n, heads, v_dim}), first, count);
      run(MOE_OP_ATTENTION, args, part, static_cast<int32_t>(1 + random.below(kThreads)));
    });
    ASSERT_EQ(std::memcmp(whole.data(), pieces.data(), whole.size() * 4), 0) << "seed " << seed;
    for (const float x : whole) ASSERT_TRUE(std::isfinite(x)) << "seed " << seed;
    // Every tenth also against the loops: contexts here are longer than in the conformance cases.
    if (seed % 10 != 0) continue;
    const moe::loops::LoopContext context_of_loops{nullptr, nullptr};
    auto want_args = args;
    want_args.out = moe::tensor(pieces.data(), {n, heads, v_dim});
    std::vector<uint64_t> space(moe::loops::attention_workspace(args, context_of_loops) / 8 + 16);
    want_args.header.workspace = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(space.data()) + 63) / 64 * 64);
    want_args.header.workspace_bytes = space.size() * 8 - 64;
    ASSERT_TRUE(moe::loops::attention(want_args, context_of_loops).ok());
    // Values are at most 1, weights sum to 1; an error of a score is an error of its weight, relative.
    const double tolerance = 2e-5;
    for (size_t i = 0; i < whole.size(); ++i) {
      if (!(std::fabs(whole[i] - pieces[i]) <= tolerance)) {
        FAIL() << "seed " << seed << " element " << i << ": expected " << pieces[i] << ", got " << whole[i];
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Invariance, testing::Values("auto", "avx2"),
                         [](const auto& simd) { return std::string(simd.param); });

}  // namespace
}  // namespace patchbay::test
