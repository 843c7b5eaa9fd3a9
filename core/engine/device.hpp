// A backend that has been opened: its memory, weights and operations, with the SDK's loops where it refuses one.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/plugin/host.hpp"
#include "core/plugin/library.hpp"
#include "core/plugin/options.hpp"
#include "moe/abi/packed.h"
#include "moe/abi/weights.h"
#include "moe/sdk/compute.hpp"

namespace patchbay {

// Device memory that gives itself back.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(moe_buffer buffer) : buffer_(buffer) {}
  Buffer(Buffer&& o) noexcept : buffer_(std::exchange(o.buffer_, moe_buffer{})) {}
  Buffer& operator=(Buffer&& o) noexcept {
    if (this != &o) {
      reset();
      buffer_ = std::exchange(o.buffer_, moe_buffer{});
    }
    return *this;
  }
  ~Buffer() { reset(); }
  [[nodiscard]] void* data() const { return buffer_.data; }
  [[nodiscard]] uint64_t bytes() const { return buffer_.n_bytes; }

 private:
  void reset() {
    if (buffer_.release != nullptr) buffer_.release(&buffer_);
    buffer_ = moe_buffer{};
  }
  moe_buffer buffer_{};
};

// A prepared weight that gives itself back.
class PreparedWeight {
 public:
  PreparedWeight() = default;
  explicit PreparedWeight(moe_prepared prepared) : prepared_(prepared) {}
  PreparedWeight(PreparedWeight&& o) noexcept : prepared_(std::exchange(o.prepared_, moe_prepared{})) {}
  PreparedWeight& operator=(PreparedWeight&& o) noexcept {
    std::swap(prepared_, o.prepared_);
    return *this;
  }
  ~PreparedWeight() {
    if (prepared_.release != nullptr) prepared_.release(&prepared_);
  }
  [[nodiscard]] const moe_weight* get() const { return prepared_.weight; }
  [[nodiscard]] uint64_t bytes() const { return prepared_.n_bytes; }
  [[nodiscard]] const char* encoding() const { return prepared_.encoding; }

 private:
  moe_prepared prepared_{};
};

class Device;

// A recording of what a device was given to do. Gives itself back; the device must still exist then.
class Graph {
 public:
  Graph() = default;
  Graph(Device& device, moe_graph* graph) : device_(&device), graph_(graph) {}
  Graph(Graph&& o) noexcept : device_(o.device_), graph_(std::exchange(o.graph_, nullptr)) {}
  Graph& operator=(Graph&& o) noexcept {
    std::swap(device_, o.device_);
    std::swap(graph_, o.graph_);
    return *this;
  }
  ~Graph();
  // Enqueues it.
  [[nodiscard]] moe::Status launch() const;

 private:
  Device* device_ = nullptr;
  moe_graph* graph_ = nullptr;
};

// Time spent in one operation, over all of its launches.
struct OpTime {
  std::string implementation;
  uint64_t launches = 0;
  uint64_t nanoseconds = 0;
};

class Device {
 public:
  // `given` are the options of the configuration. [main-thread]
  static moe::Result<std::unique_ptr<Device>> open(Component<moe_backend> backend, const std::vector<GivenOption>& given, Host& host);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const moe_backend_description& description() const { return description_; }
  [[nodiscard]] bool host_visible() const { return (description_.flags & MOE_BACKEND_HOST_VISIBLE) != 0; }
  [[nodiscard]] moe_device where() const { return description_.device; }
  // What routers and experts get; lives as long as the device.
  [[nodiscard]] const moe_compute& compute() const { return compute_.abi; }

  moe::Result<Buffer> alloc(uint64_t n_bytes);
  // Host memory that the device copies from and to without waiting; where its memory is visible to the host, its own.
  moe::Result<Buffer> alloc_host(uint64_t n_bytes);
  moe::Result<PreparedWeight> prepare(const moe_weight_source& source);

