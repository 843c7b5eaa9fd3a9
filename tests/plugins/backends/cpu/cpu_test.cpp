// Each instruction set of the backend `cpu` against the loops and against the others.
#include <atomic>

#include "moe/sdk/codec.hpp"
#include "moe/sdk/quant.hpp"
#include "open_cpu.hpp"

namespace patchbay::test {
namespace {

class Simd : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (cpu_.backend() == nullptr) GTEST_SKIP() << cpu_.error().message;
  }
  TestHost host_{2};
  OpenCpu cpu_{host_, GetParam()};
};

TEST_P(Simd, agrees_with_the_loops) {
  for (const char* wanted : {"f32", "bf16", "f16", "int8", "int4", "fp8"}) {
    for (const OpCase& c : all_cases("", 3)) {
      if (c.weights.empty() && std::string_view(wanted) != "f32") continue;
      const Outcome outcome = CaseRun(*cpu_.backend(), c, wanted).compare();
      EXPECT_EQ(outcome.kind, Outcome::kSame)
          << c.op << " (" << c.text << " wanted=" << wanted << "): " << outcome.text;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Simd,
                         testing::Values("amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2", "neon", "portable"),
                         [](const auto& simd) { return std::string(simd.param); });

void expect_same_bits(const OpenCpu& a, const OpenCpu& b, const char* wanted) {
  for (const OpCase& c : all_cases("", 4)) {
    const Outcome one = CaseRun(*a.backend(), c, wanted).run();
    const Outcome other = CaseRun(*b.backend(), c, wanted).run();
    ASSERT_EQ(one.kind, Outcome::kSame) << one.text;
    ASSERT_EQ(other.kind, Outcome::kSame) << other.text;
    for (size_t i = 0; i < one.got.size(); ++i) {
      EXPECT_EQ(one.got[i].words, other.got[i].words)
          << c.op << " (" << c.text << " wanted=" << wanted << ") array " << i;
    }
  }
}

TEST(Cpu, avx2_gives_the_bits_of_avx512) {
  TestHost host(2);
  const OpenCpu avx512(host, "avx512");
  const OpenCpu avx2(host, "avx2");
  if (avx512.backend() == nullptr || avx2.backend() == nullptr) GTEST_SKIP() << "not both run here";
  for (const char* wanted : {"f32", "bf16", "f16", "int8", "int4"}) expect_same_bits(avx512, avx2, wanted);
}

// The instructions for bf16 have bits of their own, and only where weights and activations are bf16.
class BF16Instruction : public testing::TestWithParam<const char*> {};
TEST_P(BF16Instruction, gives_the_bits_of_avx512_except_with_bf16_weights) {
  TestHost host(2);
  const OpenCpu plain(host, "avx512");
  const OpenCpu dot(host, GetParam());
  if (plain.backend() == nullptr || dot.backend() == nullptr) GTEST_SKIP() << "not both run here";
  for (const char* wanted : {"f32", "f16", "int8", "int4"}) expect_same_bits(plain, dot, wanted);
}
INSTANTIATE_TEST_SUITE_P(Cpu, BF16Instruction, testing::Values("amx", "avx512_bf16"),
                         [](const auto& simd) { return std::string(simd.param); });

// Where the dot instruction is slow, the best choice is the next; its name still gets it.
TEST(Cpu, auto_leaves_out_avx512_bf16_on_intel_alone) {
#if defined(__x86_64__)
  TestHost host(2);
  const OpenCpu best(host, "auto");
  const OpenCpu dot(host, "avx512_bf16");
  if (dot.backend() == nullptr) GTEST_SKIP() << dot.error().message;
  ASSERT_NE(best.backend(), nullptr);
  const std::string name = best.backend()->description().device_name;
  EXPECT_EQ(name.find("avx512_bf16") == std::string::npos, __builtin_cpu_is("intel") != 0) << name;
#else
  GTEST_SKIP() << "of x86-64";
#endif
}

TEST(Cpu, refuses_an_unknown_instruction_set_by_name) {
  TestHost host;
  const OpenCpu cpu(host, "mmx");
  ASSERT_EQ(cpu.backend(), nullptr);
  EXPECT_EQ(cpu.error().code, MOE_INVALID_ARGUMENT);
  EXPECT_NE(cpu.error().message.find("mmx"), std::string::npos) << cpu.error().message;
  EXPECT_NE(cpu.error().message.find("portable"), std::string::npos) << cpu.error().message;
}

// A weight of given numbers, released at the end of the test.
class PreparedWeight {
 public:
  PreparedWeight(const BackendUnderTest& b, int64_t n_out, int64_t n_in, const char* encoding, const void* raw,
                 const char* wanted)
      : raw_(raw) {
    auto source = moe::make<moe_weight_source>();
    source.name = "test";
    source.encoding = encoding;
    source.wanted = wanted;
    source.n_groups = 1;
    source.n_out = n_out;
    source.n_in = n_in;
    source.uses = MOE_USE_MATMUL;
    source.context = this;
    n_in_ = n_in;
    source.read_f32 = [](void* context, int64_t, int64_t row, int64_t n_rows, float* out) {
      const auto& it = *static_cast<PreparedWeight*>(context);
      std::copy_n(static_cast<const float*>(it.raw_) + row * it.n_in_, n_rows * it.n_in_, out);
    };
    source.raw = [](void* context, int64_t) { return static_cast<PreparedWeight*>(context)->raw_; };
    moe::MessageBuffer message;
    EXPECT_EQ(b.backend().prepare(b.instance(), &source, &prepared_, message.get()), MOE_OK) << message.text();
  }
  ~PreparedWeight() { prepared_.release(&prepared_); }
  PreparedWeight(const PreparedWeight&) = delete;
  PreparedWeight& operator=(const PreparedWeight&) = delete;
  [[nodiscard]] const moe_weight* get() const { return prepared_.weight; }
  [[nodiscard]] std::string encoding() const { return prepared_.encoding; }

 private:
  const void* raw_;
  int64_t n_in_ = 0;
  moe_prepared prepared_ = moe::make<moe_prepared>();
};

// One output of a product as moe/sdk/quant.hpp defines it.
float integer_product(const float* w, const float* x, int64_t n, bool int4, bool integer_activations) {
  float acc = 0.0F;
  for (int64_t k = 0; k < n; k += moe::kQuantGroup) {
    const int64_t count = std::min(moe::kQuantGroup, n - k);
    const moe::QuantGroup a = int4 ? moe::quantize_int4(w + k, count) : moe::quantize_int8(w + k, count);
    if (integer_activations) {
      const moe::QuantGroup b = moe::quantize_activation(x + k, count);
      int32_t sum = 0;
      for (int64_t i = 0; i < count; ++i) sum += a.q[i] * b.q[i];
      acc = std::fma(static_cast<float>(sum), a.scale * b.scale, acc);
    } else {
      float sum = 0.0F;
      for (int64_t i = 0; i < count; ++i) sum = std::fma(static_cast<float>(a.q[i]), x[k + i], sum);
      acc = std::fma(sum, a.scale, acc);
    }
  }
  return acc;
}

TEST_P(Simd, integer_products_have_the_bits_that_the_sdk_defines) {
  if (std::string_view(GetParam()) == "portable") GTEST_SKIP() << "has no fused multiply-add";
  const BackendUnderTest& b = *cpu_.backend();
  Random random(7);
  for (const int64_t n_in : {1, 31, 32, 33, 64, 65, 96, 200}) {
    for (const int64_t n_out : {1, 16, 17, 70}) {
      std::vector<float> w(static_cast<size_t>(n_out * n_in));
      for (float& v : w) v = static_cast<float>(random.uniform(-0.1, 0.1));
      for (const int64_t n : {1, 2, 5, 13}) {
        std::vector<float> x(static_cast<size_t>(n * n_in));
        for (float& v : x) v = static_cast<float>(random.uniform(-3, 3));
        for (const bool int4 : {false, true}) {
          const PreparedWeight weight(b, n_out, n_in, "f32", w.data(), int4 ? "int4" : "int8");
          for (const int32_t activation : {MOE_I8, MOE_F32}) {
            std::vector<float> out(static_cast<size_t>(n * n_out), NAN);
            auto args = moe::op_args<moe_matmul_args>();
            args.weight = weight.get();
            args.x = moe::tensor(x.data(), {n, n_in});
            args.out = moe::tensor(out.data(), {n, n_out});
            args.scale = 1;
            args.activation = activation;
            auto info = moe::make<moe_op_info>();
            moe::MessageBuffer message;
            ASSERT_EQ(b.backend().find_op(b.instance(), MOE_OP_MATMUL, &args.header, &info, message.get()), MOE_OK);
            std::vector<uint64_t> space(info.workspace_bytes / 8 + 16);
            args.header.workspace = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(space.data()) + 63) / 64 * 64);
            args.header.workspace_bytes = info.workspace_bytes;
            ASSERT_EQ(b.backend().launch(b.instance(), info.op, &args.header, nullptr, message.get()), MOE_OK)
                << message.text();
            for (int64_t i = 0; i < n * n_out; ++i) {
              const float want = integer_product(w.data() + i % n_out * n_in, x.data() + i / n_out * n_in, n_in, int4,
                                                 activation == MOE_I8);
              ASSERT_EQ(out[static_cast<size_t>(i)], want)
                  << weight.encoding() << " [" << n_in << " -> " << n_out << "] n " << n << " activation " << activation
                  << " element " << i;
            }
          }
        }
      }
    }
  }
}

