// The backend `cuda`. See README.md.
#include <cstring>
#include <deque>
#include <memory>
#include <string>

#include "fused.hpp"
#include "moe/sdk/backend.hpp"
#include "ops.hpp"

struct moe_op {
  const moe::cuda::OpRow* row = nullptr;  // null: fused
  std::unique_ptr<moe::cuda::FusedOp> fused;
};

namespace moe::cuda {
namespace {

// The number of devices, or why there is none that the backend can use.
Result<int> usable_devices() {
  int n = 0;
  const cudaError_t status = cudaGetDeviceCount(&n);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return Error{MOE_UNAVAILABLE, std::string("no CUDA device: ") + cudaGetErrorString(status)};
  }
  if (n == 0) return Error{MOE_UNAVAILABLE, "no CUDA device: the driver reports none"};
  return n;
}

// The kernels need compute capability 8.0 or later.
Status check_capability(int device) {
  int major = 0;
  int minor = 0;
  MOE_CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  MOE_CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  if (major >= 8) return {};
  return Error{MOE_UNAVAILABLE, "CUDA device " + std::to_string(device) +
                                    ": expected compute capability 8.0 or later, got " + std::to_string(major) + "." +
                                    std::to_string(minor)};
}

constexpr moe_backend_score kScore = [] {
  auto score = make<moe_backend_score>();
  score.score = [](moe_message* message) -> int32_t {
    const auto devices = usable_devices();
    const Status capable = devices.ok() ? check_capability(0) : Status(devices.error());
    if (capable.ok()) return 200;
    write_message(message, capable.error().message);
    return 0;
  };
  return score;
}();

Status begin_graph(void* stream);
Result<moe_graph*> end_graph(void* stream);
Status launch_graph(moe_graph* graph, void* stream);

// A graph is the executable one; nothing else is kept of the recording.
constexpr moe_backend_graph kGraph = [] {
  auto graph = make<moe_backend_graph>();
  graph.begin = [](moe_backend_instance*, void* stream, moe_message* message) {
    return guard(message, [&] { return begin_graph(stream); });
  };
  graph.end = [](moe_backend_instance*, void* stream, moe_graph** out, moe_message* message) {
    return guard(message, [&]() -> Status {
      MOE_ASSIGN(*out, end_graph(stream));
      return {};
    });
  };
  graph.launch = [](moe_backend_instance*, moe_graph* g, void* stream, moe_message* message) {
    return guard(message, [&] { return launch_graph(g, stream); });
  };
  graph.destroy = [](moe_backend_instance*, moe_graph* g) {
    cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(g));
  };
  return graph;
}();

Status begin_graph(void* stream) {
  MOE_TRY(poisoned());
  // Relaxed: other threads (the loader of another model, say) may allocate meanwhile.
  MOE_CUDA_TRY(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeRelaxed));
  return {};
}
Result<moe_graph*> end_graph(void* stream) {
  cudaGraph_t graph = nullptr;
  MOE_CUDA_TRY(cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &graph));
  cudaGraphExec_t executable = nullptr;
  const Status made = check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate", "cuda.cpp");
  cudaGraphDestroy(graph);
  if (!made.ok()) return made.error();
  return reinterpret_cast<moe_graph*>(executable);
}
Status launch_graph(moe_graph* graph, void* stream) {
  MOE_CUDA_TRY(cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)));
  return {};
}

extern const moe_backend_fused kFused;

class Cuda final : public Backend {
 public:
  static constexpr const char* kName = "cuda";
  static constexpr const char* kDoc = "NVIDIA GPUs of compute capability 8.0 and later.";
  static constexpr uint32_t kCapabilities = MOE_CAP_GRAPH_SAFE;
  static constexpr moe_option kOptions[] = {
      int_option("device", "0", 0, 1023, "Which of the devices that the driver lists."),
      bool_option("deterministic", "false",
                  "A request's results are the same bits alone and in any company: every product takes the kernel "
                  "whose order of "
                  "summation does not depend on the number of rows. Slower with many rows."),
  };
  static const void* extension(const char* id) {
    if (std::string_view(id) == MOE_BACKEND_ROWS_ID) return &kRowsExtension;
    if (std::string_view(id) == MOE_BACKEND_SCORE_ID) return &kScore;
    if (std::string_view(id) == MOE_BACKEND_GRAPH_ID) return &kGraph;
    if (std::string_view(id) == MOE_BACKEND_FUSED_ID) return &kFused;
    return nullptr;
  }