  // Prepared weights as bytes (moe.backend.packed/1); the others are for a device that has them.
  [[nodiscard]] bool has_packed_bytes() const { return packed_ != nullptr && host_visible(); }
  // The backend, its version and its rules of packing.
  [[nodiscard]] std::string packed_layout() const;
  [[nodiscard]] std::span<const std::byte> packed_bytes(const PreparedWeight& weight) const;
  // The weight over bytes that stay, without a copy.
  moe::Result<PreparedWeight> adopt(const moe_weight_source& source, std::span<const std::byte> bytes);

  // Enqueues a copy; `from` (`to`) of alloc_host must stay as it is until the next sync().
  moe::Status upload(void* to, const void* from, uint64_t n_bytes);
  moe::Status start_download(void* to, const void* from, uint64_t n_bytes);
  moe::Status copy_inside(void* to, const void* from, uint64_t n_bytes);
  // The same, waiting for it.
  moe::Status download(void* to, const void* from, uint64_t n_bytes);
  moe::Status sync();

  // Several operations as one (moe.backend.fused/1). Empty: the backend has no faster way than one by one.
  moe::Result<std::optional<moe_op_info>> find_fused(std::span<const char* const> ids, std::span<const moe_op_args* const> largest,
                                                     uint32_t temporary);
  moe::Status launch_fused(const moe_op_info& info, std::span<const moe_op_args* const> args, void* workspace, uint64_t workspace_bytes);

  // Whether steps can be recorded here: the backend has graphs, every operation that was found may be recorded, and none is being timed.
  [[nodiscard]] bool can_record() const { return graphs_ != nullptr && ops_are_graph_safe_ && !profiling_; }
  moe::Status begin_recording();
  moe::Result<Graph> end_recording();

  // Times every launch from now on (waiting for each where streams exist), or stops.
  void profile(bool on) { profiling_ = on; }
  [[nodiscard]] std::map<std::string, OpTime> profile_times() const;
  void reset_profile();
  // Nanoseconds in all operations since reset_profile.
  [[nodiscard]] uint64_t profiled_ns() const { return profiled_ns_; }

 private:
  struct LoopOpEntry;
  struct Compute {
    moe_compute abi;
    Device* device;
  };
  // What a moe_op* of compute_.find_op and find_fused points to.
  struct OpEntry {
    const moe_op* native = nullptr;
    const void* loop = nullptr;  // moe::loops::LoopOp
    std::string id;
    OpTime time;
  };

  Device(Component<moe_backend> backend, Host& host) : backend_(std::move(backend)), host_(&host) {}
  friend class Graph;
  moe::Status copy(void* to, const void* from, uint64_t n_bytes, int32_t direction);
  // What f(moe_prepared*, moe_message*) prepares of the source.
  template <typename F>
  moe::Result<PreparedWeight> prepared_by(const moe_weight_source& source, F&& f);
  moe::Result<Buffer> alloc_in(uint64_t n_bytes, int32_t memory);
  static moe_status find_op(const moe_compute* self, const char* id, const moe_op_args* largest, moe_op_info* out, moe_message* message);
  static moe_status launch(const moe_compute* self, const moe_op* op, const moe_op_args* args, moe_message* message);
  moe_status run(OpEntry& entry, const moe_op_args* args, moe_message* message);
  // Calls f, and counts its time where launches are timed.
  template <typename F>
  moe_status timed(OpEntry& entry, F&& f);
  moe::Status find_op(std::string_view id, const moe_op_args& largest, moe_op_info& out);

  Component<moe_backend> backend_;
  Host* host_;
  std::string name_;
  moe_backend_instance* instance_ = nullptr;
  moe_backend_description description_{};
  const moe_backend_rows* rows_ = nullptr;
  const moe_backend_packed* packed_ = nullptr;
  const moe_backend_graph* graphs_ = nullptr;
  const moe_backend_fused* fused_ = nullptr;
  bool ops_are_graph_safe_ = true;
  Compute compute_{};
  std::deque<OpEntry> ops_;
  bool profiling_ = false;
  uint64_t profiled_ns_ = 0;
};

// How well a backend fits this machine (moe.backend.score/1); `reason` says why not where it is 0.
int32_t backend_score(const Component<moe_backend>& backend, std::string* reason);

}  // namespace patchbay
