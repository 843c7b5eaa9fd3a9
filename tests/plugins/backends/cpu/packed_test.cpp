// Packed bytes that leave the backend `cpu` and come back.
#include <sys/mman.h>

#include <cmath>
#include <limits>

#include "moe/abi/packed.h"
#include "moe/sdk/quant.hpp"
#include "open_cpu.hpp"

namespace patchbay::test {
namespace {

// f32 [2, n_out, n_in] that follow from the shape.
struct Source {
  Source(int64_t n_out, int64_t n_in, const char* wanted, uint32_t uses) {
    Random random(static_cast<uint64_t>(n_out * 1000 + n_in));
    values.resize(static_cast<size_t>(2 * n_out * n_in));
    for (float& v : values) v = static_cast<float>(random.uniform(-1, 1));
    abi.name = "packed";
    abi.encoding = "f32";
    abi.wanted = wanted;
    abi.n_groups = 2;
    abi.n_out = n_out;
    abi.n_in = n_in;
    abi.uses = uses;
    abi.context = this;
    abi.read_f32 = [](void* context, int64_t group, int64_t row, int64_t n_rows, float* out) {
      const auto& it = *static_cast<Source*>(context);
      const float* from = it.values.data() + (group * it.abi.n_out + row) * it.abi.n_in;
      std::copy_n(from, n_rows * it.abi.n_in, out);
    };
  }
  std::vector<float> values;
  moe_weight_source abi = moe::make<moe_weight_source>();
};

class Packed : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(cpu_.backend(), nullptr);
    const auto* found = b().backend().component.get_extension(MOE_BACKEND_PACKED_ID);
    packed_ = static_cast<const moe_backend_packed*>(found);
    ASSERT_NE(packed_, nullptr);
  }
  [[nodiscard]] const BackendUnderTest& b() const { return *cpu_.backend(); }
  moe_prepared prepare(const Source& source) {
    auto prepared = moe::make<moe_prepared>();
    EXPECT_EQ(b().backend().prepare(b().instance(), &source.abi, &prepared, message_.get()), MOE_OK) << message_.text();
    return prepared;
  }
  std::string_view bytes_of(const moe_prepared& prepared) const {
    uint64_t n = 0;
    const void* bytes = packed_->bytes(prepared.weight, &n);
    return {static_cast<const char*>(bytes), n};
  }

  TestHost host_{2};
  OpenCpu cpu_{host_, "auto"};
  const moe_backend_packed* packed_ = nullptr;
  moe::MessageBuffer message_;
};

struct Shape {
  int64_t n_out;
  int64_t n_in;
  const char* wanted;
  uint32_t uses;
};
std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const char* wanted : {"f32", "bf16", "f16", "int8", "int4"}) {
    for (const auto& [n_out, n_in] : {std::pair<int64_t, int64_t>{1, 1}, {16, 64}, {17, 33}, {100, 129}})
      all.push_back({n_out, n_in, wanted, MOE_USE_MATMUL});
  }
  all.push_back({33, 40, "bf16", MOE_USE_EMBED});
  return all;
}

