// Operations in order against the same in one (moe.backend.fused/1), on a device.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>

#include "support/plugin_library.hpp"
#include "support/test_host.hpp"
#include "tools/conformance/ops/op_run.hpp"

namespace patchbay::test {
namespace {

using namespace conformance;  // NOLINT: the cases and their runs

// A device's memory for one test, and launches of operations on it.
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
  void SetUp() override {
    auto library = PluginLibrary::open("cuda", host_.get());
    ASSERT_TRUE(library.ok()) << library.error().message;
    library_ = std::move(library).value();
    auto opened = BackendUnderTest::open(*library_->backend("cuda"), host_.get());
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

// Heads of queries and keys in one row, as the engine has them.
struct AttentionShape {
  int64_t n, heads, kv_heads, dim, n_rot;
  bool whole;  // one norm over all heads
};

// Norms, ropes and stores, and attention where `attend`; what the caches and the output come to.
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
  const auto part = [&](int64_t begin, int64_t heads, int64_t dim) {
    moe_tensor t = qkv;
    t.data = static_cast<float*>(t.data) + begin;
    t.ndim = heads > 0 ? 3 : 2;
    t.shape[1] = heads > 0 ? heads : dim;
    t.shape[2] = dim;
    t.strides[1] = heads > 0 ? dim : 1;
    t.strides[2] = 1;
    return t;
  };
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

TEST_F(Fused, a_norm_and_a_product_are_those_one_by_one) {
  for (const char* wanted : {"f32", "bf16", "int8"}) {
    for (const int64_t n : {1, 2, 7, 40}) {
      for (const auto& [n_in, n_out] : {std::pair<int64_t, int64_t>{64, 33}, {100, 17}, {2048, 200}}) {
        Random random(static_cast<uint64_t>(n * n_in));
        OnDevice device(*backend_);
        const auto values = numbers(random, n_out * n_in);
        auto norm = moe::op_args<moe_norm_args>();
        norm.x = device.put(numbers(random, n * n_in, 3.0), {n, n_in});
        norm.weight = device.put(numbers(random, n_in), {n_in});
        norm.out = device.put(std::vector<float>(static_cast<size_t>(n * n_in)), {n, n_in});
        norm.eps = 1e-5F;
        norm.kind = MOE_NORM_RMS;
        auto product = moe::op_args<moe_matmul_args>();
        product.weight = device.weight(values, n_out, n_in, wanted);
        product.x = norm.out;
        product.out = device.put(std::vector<float>(static_cast<size_t>(n * n_out)), {n, n_out});
        product.scale = 1.0F;
        product.activation = MOE_F32;
        device.launch(MOE_OP_NORM, norm.header);
        device.launch(MOE_OP_MATMUL, product.header);
        const auto normed = device.get<float>(norm.out.data, n * n_in);
        const auto want = device.get<float>(product.out.data, n * n_out);
        norm.out = product.x = device.put(std::vector<float>(static_cast<size_t>(n * n_in)), {n, n_in});
        product.out = device.put(std::vector<float>(static_cast<size_t>(n * n_out)), {n, n_out});
        if (!device.launch_fused({MOE_OP_NORM, MOE_OP_MATMUL}, {&norm.header, &product.header}, 0))
          GTEST_SKIP() << "no faster way";
        const std::string text = std::string(wanted) + " n " + std::to_string(n) + " in " + std::to_string(n_in);
        expect_near(device.get<float>(norm.out.data, n * n_in), normed, text + " norm");
        expect_near(device.get<float>(product.out.data, n * n_out), want, text);
      }
    }
  }
}

}  // namespace
}  // namespace patchbay::test
