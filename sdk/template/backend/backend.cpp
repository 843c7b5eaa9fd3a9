// The smallest backend: host memory, weights kept as f32, and no operation of its own. Because its memory is visible to
// the host and its weights can be read back row by row, the SDK's loops run every operation. Replace them one by one:
// return an op from find_op() for the ids that you have, and run it in launch().
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "moe/sdk/backend.hpp"

// What `moe_weight*` stands for in this backend.
struct Weight {
  int64_t n_groups, n_out, n_in;
  std::vector<float> values;  // [n_groups, n_out, n_in]
};

class MyBackend : public moe::Backend {
 public:
  static constexpr const char* kName = "my_backend";
  static constexpr const char* kDoc = "Host memory and the SDK's loops.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;

  moe::Status open(const moe::Options&) override { return {}; }
  [[nodiscard]] moe_backend_description describe() const override {
    auto d = moe::make<moe_backend_description>();
    d.device = moe::kHost;
    d.flags = MOE_BACKEND_HOST_VISIBLE;
    d.device_name = "host, plain loops";
    return d;
  }

  moe::Result<moe_buffer> alloc(uint64_t n_bytes, int32_t) override {
    auto buffer = moe::make<moe_buffer>();
    buffer.data = ::operator new(n_bytes, kAlignment, std::nothrow);
    if (buffer.data == nullptr) return moe::exhausted("memory: could not get " + std::to_string(n_bytes) + " bytes");
    std::memset(buffer.data, 0, n_bytes);
    buffer.n_bytes = n_bytes;
    buffer.device = moe::kHost;
    buffer.release = [](moe_buffer* b) {
      ::operator delete(b->data, kAlignment);
      b->data = nullptr;
    };
    return buffer;
  }
  moe::Status copy(void* to, const void* from, uint64_t n_bytes, int32_t, void*) override {
    if (n_bytes > 0) std::memmove(to, from, n_bytes);
    return {};
  }

  moe::Result<moe_prepared> prepare(const moe_weight_source& source) override {
    const auto n_values = static_cast<size_t>(source.n_groups * source.n_out * source.n_in);
    auto weight =
        std::make_unique<Weight>(Weight{source.n_groups, source.n_out, source.n_in, std::vector<float>(n_values)});
    for (int64_t g = 0; g < source.n_groups; ++g) {
      source.read_f32(source.context, g, 0, source.n_out, weight->values.data() + g * source.n_out * source.n_in);
      source.done(source.context, g);
    }
    auto prepared = moe::make<moe_prepared>();
    prepared.encoding = "f32";
    prepared.n_bytes = n_values * sizeof(float);
    prepared.weight = reinterpret_cast<moe_weight*>(weight.release());
    prepared.release = [](moe_prepared* p) {
      delete reinterpret_cast<Weight*>(p->weight);
      p->weight = nullptr;
    };
    return prepared;
  }

  moe::Result<moe_op_info> find_op(std::string_view id, const moe_op_args&) override {
    return moe::unimplemented(std::string(id) + ": not in this backend");
  }
  moe::Status launch(const moe_op&, const moe_op_args&, void*) override {
    return moe::internal("launch: no operation was handed out");
  }
  moe::Status sync(void*) override { return {}; }

  // Weights can be read back, which is what the loops need.
  static const void* extension(const char* id) {
    return std::string_view(id) == MOE_BACKEND_ROWS_ID ? &kRows : nullptr;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};

  static void shape(const moe_weight* weight, int64_t out[3]) {
    const auto& w = *reinterpret_cast<const Weight*>(weight);
    out[0] = w.n_groups;
    out[1] = w.n_out;
    out[2] = w.n_in;
  }
  static const float* row(const moe_weight* weight, int64_t group, int64_t row, float*) {
    const auto& w = *reinterpret_cast<const Weight*>(weight);
    return w.values.data() + (group * w.n_out + row) * w.n_in;
  }
  static constexpr moe_backend_rows kRows = [] {
    auto rows = moe::make<moe_backend_rows>();
    rows.shape = shape;
    rows.row = row;
    return rows;
  }();
};

MOE_PLUGIN("my_backend", "0.1.0", "MIT", "you", MyBackend)
