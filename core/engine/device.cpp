#include "core/engine/device.hpp"

#include <fmt/format.h>

#include <cstring>

#include "moe/sdk/loops.hpp"

namespace patchbay {
namespace {

moe::loops::LoopContext loop_context(const Host& host, const moe_backend_rows* rows) {
  moe::loops::LoopContext context;
  context.host = host.abi();
  context.rows = rows;
  return context;
}

}  // namespace

int32_t backend_score(const Component<moe_backend>& backend, std::string* reason) {
  const auto* table = extension<moe_backend_score>(backend.header(), MOE_BACKEND_SCORE_ID);
  if (table == nullptr) return 1;
  moe::MessageBuffer message;
  const int32_t score = table->score(message.get());
  if (score <= 0 && reason != nullptr) *reason = message.text();
  return score;
}

moe::Result<std::unique_ptr<Device>> Device::open(Component<moe_backend> backend, const std::vector<GivenOption>& given,
                                                  Host& host) {
  const std::string name = backend.header().name;
  MOE_ASSIGN(const OptionValues values, check_options(backend.header(), given, fmt::format("backend \"{}\"", name)));
  std::unique_ptr<Device> device(new Device(std::move(backend), host));
  device->name_ = name;
  device->description_ = moe::make<moe_backend_description>();
  moe::MessageBuffer message;
  const moe_status status = device->backend_->create(host.abi(), values.data(), values.size(), &device->instance_,
                                                     &device->description_, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\"", name));
  if (auto s = moe::check_struct(&device->description_, "description"); !s.ok())
    return s.error().in(fmt::format("backend \"{}\"", name));
  device->rows_ = extension<moe_backend_rows>(device->backend_.header(), MOE_BACKEND_ROWS_ID);
  device->packed_ = extension<moe_backend_packed>(device->backend_.header(), MOE_BACKEND_PACKED_ID);
  device->graphs_ = extension<moe_backend_graph>(device->backend_.header(), MOE_BACKEND_GRAPH_ID);
  device->fused_ = extension<moe_backend_fused>(device->backend_.header(), MOE_BACKEND_FUSED_ID);
  auto& c = device->compute_;
  c.device = device.get();
  c.abi = moe::make<moe_compute>();
  c.abi.backend = device->backend_.table;
  c.abi.instance = device->instance_;
  c.abi.stream = device->description_.stream;
  c.abi.device = device->description_.device;
  c.abi.flags = device->description_.flags;
  c.abi.find_op = find_op;
  c.abi.launch = launch;
  return device;
}

Device::~Device() {
  if (instance_ != nullptr) backend_->destroy(instance_);
}

moe::Result<Buffer> Device::alloc_in(uint64_t n_bytes, int32_t memory) {
  moe_buffer buffer = moe::make<moe_buffer>();
  moe::MessageBuffer message;
  const moe_status status = backend_->alloc(instance_, n_bytes, memory, &buffer, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": {} bytes", name_, n_bytes));
  Buffer owned(buffer);
  if (auto s = moe::check_struct(&buffer, "buffer"); !s.ok()) return s.error().in(fmt::format("backend \"{}\"", name_));
  return owned;
}

moe::Result<Buffer> Device::alloc(uint64_t n_bytes) { return alloc_in(n_bytes, MOE_MEMORY_DEVICE); }
moe::Result<Buffer> Device::alloc_host(uint64_t n_bytes) { return alloc_in(n_bytes, MOE_MEMORY_HOST_PINNED); }

template <typename F>
moe::Result<PreparedWeight> Device::prepared_by(const moe_weight_source& source, F&& f) {
  moe_prepared prepared = moe::make<moe_prepared>();
  moe::MessageBuffer message;
  const moe_status status = f(&prepared, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": {}", name_, source.name));
  PreparedWeight owned(prepared);
  if (auto s = moe::check_struct(&prepared, "prepared"); !s.ok())
    return s.error().in(fmt::format("backend \"{}\"", name_));
  return owned;
}

moe::Result<PreparedWeight> Device::prepare(const moe_weight_source& source) {
  return prepared_by(source, [&](moe_prepared* out, moe_message* m) { return backend_->prepare(instance_, &source, out, m); });
}

std::string Device::packed_layout() const {
  const char* version = backend_.library == nullptr ? "" : backend_.library->entry().version;
  return fmt::format("{} {} {}", name_, version, packed_->layout(instance_));
}