// GGUF's blocks become the packed formats without a change of any number.
TEST(Cpu, q8_0_and_q4_0_load_without_a_loss) {
  TestHost host(2);
  const OpenCpu cpu(host, "auto");
  const BackendUnderTest& b = *cpu.backend();
  Random random(11);
  for (const char* encoding : {"q8_0", "q4_0"}) {
    const moe::Encoding& codec = *moe::find_encoding(encoding);
    constexpr int64_t kOut = 37;
    constexpr int64_t kIn = 96;
    const int64_t row_bytes = kIn / codec.block_elements * codec.block_bytes;
    std::vector<uint8_t> raw(static_cast<size_t>(kOut * row_bytes));
    for (auto& byte : raw) byte = static_cast<uint8_t>(random.below(256));
    for (size_t block = 0; block < raw.size(); block += codec.block_bytes)
      raw[block + 1] &= 0x3fU;  // scales that are numbers
    const PreparedWeight weight(b, kOut, kIn, encoding, raw.data(), "auto");
    EXPECT_EQ(weight.encoding(), std::string(encoding) == "q8_0" ? "int8" : "int4");
    for (int64_t r = 0; r < kOut; ++r) {
      std::vector<float> want(kIn);
      std::vector<float> scratch(kIn);
      moe::decode_row(codec, raw.data() + r * row_bytes, kIn, want.data());
      const float* got = b.rows()->row(weight.get(), 0, r, scratch.data());
      for (int64_t k = 0; k < kIn; ++k)
        ASSERT_EQ(got[k], want[static_cast<size_t>(k)]) << encoding << " row " << r << " element " << k;
    }
  }
}

