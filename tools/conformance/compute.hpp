// A backend as routers and experts under test get it: what the engine gives them, with the SDK's loops in the place of
// operations that the backend refuses; and memory of one call with canaries around every buffer.
#pragma once

#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/plugin/library.hpp"
#include "core/plugin/options.hpp"
#include "moe/abi/expert.h"
#include "moe/sdk/compute.hpp"
#include "moe/sdk/loops.hpp"
#include "tools/conformance/check_host.hpp"

namespace patchbay::conformance {

// What became of a call across the boundary: its status with the message, or the exception that came across.
template <typename F>
moe::Status across(F&& f) {
  moe::MessageBuffer message;
  try {
    const moe_status status = [&] {
      const PluginCode theirs;
      return f(message.get());
    }();
    if (status != MOE_OK) return message.error(status);
    return {};
  } catch (const std::exception& e) {
    return moe::internal(std::string("an exception came across the boundary: ") + e.what());
  } catch (...) {
    return moe::internal("an exception came across the boundary: of unknown type");
  }
}
inline constexpr std::string_view kEscaped = "an exception came across the boundary";

class Compute {
 public:
  static moe::Result<std::unique_ptr<Compute>> open(Component<moe_backend> backend, CheckHost& host,
                                                    const std::vector<GivenOption>& given = {});
  ~Compute();
  Compute(const Compute&) = delete;
  Compute& operator=(const Compute&) = delete;

  [[nodiscard]] const moe_compute& abi() const { return shared_.abi; }
  [[nodiscard]] moe_device device() const { return description_.device; }
  [[nodiscard]] bool host_visible() const { return (description_.flags & MOE_BACKEND_HOST_VISIBLE) != 0; }
  [[nodiscard]] void* stream() const { return description_.stream; }

  moe::Result<moe_buffer> alloc(uint64_t n_bytes);
  moe::Status upload(void* to, const void* from, uint64_t n_bytes);
  // Waits for what is enqueued first.
  moe::Status download(void* to, const void* from, uint64_t n_bytes);
  moe::Status sync();
  // A weight of this declaration, kept as f32 where the backend can. Lives as long as this does.
  moe::Result<const moe_weight*> prepare(const moe_weight_spec& spec, const std::vector<float>& values);

 private:
  explicit Compute(Component<moe_backend> backend) : backend_(std::move(backend)) {}
  struct FoundOp {
    const moe_op* own;
    const moe::loops::LoopOp* loop;
  };
  struct Shared {  // the ABI hands back a pointer to its first member
    moe_compute abi;
    Compute* owner;
  };
  static moe_status find_op(const moe_compute* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                            moe_message* message);
  static moe_status launch(const moe_compute* self, const moe_op* op, const moe_op_args* args, moe_message* message);

  Component<moe_backend> backend_;
  moe_backend_instance* instance_ = nullptr;
  moe_backend_description description_{};
  moe::loops::LoopContext context_;
  std::deque<FoundOp> found_;
  std::deque<moe_prepared> prepared_;
  Shared shared_{};
};

// Weights that a router or an expert declared, with values, where it wants them.
class BoundWeights {
 public:
  explicit BoundWeights(Compute& compute) : compute_(compute) {}
  ~BoundWeights();
  BoundWeights(const BoundWeights&) = delete;
  BoundWeights& operator=(const BoundWeights&) = delete;

  // Every value from `next`, in order; or those of `given` for the roles that it has, where an empty list leaves an
  // optional weight out.
  moe::Status bind(const moe_weight_spec* specs, uint32_t n_specs, const std::function<float()>& next,
                   const std::map<std::string, std::vector<float>>& given = {});
  [[nodiscard]] const moe_bound_weight* data() const { return bound_.data(); }
  [[nodiscard]] uint32_t size() const { return static_cast<uint32_t>(bound_.size()); }

 private:
  Compute& compute_;
  std::deque<std::vector<float>> values_;
  std::vector<moe_buffer> buffers_;
  std::vector<moe_bound_weight> bound_;
};

// The memory of one call: on the host, or a device's. Every buffer has canaries on both sides, and so has the room
// between padded rows.
class CallMemory {
 public:
  // `compute` null: host memory.
  explicit CallMemory(Compute* compute) : compute_(compute) {}
  ~CallMemory();
  CallMemory(const CallMemory&) = delete;
  CallMemory& operator=(const CallMemory&) = delete;