TEST_F(Packed, an_adopted_weight_has_the_rows_of_the_prepared_one_and_copies_nothing) {
  for (const auto& [n_out, n_in, wanted, uses] : shapes()) {
    const Source source(n_out, n_in, wanted, uses);
    moe_prepared prepared = prepare(source);
    const std::string_view bytes = bytes_of(prepared);
    void* pages = mmap(nullptr, bytes.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(pages, MAP_FAILED);
    std::memcpy(pages, bytes.data(), bytes.size());
    mprotect(pages, bytes.size(), PROT_READ);
    Source unread = source;
    unread.abi.read_f32 = nullptr;
    auto adopted = moe::make<moe_prepared>();
    ASSERT_EQ(packed_->adopt(b().instance(), &unread.abi, pages, bytes.size(), &adopted, message_.get()), MOE_OK)
        << message_.text();
    EXPECT_EQ(bytes_of(adopted).data(), pages);
    EXPECT_EQ(adopted.n_bytes, prepared.n_bytes);
    EXPECT_STREQ(adopted.encoding, prepared.encoding);
    std::vector<float> want(static_cast<size_t>(n_in));
    std::vector<float> got(static_cast<size_t>(n_in));
    for (int64_t g = 0; g < 2; ++g) {
      for (int64_t r = 0; r < n_out; ++r) {
        const float* x = b().rows()->row(prepared.weight, g, r, want.data());
        const float* y = b().rows()->row(adopted.weight, g, r, got.data());
        ASSERT_EQ(std::memcmp(x, y, want.size() * 4), 0) << wanted << " row " << r;
      }
    }
    prepared.release(&prepared);
    adopted.release(&adopted);
    EXPECT_EQ(munmap(pages, bytes.size()), 0);
  }
}

TEST_F(Packed, bytes_of_another_number_are_refused) {
  const Source source(17, 64, "int8", MOE_USE_MATMUL);
  moe_prepared prepared = prepare(source);
  const std::string_view bytes = bytes_of(prepared);
  for (const uint64_t n : {uint64_t{0}, bytes.size() - 1, bytes.size() + 1}) {
    auto adopted = moe::make<moe_prepared>();
    EXPECT_EQ(packed_->adopt(b().instance(), &source.abi, bytes.data(), n, &adopted, message_.get()),
              MOE_INVALID_ARGUMENT);
    EXPECT_NE(message_.text().find("expected " + std::to_string(bytes.size())), std::string::npos) << message_.text();
  }
  prepared.release(&prepared);
}

// People have files of this layout. A change of packing, rounding or padding needs a new name for it (kLayout in
// weight.cpp), and then both lines here are new.
TEST_F(Packed, layout_and_packed_bytes_are_the_recorded_ones) {
  uint64_t hash = 14695981039346656037U;  // FNV-1a
  for (const auto& [n_out, n_in, wanted, uses] : shapes()) {
    moe_prepared prepared = prepare(Source(n_out, n_in, wanted, uses));
    for (const char byte : bytes_of(prepared)) hash = (hash ^ static_cast<uint8_t>(byte)) * 1099511628211U;
    prepared.release(&prepared);
  }
  EXPECT_STREQ(packed_->layout(b().instance()), "cpu-panels-3");
  EXPECT_EQ(hash, 13077942708246440660U);
}

// Code times scale as the SDK quantises, then bf16.
TEST_F(Packed, fp8_keeps_the_sdks_numbers_as_bf16) {
  for (const auto& [n_out, n_in] : {std::pair<int64_t, int64_t>{1, 1}, {128, 128}, {130, 140}, {300, 33}}) {
    const Source source(n_out, n_in, "fp8", MOE_USE_MATMUL);
    moe_prepared prepared = prepare(source);
    EXPECT_STREQ(prepared.encoding, "bf16");
    std::vector<float> row(static_cast<size_t>(n_in));
    for (int64_t g = 0; g < 2; ++g) {
      for (int64_t first = 0; first < n_out; first += 128) {
        const int64_t n = std::min<int64_t>(128, n_out - first);
        std::vector<uint8_t> codes(static_cast<size_t>(n * n_in));
        std::vector<float> scales(static_cast<size_t>(moe::fp8_blocks(n_in)));
        moe::quantize_fp8(source.values.data() + (g * n_out + first) * n_in, n, n_in, codes.data(), n_in,
                          scales.data());
        for (int64_t i = 0; i < n * n_in; ++i) {
          const float* got = b().rows()->row(prepared.weight, g, first + i / n_in, row.data());
          const float exact =
              moe::fp8_weight(codes[static_cast<size_t>(i)], scales[static_cast<size_t>(i % n_in / 128)]);
          ASSERT_EQ(got[i % n_in], moe::bf16_to_f32(moe::f32_to_bf16(exact)))
              << n_out << " x " << n_in << " row " << first + i / n_in << " element " << i % n_in;
        }
      }
    }
    prepared.release(&prepared);
  }
}

// Numbers that rounding may get wrong: [n, 33] with a group of one at the end of each row.
std::vector<float> hard_groups() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Random random(11);
  std::vector<float> all;
  const auto add = [&](auto number) {
    for (int i = 0; i < 33; ++i) all.push_back(number(i));
  };
  for (const float x : {0.0F, -0.0F, 1.0F, -1.0F, 1e-30F, 1e-45F, 3e38F, 7e6F, 9e6F, kNan, kInfinity})
    add([x](int) { return x; });
  for (const float x : {kNan, -kInfinity, 3e38F, 1e-40F}) add([x](int i) { return i == 17 ? x : 0.5F; });
  add([](int i) { return static_cast<float>(i - 16) * 0.5F; });  // halves of both scales
  add([](int i) { return i % 2 == 0 ? 1.0F : -1.0F; });          // both signs alike
  add([](int i) { return (i % 2 == 0 ? 1.0F : -1.0F) * (i < 2 ? 8.0F : 3.5F); });
  for (const double width : {1.0, 1e-6, 1e-38, 1e4}) {
    for (int n = 0; n < 200; ++n) add([&](int) { return static_cast<float>(random.uniform(-width, width)); });
  }
  for (int n = 0; n < 200; ++n)
    add([&](int) { return static_cast<float>(static_cast<int>(random.uniform(-9, 9))) / 2; });
  return all;
}

class Rounding : public testing::TestWithParam<const char*> {};

TEST_P(Rounding, is_the_sdks_on_every_instruction_set) {
  TestHost host(2);
  const OpenCpu cpu(host, GetParam());
  if (cpu.backend() == nullptr) GTEST_SKIP() << cpu.error().message;
  const BackendUnderTest& b = *cpu.backend();
  const std::vector<float> values = hard_groups();
  const auto n_out = static_cast<int64_t>(values.size()) / 33 / 2;
  for (const bool wide : {true, false}) {
    Source source(n_out, 33, wide ? "int8" : "int4", MOE_USE_MATMUL);
    source.values.assign(values.begin(), values.begin() + 2 * n_out * 33);
    auto prepared = moe::make<moe_prepared>();
    moe::MessageBuffer message;
    ASSERT_EQ(b.backend().prepare(b.instance(), &source.abi, &prepared, message.get()), MOE_OK) << message.text();
    for (int64_t row = 0; row < 2 * n_out; ++row) {
      std::vector<float> scratch(33);
      const float* got = b.rows()->row(prepared.weight, row / n_out, row % n_out, scratch.data());
      for (const int first : {0, 32}) {
        const float* x = values.data() + row * 33 + first;
        const int n = first == 0 ? 32 : 1;
        const moe::QuantGroup want = wide ? moe::quantize_int8(x, n) : moe::quantize_int4(x, n);
        for (int i = 0; i < n; ++i) {
          const float number = want.scale * static_cast<float>(want.q[i]);
          EXPECT_TRUE(got[first + i] == number || (std::isnan(number) && std::isnan(got[first + i])))
              << source.abi.wanted << " row " << row << " element " << first + i << ": expected " << number << ", got "
              << got[first + i];
        }
      }
    }
    prepared.release(&prepared);
  }
}
INSTANTIATE_TEST_SUITE_P(Cpu, Rounding, testing::Values("avx512", "avx2", "neon", "portable"),
                         [](const auto& simd) { return std::string(simd.param); });

}  // namespace
}  // namespace patchbay::test