std::span<const std::byte> Device::packed_bytes(const PreparedWeight& weight) const {
  uint64_t n_bytes = 0;
  const void* bytes = packed_->bytes(weight.get(), &n_bytes);
  return {static_cast<const std::byte*>(bytes), n_bytes};
}

moe::Result<PreparedWeight> Device::adopt(const moe_weight_source& source, std::span<const std::byte> bytes) {
  return prepared_by(source, [&](moe_prepared* out, moe_message* m) {
    return packed_->adopt(instance_, &source, bytes.data(), bytes.size(), out, m);
  });
}

moe::Status Device::copy(void* to, const void* from, uint64_t n_bytes, int32_t direction) {
  if (n_bytes == 0) return {};
  if (host_visible()) {
    std::memcpy(to, from, n_bytes);
    return {};
  }
  moe::MessageBuffer message;
  const moe_status status = backend_->copy(instance_, to, from, n_bytes, direction, description_.stream, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": copy", name_));
  return {};
}

moe::Status Device::upload(void* to, const void* from, uint64_t n_bytes) {
  return copy(to, from, n_bytes, MOE_COPY_TO_DEVICE);
}
moe::Status Device::start_download(void* to, const void* from, uint64_t n_bytes) {
  return copy(to, from, n_bytes, MOE_COPY_TO_HOST);
}
moe::Status Device::copy_inside(void* to, const void* from, uint64_t n_bytes) {
  return copy(to, from, n_bytes, MOE_COPY_ON_DEVICE);
}

moe::Status Device::download(void* to, const void* from, uint64_t n_bytes) {
  MOE_TRY(start_download(to, from, n_bytes));
  return host_visible() ? moe::Status() : sync();
}

moe::Status Device::begin_recording() {
  moe::MessageBuffer message;
  const moe_status status = graphs_->begin(instance_, description_.stream, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": recording", name_));
  return {};
}

moe::Result<Graph> Device::end_recording() {
  moe_graph* graph = nullptr;
  moe::MessageBuffer message;
  const moe_status status = graphs_->end(instance_, description_.stream, &graph, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": recording", name_));
  return Graph(*this, graph);
}

Graph::~Graph() {
  if (graph_ != nullptr) device_->graphs_->destroy(device_->instance_, graph_);
}

moe::Status Graph::launch() const {
  moe::MessageBuffer message;
  const moe_status status =
      device_->graphs_->launch(device_->instance_, graph_, device_->description_.stream, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": graph", device_->name_));
  return {};
}

moe::Status Device::sync() {
  moe::MessageBuffer message;
  const moe_status status = backend_->sync(instance_, description_.stream, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\"", name_));
  return {};
}

moe::Status Device::find_op(std::string_view id, const moe_op_args& largest, moe_op_info& out) {
  moe_op_info native = moe::make<moe_op_info>();
  moe::MessageBuffer message;
  const moe_status status = backend_->find_op(instance_, std::string(id).c_str(), &largest, &native, message.get());
  OpEntry entry;
  entry.id = id;
  if (status == MOE_OK) {
    MOE_TRY(moe::check_struct(&native, "op info"));
    entry.native = native.op;
    out = native;
  } else if (status != MOE_UNIMPLEMENTED) {
    return message.error(status);
  } else {
    const auto* loop = moe::loops::find(id);
    if (loop == nullptr || !host_visible() || rows_ == nullptr) {
      return moe::unimplemented(fmt::format(
          "backend \"{}\": has no such operation ({}), and the portable loops cannot stand in", name_, message.text()));
    }
    entry.loop = loop;
    out = moe::make<moe_op_info>();
    out.implementation = "loops";
    out.workspace_bytes = loop->workspace(largest, loop_context(*host_, rows_));
    out.flags = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_HOST_SYNC;
  }
  ops_are_graph_safe_ = ops_are_graph_safe_ && (out.flags & MOE_CAP_GRAPH_SAFE) != 0;
  entry.time.implementation = out.implementation == nullptr ? "" : out.implementation;
  ops_.push_back(std::move(entry));
  out.op = reinterpret_cast<const moe_op*>(&ops_.back());
  return {};
}

moe_status Device::find_op(const moe_compute* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                           moe_message* message) {
  Device* device = reinterpret_cast<const Compute*>(self)->device;
  return moe::guard(message, [&]() -> moe::Status {
    MOE_TRY(moe::check_struct(out, "out"));
    auto found = moe::make<moe_op_info>();
    MOE_TRY(device->find_op(id, *largest, found));
    moe::give(out, found);
    return {};
  });
}