  // A buffer with `n_bytes` from `init` (null: 0xFF everywhere, which is NaN and -1). An input may not be changed by
  // the call.
  enum class Use { kInput, kOutput };
  void* add(const std::string& name, const void* init, uint64_t n_bytes, Use use);
  // A tensor [n, width] of `values` (row-major; empty: 0xFF) with `pad` elements of room between rows. As a vector
  // where width is 0.
  template <typename T>
  moe_tensor tensor(const std::string& name, const std::vector<T>& values, int64_t n, int64_t width, Use use,
                    int64_t pad = 0);
  // What the buffer at `data` holds now.
  std::vector<uint8_t> read(const void* data);
  // The n rows of an output tensor, without the room between them.
  template <typename T>
  std::vector<T> values(const moe_tensor& tensor);
  // Puts the contents of `other`, made by the same adds, into this memory: other inputs at the same addresses.
  void refill(CallMemory& other);
  // Fills everything with 0xFF: what reads it from now on gets NaN.
  void spoil();
  // Which buffer was written beside, or changed though it is an input; empty: none. `spoiled`: nothing at all may have
  // been written.
  std::string violations(bool spoiled = false);
  // What went wrong with the memory itself.
  [[nodiscard]] const moe::Status& status() const { return status_; }

 private:
  struct Region {
    std::string name;
    Use use;
    uint64_t n_bytes;
    uint64_t row_bytes = 0;  // of what may be written, out of each `stride_bytes`; 0: all of it
    uint64_t stride_bytes = 0;
    std::vector<uint8_t> image;  // canaries included
    moe_buffer device{};
    std::vector<uint8_t> host;
    uint8_t* at = nullptr;  // the front canary
  };
  static constexpr uint64_t kCanary = 64;
  [[nodiscard]] std::vector<uint8_t> image_of(Region& region);
  Region& region_at(const void* data);

  Compute* compute_;
  std::deque<Region> regions_;
  moe::Status status_;
};

template <typename T>
moe_tensor CallMemory::tensor(const std::string& name, const std::vector<T>& values, int64_t n, int64_t width, Use use,
                              int64_t pad) {
  const int64_t row = std::max<int64_t>(width, 1);
  const int64_t stride = row + pad;
  std::vector<T> padded(static_cast<size_t>(std::max<int64_t>(n * stride, 0)));
  std::memset(static_cast<void*>(padded.data()), 0xFF, padded.size() * sizeof(T));
  for (int64_t i = 0; i < n && !values.empty(); ++i) {
    std::memcpy(padded.data() + i * stride, values.data() + i * row, static_cast<size_t>(row) * sizeof(T));
  }
  void* data = add(name, padded.data(), padded.size() * sizeof(T), use);
  Region& region = regions_.back();
  region.row_bytes = static_cast<uint64_t>(row) * sizeof(T);
  region.stride_bytes = static_cast<uint64_t>(stride) * sizeof(T);
  const moe_device where = compute_ == nullptr ? moe::kHost : compute_->device();
  moe_tensor t = width == 0 ? moe::tensor(static_cast<T*>(data), {n}, where)
                            : moe::tensor(static_cast<T*>(data), {n, width}, where);
  t.strides[0] = stride;
  return t;
}

template <typename T>
std::vector<T> CallMemory::values(const moe_tensor& tensor) {
  std::vector<T> out;
  if (!moe::present(tensor)) return out;
  const auto bytes = read(tensor.data);
  const int64_t row = tensor.ndim == 2 ? tensor.shape[1] : 1;
  out.resize(static_cast<size_t>(tensor.shape[0] * row));
  for (int64_t i = 0; i < tensor.shape[0]; ++i) {
    std::memcpy(out.data() + i * row, bytes.data() + static_cast<size_t>(i * tensor.strides[0]) * sizeof(T),
                static_cast<size_t>(row) * sizeof(T));
  }
  return out;
}

}  // namespace patchbay::conformance
