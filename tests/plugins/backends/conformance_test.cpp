// What every backend plugin must do, for each one that the build has.
#include <gtest/gtest.h>

#include <string>

#include "moe/sdk/loops.hpp"
#include "support/plugin_library.hpp"
#include "support/test_host.hpp"
#include "tools/conformance/ops/op_run.hpp"

namespace patchbay::test {
namespace {

using namespace conformance;  // NOLINT: the cases and their runs

constexpr int32_t kThreads = 3;

class Conformance : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!PluginLibrary::exists(GetParam())) GTEST_SKIP() << GetParam() << " has not been built";
    auto library = PluginLibrary::open(GetParam(), host_.get());
    ASSERT_TRUE(library.ok()) << library.error().message;
    library_ = std::move(library).value();
    backend_ = library_->backend(GetParam());
    ASSERT_NE(backend_, nullptr) << "the library has no backend of its own name";
    moe::MessageBuffer message;
    if (score(message) == 0) GTEST_SKIP() << GetParam() << " cannot run here: " << message.text();
    under_test_ = open();
  }
  int32_t score(moe::MessageBuffer& message) const {
    if (backend_->component.get_extension == nullptr) return 1;
    const auto* s = static_cast<const moe_backend_score*>(backend_->component.get_extension(MOE_BACKEND_SCORE_ID));
    return s == nullptr ? 1 : s->score(message.get());
  }
  std::unique_ptr<BackendUnderTest> open() {
    auto opened = BackendUnderTest::open(*backend_, host_.get());
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    return opened.ok() ? std::move(opened).value() : nullptr;
  }

  // Compares all cases of an operation, weights kept as `wanted`. Returns how many the backend ran.
  int64_t compare(const char* op, uint64_t seeds, const char* wanted = "f32") {
    int64_t ran = 0;
    for (const OpCase& c : all_cases(op, seeds)) {
      const Outcome outcome = CaseRun(*under_test_, c, wanted).compare();
      ran += outcome.kind == Outcome::kRefused ? 0 : 1;
      if (outcome.kind == Outcome::kWrong)
        ADD_FAILURE() << op << " (" << c.text << " wanted=" << wanted << "): " << outcome.text;
    }
    return ran;
  }

  TestHost host_{kThreads};
  std::unique_ptr<PluginLibrary> library_;
  const moe_backend* backend_ = nullptr;
  std::unique_ptr<BackendUnderTest> under_test_;
};

TEST_P(Conformance, operations_agree_with_the_loops) {
  int64_t ran = 0;
  for (const auto& op : moe::loops::kOps) ran += compare(op.id, 25);
  EXPECT_GT(ran, 0) << "the backend refuses everything";
}

// A backend may refuse an encoding; what it takes must multiply as the rows that it gives back say.
TEST_P(Conformance, products_of_every_encoding_agree_with_the_loops) {
  for (const char* wanted : {"auto", "bf16", "f16", "int8", "int4", "fp8"}) {
    for (const char* op : {MOE_OP_EMBED, MOE_OP_MATMUL, MOE_OP_GROUPED_MATMUL, MOE_OP_FFN}) {
      if (under_test_->rows() != nullptr) compare(op, 2, wanted);
    }
  }
}

TEST_P(Conformance, route_decisions_are_rarely_open_in_the_cases) {
  g_route_tally = {};
  compare(MOE_OP_ROUTE, 4);
  EXPECT_GT(g_route_tally.decided, 20 * g_route_tally.open);
}

// A backend that says so keeps a row's bits whatever else is in the call.
TEST_P(Conformance, first_rows_do_not_depend_on_the_others) {
  if ((backend_->component.capabilities & MOE_CAP_BATCH_INVARIANT) == 0) GTEST_SKIP() << "not claimed";
  for (const OpCase& c : all_cases("", 2)) {
    if (c.n_rows < 2) continue;
    CaseRun whole(*under_test_, c, "f32");
    const Outcome all = whole.run();
    if (all.kind != Outcome::kSame) continue;
    for (const int64_t n : {int64_t{1}, c.n_rows / 2}) {
      const Outcome some = CaseRun(*under_test_, c, "f32").run(n);
      ASSERT_EQ(some.kind, Outcome::kSame) << c.op << " (" << c.text << "): " << some.text;
      for (const auto& slot : c.slots) {
        if (!slot.rows || !c.arrays[slot.array].output) continue;
        const auto& tensor =
            *reinterpret_cast<const moe_tensor*>(reinterpret_cast<const char*>(c.args.data()) + slot.offset);
        const auto n_bytes = static_cast<size_t>((n * tensor.strides[0] + slot.first) * dtype_bytes(tensor.dtype));
        EXPECT_EQ(std::memcmp(all.got[slot.array].words.data(), some.got[slot.array].words.data(), n_bytes), 0)
            << c.op << " (" << c.text << "): " << n << " of " << c.n_rows << " rows";
      }
    }
  }
}

TEST_P(Conformance, results_do_not_depend_on_the_threads) {
  if ((backend_->component.capabilities & MOE_CAP_DETERMINISTIC) == 0) GTEST_SKIP() << "not claimed";
  host_.limit_threads(1);
  const auto alone = open();
  host_.limit_threads(kThreads);
  for (const OpCase& c : all_cases("", 2)) {
    const Outcome many = CaseRun(*under_test_, c, "f32").run();
    host_.limit_threads(1);
    const Outcome one = CaseRun(*alone, c, "f32").run();
    host_.limit_threads(kThreads);
    ASSERT_EQ(many.kind, one.kind);
    for (size_t i = 0; i < many.got.size(); ++i)
      EXPECT_EQ(many.got[i].words, one.got[i].words) << c.op << " (" << c.text << ")";
  }
}

