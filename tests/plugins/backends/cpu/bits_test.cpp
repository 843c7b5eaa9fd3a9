// The option `simd` promises the same bits from all instruction sets with a fused multiply-add, also those of other
// processors: the bits of one are recorded, and whatever runs here has to give them.
#include "open_cpu.hpp"

namespace patchbay::test {
namespace {

class Bits : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (cpu_.backend() == nullptr) GTEST_SKIP() << cpu_.error().message;
  }
  TestHost host_{2};
  OpenCpu cpu_{host_, GetParam()};
};

// FNV-1a over what the operations with kernels of their own give.
uint64_t hash_of_results(const BackendUnderTest& b) {
  uint64_t hash = 14695981039346656037U;
  for (const char* op : {MOE_OP_NORM, MOE_OP_MATMUL, MOE_OP_GROUPED_MATMUL, MOE_OP_FFN, MOE_OP_ATTENTION}) {
    for (const OpCase& c : all_cases(op, 2)) {
      for (const char* wanted : {"f32", "bf16", "f16", "int8", "int4"}) {
        const Outcome outcome = CaseRun(b, c, wanted).run();
        EXPECT_EQ(outcome.kind, Outcome::kSame)
            << op << " (" << c.text << " wanted=" << wanted << "): " << outcome.text;
        for (const Array& array : outcome.got) {
          for (const auto word : array.words) hash = (hash ^ word) * 1099511628211U;
        }
        if (c.weights.empty()) break;  // no weights, so nothing to want
      }
    }
  }
  return hash;
}

// The number changes with the cases of tools/conformance/ops and with the order in which a kernel sums.
TEST_P(Bits, are_the_recorded_ones) { EXPECT_EQ(hash_of_results(*cpu_.backend()), 10537555416114377514U); }

INSTANTIATE_TEST_SUITE_P(Cpu, Bits, testing::Values("avx512", "avx2", "neon"),
                         [](const auto& simd) { return std::string(simd.param); });

}  // namespace
}  // namespace patchbay::test