template <typename F>
moe_status Device::timed(OpEntry& entry, F&& f) {
  if (!profiling_) return f();
  const auto start = std::chrono::steady_clock::now();
  const moe_status status = f();
  if (description_.stream != nullptr && !sync().ok()) return MOE_INTERNAL;
  const auto ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
  entry.time.nanoseconds += ns;
  ++entry.time.launches;
  profiled_ns_ += ns;
  return status;
}

// Calls f with the arguments copied away from the caller's frames, and itself that far below them.
//
// Compute threads read an operation's arguments, and what it hands them, from the stack of who launched it. A line that
// another core has read must be fetched back before it can be written, 0.1 us and more where the cores share no cache,
// and a load that overlaps such a write waits for it: the engine's frames, which build the next operation's arguments,
// would do so in every operation.
template <typename F>
[[gnu::noinline]] moe_status on_lines_of_its_own(const moe_op_args* args, F&& f) {
  constexpr size_t kGap = 4096;
  struct alignas(64) {
    char args[1024];
    char gap[kGap];
  } frame;
  asm volatile("" : : "r"(&frame) : "memory");  // or the compiler would leave it out
  if (args->struct_size > sizeof(frame.args)) return f(args);
  std::memcpy(frame.args, args, args->struct_size);
  return f(reinterpret_cast<const moe_op_args*>(frame.args));
}

moe_status Device::launch(const moe_compute* self, const moe_op* op, const moe_op_args* args, moe_message* message) {
  Device* device = reinterpret_cast<const Compute*>(self)->device;
  auto& entry = *reinterpret_cast<OpEntry*>(const_cast<moe_op*>(op));
  return device->timed(entry, [&] {
    return on_lines_of_its_own(args, [&](const moe_op_args* copy) { return device->run(entry, copy, message); });
  });
}

moe::Result<std::optional<moe_op_info>> Device::find_fused(std::span<const char* const> ids,
                                                           std::span<const moe_op_args* const> largest,
                                                           uint32_t temporary) {
  std::optional<moe_op_info> none;
  if (fused_ == nullptr) return none;
  moe_op_info info = moe::make<moe_op_info>();
  moe::MessageBuffer message;
  const auto n = static_cast<uint32_t>(ids.size());
  const moe_status status = fused_->find(instance_, n, ids.data(), largest.data(), temporary, &info, message.get());
  if (status == MOE_UNIMPLEMENTED) return none;
  if (status != MOE_OK) return message.error(status);
  OpEntry entry;
  entry.native = info.op;
  for (const char* id : ids) entry.id += (entry.id.empty() ? "" : " + ") + std::string(id);
  entry.time.implementation = info.implementation == nullptr ? "" : info.implementation;
  ops_are_graph_safe_ = ops_are_graph_safe_ && (info.flags & MOE_CAP_GRAPH_SAFE) != 0;
  ops_.push_back(std::move(entry));
  info.op = reinterpret_cast<const moe_op*>(&ops_.back());
  return std::optional(info);
}

moe::Status Device::launch_fused(const moe_op_info& info, std::span<const moe_op_args* const> args, void* workspace,
                                 uint64_t workspace_bytes) {
  auto& entry = *reinterpret_cast<OpEntry*>(const_cast<moe_op*>(info.op));
  moe::MessageBuffer message;
  const moe_status status = timed(entry, [&] {
    return fused_->launch(instance_, entry.native, args.data(), workspace, workspace_bytes, description_.stream,
                          message.get());
  });
  if (status != MOE_OK) return message.error(status).in(entry.id);
  return {};
}

moe_status Device::run(OpEntry& entry, const moe_op_args* args, moe_message* message) {
  if (entry.native != nullptr) return backend_->launch(instance_, entry.native, args, description_.stream, message);
  return moe::guard(message, [&] {
    return static_cast<const moe::loops::LoopOp*>(entry.loop)->run(*args, loop_context(*host_, rows_));
  });
}

std::map<std::string, OpTime> Device::profile_times() const {
  std::map<std::string, OpTime> out;
  for (const auto& entry : ops_) {
    if (entry.time.launches == 0) continue;
    OpTime& sum = out[entry.id];
    sum.implementation = entry.time.implementation;
    sum.launches += entry.time.launches;
    sum.nanoseconds += entry.time.nanoseconds;
  }
  return out;
}

void Device::reset_profile() {
  profiled_ns_ = 0;
  for (auto& entry : ops_) {
    entry.time.launches = 0;
    entry.time.nanoseconds = 0;
  }
}

}  // namespace patchbay
