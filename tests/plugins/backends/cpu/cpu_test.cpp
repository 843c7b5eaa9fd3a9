// Each instruction set of the backend `cpu` against the loops and against the others.
#include <atomic>

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
  for (const char* wanted : {"f32", "bf16", "f16"}) {
    for (const OpCase& c : all_cases("", 3)) {
      if (c.weights.empty() && std::string_view(wanted) != "f32") continue;
      const Outcome outcome = CaseRun(*cpu_.backend(), c, wanted).compare();
      EXPECT_EQ(outcome.kind, Outcome::kSame)
          << c.op << " (" << c.text << " wanted=" << wanted << "): " << outcome.text;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Simd, testing::Values("avx512_bf16", "avx512", "avx2", "neon", "portable"),
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
  for (const char* wanted : {"f32", "bf16", "f16"}) expect_same_bits(avx512, avx2, wanted);
}

// The dot instruction has bits of its own, and only where weights and activations are bf16.
TEST(Cpu, avx512_bf16_gives_the_bits_of_avx512_with_f32_and_f16_weights) {
  TestHost host(2);
  const OpenCpu plain(host, "avx512");
  const OpenCpu dot(host, "avx512_bf16");
  if (plain.backend() == nullptr || dot.backend() == nullptr) GTEST_SKIP() << "not both run here";
  for (const char* wanted : {"f32", "f16"}) expect_same_bits(plain, dot, wanted);
}

TEST(Cpu, refuses_an_unknown_instruction_set_by_name) {
  TestHost host;
  const OpenCpu cpu(host, "mmx");
  ASSERT_EQ(cpu.backend(), nullptr);
  EXPECT_EQ(cpu.error().code, MOE_FAILED_PRECONDITION);
  EXPECT_NE(cpu.error().message.find("mmx"), std::string::npos) << cpu.error().message;
  EXPECT_NE(cpu.error().message.find("portable"), std::string::npos) << cpu.error().message;
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