TEST_P(Conformance, memory_is_zeroed_and_aligned) {
  auto buffer = moe::make<moe_buffer>();
  moe::MessageBuffer message;
  ASSERT_EQ(backend_->alloc(under_test_->instance(), 1000, MOE_MEMORY_DEVICE, &buffer, message.get()), MOE_OK)
      << message.text();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data) % 64, 0U);
  std::vector<uint8_t> bytes(1000, 1);
  void* stream = under_test_->description().stream;
  ASSERT_EQ(
      backend_->copy(under_test_->instance(), bytes.data(), buffer.data, 1000, MOE_COPY_TO_HOST, stream, message.get()),
      MOE_OK);
  ASSERT_EQ(backend_->sync(under_test_->instance(), stream, message.get()), MOE_OK);
  EXPECT_EQ(bytes, std::vector<uint8_t>(1000, 0));
  buffer.release(&buffer);
}

TEST_P(Conformance, too_large_an_allocation_is_refused_with_the_size) {
  auto buffer = moe::make<moe_buffer>();
  moe::MessageBuffer message;
  EXPECT_EQ(backend_->alloc(under_test_->instance(), uint64_t{1} << 62, MOE_MEMORY_DEVICE, &buffer, message.get()),
            MOE_RESOURCE_EXHAUSTED);
  EXPECT_NE(message.text().find(std::to_string(uint64_t{1} << 62)), std::string::npos) << message.text();
}

TEST_P(Conformance, an_unknown_operation_is_refused_by_name) {
  auto args = moe::op_args<moe_add_args>();
  auto info = moe::make<moe_op_info>();
  moe::MessageBuffer message;
  EXPECT_EQ(backend_->find_op(under_test_->instance(), "moe.op.nothing/1", &args.header, &info, message.get()),
            MOE_UNIMPLEMENTED);
  EXPECT_NE(message.text().find("moe.op.nothing/1"), std::string::npos) << message.text();
}

INSTANTIATE_TEST_SUITE_P(Plugins, Conformance, testing::Values("reference", "cpu", "cuda"),
                         [](const auto& plugin) { return std::string(plugin.param); });

// The reference must not leave an operation to somebody else.
TEST(Reference, runs_every_operation_and_says_which_encodings_it_keeps) {
  TestHost host;
  auto library = PluginLibrary::open("reference", host.get());
  ASSERT_TRUE(library.ok()) << library.error().message;
  const moe_backend* backend = library.value()->backend("reference");
  ASSERT_NE(backend, nullptr);
  auto opened = BackendUnderTest::open(*backend, host.get());
  ASSERT_TRUE(opened.ok());
  for (const auto& op : moe::loops::kOps) {
    for (const OpCase& c : all_cases(op.id, 1)) {
      const Outcome outcome = CaseRun(*opened.value(), c, "bf16").run();
      EXPECT_EQ(outcome.kind, Outcome::kSame) << c.op << " (" << c.text << "): " << outcome.text;
    }
  }
  const Outcome refused = CaseRun(*opened.value(), matmul_case(1, MOE_F32), "int8").run();
  EXPECT_EQ(refused.kind, Outcome::kRefused);
  EXPECT_NE(refused.text.find("expected auto, f32, bf16, f16 or fp8"), std::string::npos) << refused.text;
}

// The first element of an output whose value can be spoiled: one of row 0, where there is one.
float* first_output(const OpCase& c, std::deque<Array>& arrays) {
  for (const auto& slot : c.slots) {
    Array& a = arrays[slot.array];
    const auto& tensor =
        *reinterpret_cast<const moe_tensor*>(reinterpret_cast<const char*>(c.args.data()) + slot.offset);
    if (!a.output || a.dtype != MOE_F32 || tensor.shape[0] == 0) continue;
    float* x = a.as<float>() + slot.first;
    if (std::isfinite(*x) && *x != 0.0F) return x;
  }
  return nullptr;
}

// The comparison itself: an error of one part in a thousand, or a NaN, in one element of any operation must show.
TEST(Comparison, finds_a_small_error_and_a_nan_in_every_operation) {
  TestHost host;
  auto library = PluginLibrary::open("reference", host.get());
  ASSERT_TRUE(library.ok()) << library.error().message;
  auto opened = BackendUnderTest::open(*library.value()->backend("reference"), host.get());
  ASSERT_TRUE(opened.ok());
  for (const auto& op : moe::loops::kOps) {
    int64_t tried = 0;
    int64_t small_found = 0;
    for (const OpCase& c : all_cases(op.id, 2)) {
      bool spoiled = false;
      const auto spoil = [&](float factor) {
        return [&, factor](std::deque<Array>& got) {
          float* x = first_output(c, got);
          spoiled = x != nullptr;
          if (spoiled) *x *= factor;
        };
      };
      const auto open_rows = g_route_tally.open;
      const Outcome with_nan = CaseRun(*opened.value(), c, "f32").compare(spoil(NAN));
      if (!spoiled || g_route_tally.open != open_rows) continue;
      EXPECT_EQ(with_nan.kind, Outcome::kWrong) << c.op << " (" << c.text << "): a NaN was not found";
      ++tried;
      small_found += CaseRun(*opened.value(), c, "f32").compare(spoil(1.001F)).kind == Outcome::kWrong ? 1 : 0;
    }
    // A sum that is small beside its terms may be off by more, and so may a hidden row that is rounded to 8 bits.
    EXPECT_GE(small_found * 10, tried * 6) << op.id << ": found " << small_found << " of " << tried;
    EXPECT_EQ(tried > 0, std::string(op.id) != MOE_OP_ARGMAX) << op.id;
  }
}

}  // namespace
}  // namespace patchbay::test
