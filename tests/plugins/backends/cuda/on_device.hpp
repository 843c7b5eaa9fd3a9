// A device's memory for one test, launches of operations on it, and the fixture that opens the backend.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <deque>

#include "support/plugin_library.hpp"
#include "support/test_host.hpp"
#include "tools/conformance/ops/op_run.hpp"

namespace patchbay::test {

using namespace conformance;  // NOLINT: the cases and their runs

// Columns of rows of floats [n, width], as heads where `heads` is not 0.
inline moe_tensor columns_of(moe_tensor rows, int64_t begin, int64_t heads, int64_t dim) {
  rows.data = static_cast<float*>(rows.data) + begin;
  rows.ndim = heads > 0 ? 3 : 2;
  rows.shape[1] = heads > 0 ? heads : dim;
  rows.shape[2] = dim;
  rows.strides[1] = heads > 0 ? dim : 1;
  rows.strides[2] = 1;
  return rows;
}

class OnDevice {
 public:
  explicit OnDevice(const BackendUnderTest& t) : t_(t), b_(t.backend()) {}
  ~OnDevice() {
    for (auto& buffer : buffers_) buffer.release(&buffer);
    for (auto& weight : weights_) weight.release(&weight);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  void* alloc(uint64_t n_bytes) {
    auto buffer = moe::make<moe_buffer>();
    EXPECT_EQ(b_.alloc(t_.instance(), n_bytes, MOE_MEMORY_DEVICE, &buffer, message_.get()), MOE_OK) << message_.text();
    buffers_.push_back(buffer);
    return buffer.data;
  }
  template <typename T>
  moe_tensor put(const std::vector<T>& values, std::initializer_list<int64_t> shape) {
    void* data = alloc(values.size() * sizeof(T) + 64);
    EXPECT_EQ(b_.copy(t_.instance(), data, values.data(), values.size() * sizeof(T), MOE_COPY_TO_DEVICE, stream(),
                      message_.get()),
              MOE_OK);
    sync();
    return moe::tensor(data, moe::kDtype<T>, shape, t_.description().device);
  }
  // 16-bit floats.
  moe_tensor put_bf16(const std::vector<uint16_t>& bits, int64_t rows, int64_t heads, int64_t dim) {
    void* data = alloc(bits.size() * 2 + 64);
    EXPECT_EQ(b_.copy(t_.instance(), data, bits.data(), bits.size() * 2, MOE_COPY_TO_DEVICE, stream(), message_.get()),
              MOE_OK);
    sync();
    return moe::tensor(data, MOE_BF16, {rows, heads, dim}, t_.description().device);
  }
  template <typename T>
  std::vector<T> get(const void* data, int64_t n) {
    std::vector<T> values(static_cast<size_t>(n));
    EXPECT_EQ(b_.copy(t_.instance(), values.data(), data, values.size() * sizeof(T), MOE_COPY_TO_HOST, stream(),
                      message_.get()),
              MOE_OK);
    sync();
    return values;
  }
  const moe_weight* weight(const std::vector<float>& values, int64_t n_out, int64_t n_in, const char* wanted) {
    auto source = moe::make<moe_weight_source>();
    source.name = source.role = "weight";
    source.encoding = "f32";
    source.wanted = wanted;
    source.n_groups = 1;
    source.n_out = n_out;
    source.n_in = n_in;
    source.uses = MOE_USE_MATMUL;
    std::pair<const float*, int64_t> context{values.data(), n_in};
    source.context = &context;
    source.read_f32 = [](void* c, int64_t, int64_t row, int64_t n, float* out) {
      const auto& [from, width] = *static_cast<std::pair<const float*, int64_t>*>(c);
      std::copy_n(from + row * width, n * width, out);
    };
    source.raw = [](void*, int64_t) -> const void* { return nullptr; };
    source.done = [](void*, int64_t) {};
    auto prepared = moe::make<moe_prepared>();
    EXPECT_EQ(b_.prepare(t_.instance(), &source, &prepared, message_.get()), MOE_OK) << message_.text();
    weights_.push_back(prepared);
    return prepared.weight;
  }

  void launch(const char* id, moe_op_args& args) {
    auto info = moe::make<moe_op_info>();
    ASSERT_EQ(b_.find_op(t_.instance(), id, &args, &info, message_.get()), MOE_OK) << id << ": " << message_.text();
    args.workspace = alloc(info.workspace_bytes + 64);
    args.workspace_bytes = info.workspace_bytes;
    ASSERT_EQ(b_.launch(t_.instance(), info.op, &args, stream(), message_.get()), MOE_OK)
        << id << ": " << message_.text();
    sync();
  }
  // False: the backend has no faster way.
  bool launch_fused(const std::vector<const char*>& ids, const std::vector<const moe_op_args*>& args,
                    uint32_t temporary) {
    const auto* fused = static_cast<const moe_backend_fused*>(b_.component.get_extension(MOE_BACKEND_FUSED_ID));
    auto info = moe::make<moe_op_info>();
    const auto n = static_cast<uint32_t>(ids.size());
    const moe_status found = fused->find(t_.instance(), n, ids.data(), args.data(), temporary, &info, message_.get());
    if (found == MOE_UNIMPLEMENTED) return false;
    EXPECT_EQ(found, MOE_OK) << message_.text();
    void* workspace = alloc(info.workspace_bytes + 64);
    EXPECT_EQ(
        fused->launch(t_.instance(), info.op, args.data(), workspace, info.workspace_bytes, stream(), message_.get()),
        MOE_OK)
        << message_.text();
    sync();
    return true;
  }

 private:
  [[nodiscard]] void* stream() const { return t_.description().stream; }
  void sync() { EXPECT_EQ(b_.sync(t_.instance(), stream(), message_.get()), MOE_OK) << message_.text(); }

  const BackendUnderTest& t_;
  const moe_backend& b_;
  std::deque<moe_buffer> buffers_;
  std::deque<moe_prepared> weights_;
  moe::MessageBuffer message_;
};

class Fused : public ::testing::Test {
 protected:
  [[nodiscard]] virtual std::vector<GivenOption> options() const { return {}; }
  void SetUp() override {
    auto library = PluginLibrary::open("cuda", host_.get());
    ASSERT_TRUE(library.ok()) << library.error().message;
    library_ = std::move(library).value();
    auto opened = BackendUnderTest::open(*library_->backend("cuda"), host_.get(), options());
    if (!opened.ok()) GTEST_SKIP() << opened.error().message;
    backend_ = std::move(opened).value();
  }
  static std::vector<float> numbers(Random& random, int64_t n, double size = 1.0) {
    std::vector<float> out(static_cast<size_t>(n));
    for (float& v : out) v = static_cast<float>(random.uniform(-size, size));
    return out;
  }
  static void expect_near(const std::vector<float>& got, const std::vector<float>& want, const std::string& what) {
    float largest = 1e-3F;
    for (const float w : want) largest = std::max(largest, std::fabs(w));
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_TRUE(std::fabs(got[i] - want[i]) <= 2e-6F * largest)
          << what << " element " << i << ": " << got[i] << ", expected " << want[i];
    }
  }

  TestHost host_{1};
  std::unique_ptr<PluginLibrary> library_;
  std::unique_ptr<BackendUnderTest> backend_;
};

}  // namespace patchbay::test