  ~Cuda() override {
    blas_.reset();
    cudaFree(context_.tickets);
    if (context_.stream != nullptr) cudaStreamDestroy(context_.stream);
  }

  Status open(const Options& options) override {
    MOE_ASSIGN(const int n_devices, usable_devices());
    context_.device = static_cast<int>(options.integer("device"));
    context_.deterministic = options.flag("deterministic");
    if (context_.device >= n_devices) {
      return invalid("device: expected at most " + std::to_string(n_devices - 1) + ", got " +
                     std::to_string(context_.device));
    }
    MOE_TRY(check_capability(context_.device));
    MOE_CUDA_TRY(cudaSetDevice(context_.device));
    cudaDeviceProp properties{};
    MOE_CUDA_TRY(cudaGetDeviceProperties(&properties, context_.device));
    context_.n_multiprocessors = properties.multiProcessorCount;
    context_.pdl = properties.major >= 9;
    context_.shared_bytes = properties.sharedMemPerBlockOptin;
    MOE_CUDA_TRY(cudaStreamCreateWithFlags(&context_.stream, cudaStreamNonBlocking));
    void* tickets = nullptr;
    MOE_CUDA_TRY(cudaMalloc(&tickets, kTickets * sizeof(unsigned)));
    context_.tickets = static_cast<unsigned*>(tickets);
    MOE_CUDA_TRY(cudaMemsetAsync(tickets, 0, kTickets * sizeof(unsigned), context_.stream));
    MOE_ASSIGN(blas_, Blas::open(context_.stream));
    context_.blas = blas_.get();
    device_name_ = std::string(properties.name) + ", " + std::to_string(properties.totalGlobalMem >> 30) + " GiB";
    for (const auto& rows : {rows_ops(), matmul_ops(), attention_ops(), route_ops(), ffn_ops()}) {
      for (const OpRow& row : rows) ops_.push_back({&row, nullptr});
    }
    return {};
  }

  [[nodiscard]] moe_backend_description describe() const override {
    auto d = make<moe_backend_description>();
    d.device = {MOE_DEVICE_CUDA, context_.device};
    d.device_name = device_name_.c_str();
    d.stream = context_.stream;
    size_t n_free = 0;
    size_t n_total = 0;
    if (cudaMemGetInfo(&n_free, &n_total) == cudaSuccess) d.free_bytes = n_free;
    return d;
  }