// A source that counts what is asked of it.
struct CountingSource {
  int64_t n_out;
  int64_t n_in;
  std::vector<uint16_t> values;  // bf16 [groups, n_out, n_in]
  std::vector<std::atomic<int>> done;
  std::atomic<int> read{0};
};

TEST(Cpu, packs_stored_bf16_without_a_detour_and_lets_every_matrix_go_once) {
  TestHost host(2);
  const OpenCpu cpu(host, "auto");
  for (const auto& [n_out, n_in] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {16, 2}, {17, 33}, {64, 64}, {100, 7}}) {
    constexpr int64_t kGroups = 5;
    CountingSource s{n_out, n_in, {}, std::vector<std::atomic<int>>(kGroups)};
    for (int64_t i = 0; i < kGroups * n_out * n_in; ++i) s.values.push_back(static_cast<uint16_t>(0x3c00 + i % 251));
    auto source = moe::make<moe_weight_source>();
    source.name = "counting";
    source.encoding = "bf16";
    source.wanted = "auto";
    source.n_groups = kGroups;
    source.n_out = n_out;
    source.n_in = n_in;
    source.uses = MOE_USE_MATMUL;
    source.context = &s;
    source.read_f32 = [](void* context, int64_t, int64_t, int64_t, float*) {
      ++static_cast<CountingSource*>(context)->read;
    };
    source.raw = [](void* context, int64_t group) -> const void* {
      auto& it = *static_cast<CountingSource*>(context);
      return it.values.data() + group * it.n_out * it.n_in;
    };
    source.done = [](void* context, int64_t group) {
      ++static_cast<CountingSource*>(context)->done[static_cast<size_t>(group)];
    };
    auto prepared = moe::make<moe_prepared>();
    moe::MessageBuffer message;
    const BackendUnderTest& b = *cpu.backend();
    ASSERT_EQ(b.backend().prepare(b.instance(), &source, &prepared, message.get()), MOE_OK) << message.text();
    EXPECT_STREQ(prepared.encoding, "bf16");
    EXPECT_EQ(s.read, 0);
    std::vector<float> row(static_cast<size_t>(n_in));
    for (int64_t g = 0; g < kGroups; ++g) {
      EXPECT_EQ(s.done[static_cast<size_t>(g)], 1);
      for (int64_t r = 0; r < n_out; ++r) {
        const float* got = b.rows()->row(prepared.weight, g, r, row.data());
        for (int64_t k = 0; k < n_in; ++k) {
          ASSERT_EQ(got[k], moe::bf16_to_f32(s.values[static_cast<size_t>((g * n_out + r) * n_in + k)]))
              << n_out << " x " << n_in << ": group " << g << " row " << r << " element " << k;
        }
      }
    }
    prepared.release(&prepared);
  }
}

}  // namespace
}  // namespace patchbay::test