  Result<moe_buffer> alloc(uint64_t n_bytes, int32_t memory) override {
    MOE_TRY(poisoned());
    if (memory != MOE_MEMORY_DEVICE && memory != MOE_MEMORY_HOST_PINNED) {
      return invalid("memory: expected MOE_MEMORY_DEVICE or MOE_MEMORY_HOST_PINNED, got " + std::to_string(memory));
    }
    MOE_CUDA_TRY(cudaSetDevice(context_.device));
    auto buffer = make<moe_buffer>();
    buffer.n_bytes = n_bytes;
    const bool pinned = memory == MOE_MEMORY_HOST_PINNED;
    const size_t wanted = std::max<uint64_t>(n_bytes, 1);
    const cudaError_t status =
        pinned ? cudaHostAlloc(&buffer.data, wanted, cudaHostAllocDefault) : cudaMalloc(&buffer.data, wanted);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t n_free = 0;
      size_t n_total = 0;
      MOE_CUDA_TRY(cudaMemGetInfo(&n_free, &n_total));
      return exhausted("alloc: expected " + std::to_string(n_bytes) + " bytes of " +
                       (pinned ? "pinned host memory" : "device memory") + ", got less; " + std::to_string(n_free) +
                       " of " + std::to_string(n_total) + " bytes of device memory are free");
    }
    MOE_CUDA_TRY(status);
    buffer.owner = buffer.data;
    if (pinned) {
      std::memset(buffer.data, 0, wanted);
      buffer.device = kHost;
      buffer.release = [](moe_buffer* self) { cudaFreeHost(self->owner); };
      return buffer;
    }
    buffer.device = {MOE_DEVICE_CUDA, context_.device};
    buffer.release = [](moe_buffer* self) { cudaFree(self->owner); };
    MOE_CUDA_TRY(cudaMemsetAsync(buffer.data, 0, wanted, context_.stream));
    return buffer;
  }

  Status copy(void* to, const void* from, uint64_t n_bytes, int32_t direction, void* stream) override {
    if (n_bytes == 0) return {};
    const cudaMemcpyKind kind = direction == MOE_COPY_TO_DEVICE ? cudaMemcpyHostToDevice
                                : direction == MOE_COPY_TO_HOST ? cudaMemcpyDeviceToHost
                                                                : cudaMemcpyDeviceToDevice;
    MOE_CUDA_TRY(cudaMemcpyAsync(to, from, n_bytes, kind, static_cast<cudaStream_t>(stream)));
    return {};
  }

  Result<moe_prepared> prepare(const moe_weight_source& source) override {
    MOE_CUDA_TRY(cudaSetDevice(context_.device));
    return prepare_weight(source, uploader_);
  }

  Result<moe_op_info> find_op(std::string_view id, const moe_op_args& largest) override {
    MOE_TRY(uploader_.finish());  // the weights that it names have arrived
    for (const moe_op& op : ops_) {
      if (op.row == nullptr || id != op.row->id) continue;
      MOE_TRY(check_header(*op.row, largest));
      MOE_ASSIGN(const Found found, op.row->find(context_, largest));
      return info_of(op, found);
    }
    return unimplemented("operation: expected one of moe/abi/ops.h, got " + std::string(id));
  }

  Result<moe_op_info> find_fused(std::span<const char* const> ids, std::span<const moe_op_args* const> largest,
                                 uint32_t temporary) {
    MOE_ASSIGN(std::unique_ptr<FusedOp> fused, FusedOp::find(context_, ids, largest, temporary));
    const Found found = fused->found();
    ops_.push_back({nullptr, std::move(fused)});
    return info_of(ops_.back(), found);
  }

  Status launch_fused(const moe_op& op, const moe_op_args* const* args, void* workspace, uint64_t workspace_bytes,
                      void* stream) {
    return op.fused->run(context_, args, workspace, workspace_bytes, static_cast<cudaStream_t>(stream));
  }

  Status launch(const moe_op& op, const moe_op_args& args, void* stream) override {
    return op.row->run(context_, args, static_cast<cudaStream_t>(stream));
  }

  Status sync(void* stream) override {
    MOE_TRY(poisoned());
    MOE_CUDA_TRY(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
    return {};
  }

 private:
  [[nodiscard]] moe_op_info info_of(const moe_op& op, const Found& found) const {
    auto info = make<moe_op_info>();
    info.op = &op;
    info.implementation = found.implementation;
    info.workspace_bytes = found.workspace_bytes;
    info.flags = kCapabilities | MOE_CAP_DETERMINISTIC | (context_.deterministic ? MOE_CAP_BATCH_INVARIANT : 0);
    return info;
  }

  Context context_;
  std::unique_ptr<Blas> blas_;
  Uploader uploader_;
  std::deque<moe_op> ops_;
  std::string device_name_;
};

Cuda& self_of(moe_backend_instance* self) { return *static_cast<Cuda*>(ComponentOf<Cuda>::of(self)); }

constexpr moe_backend_fused kFused = [] {
  auto fused = make<moe_backend_fused>();
  fused.find = [](moe_backend_instance* self, uint32_t n, const char* const* ids, const moe_op_args* const* largest,
                  uint32_t temporary, moe_op_info* out, moe_message* message) {
    return guard(message, [&]() -> Status {
      MOE_ASSIGN(*out, self_of(self).find_fused({ids, n}, {largest, n}, temporary));
      return {};
    });
  };
  fused.launch = [](moe_backend_instance* self, const moe_op* op, const moe_op_args* const* args, void* workspace,
                    uint64_t n_bytes, void* stream, moe_message* message) {
    return guard(message, [&] { return self_of(self).launch_fused(*op, args, workspace, n_bytes, stream); });
  };
  return fused;
}();

}  // namespace
}  // namespace moe::cuda

MOE_PLUGIN("backend_cuda", "0.1.0", "Apache-2.0", "Patchbay", moe::cuda::Cuda)
