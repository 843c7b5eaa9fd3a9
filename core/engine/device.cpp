#include "core/engine/device.hpp"

#include <fmt/format.h>

#include "moe/sdk/loops.hpp"

namespace patchbay {
namespace {

moe::loops::LoopContext loop_context(const Host& host, const moe_backend_rows* rows) {
  moe::loops::LoopContext context;
  context.host = host.abi();
  context.rows = rows;
  return context;
}

template <typename T>
const T* extension(const moe_component& component, const char* id) {
  if (component.get_extension == nullptr) return nullptr;
  const auto* found = static_cast<const T*>(component.get_extension(id));
  return found != nullptr && found->struct_size >= sizeof(T) && found->must_understand == 0 ? found : nullptr;
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

moe::Result<std::unique_ptr<Device>> Device::open(Component<moe_backend> backend, const std::vector<GivenOption>& given, Host& host) {
  const std::string name = backend.header().name;
  MOE_ASSIGN(const OptionValues values, check_options(backend.header(), given, fmt::format("backend \"{}\"", name)));
  std::unique_ptr<Device> device(new Device(std::move(backend), host));
  device->name_ = name;
  device->description_ = moe::make<moe_backend_description>();
  moe::MessageBuffer message;
  const moe_status status =
      device->backend_->create(host.abi(), values.data(), values.size(), &device->instance_, &device->description_, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\"", name));
  device->rows_ = extension<moe_backend_rows>(device->backend_.header(), MOE_BACKEND_ROWS_ID);
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

moe::Result<Buffer> Device::alloc(uint64_t n_bytes) {
  moe_buffer buffer = moe::make<moe_buffer>();
  moe::MessageBuffer message;
  const moe_status status = backend_->alloc(instance_, n_bytes, MOE_MEMORY_DEVICE, &buffer, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": {} bytes", name_, n_bytes));
  return Buffer(buffer);
}

moe::Result<PreparedWeight> Device::prepare(const moe_weight_source& source) {
  moe_prepared prepared = moe::make<moe_prepared>();
  moe::MessageBuffer message;
  const moe_status status = backend_->prepare(instance_, &source, &prepared, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": {}", name_, source.name));
  return PreparedWeight(prepared);
}

moe::Status Device::upload(void* to, const void* from, uint64_t n_bytes) {
  if (n_bytes == 0) return {};
  if (host_visible()) {
    std::memcpy(to, from, n_bytes);
    return {};
  }
  moe::MessageBuffer message;
  const moe_status status = backend_->copy(instance_, to, from, n_bytes, MOE_COPY_TO_DEVICE, description_.stream, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": copy", name_));
  return {};
}

moe::Status Device::download(void* to, const void* from, uint64_t n_bytes) {
  if (n_bytes == 0) return {};
  if (host_visible()) {
    std::memcpy(to, from, n_bytes);
    return {};
  }
  moe::MessageBuffer message;
  const moe_status status = backend_->copy(instance_, to, from, n_bytes, MOE_COPY_TO_HOST, description_.stream, message.get());
  if (status != MOE_OK) return message.error(status).in(fmt::format("backend \"{}\": copy", name_));
  return sync();
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
    entry.native = native.op;
    out = native;
  } else if (status != MOE_UNIMPLEMENTED) {
    return message.error(status);
  } else {
    const auto* loop = moe::loops::find(id);
    if (loop == nullptr || !host_visible() || rows_ == nullptr) {
      return moe::unimplemented(fmt::format("backend \"{}\": has no such operation ({}), and the portable loops cannot stand in", name_, message.text()));
    }
    entry.loop = loop;
    out = moe::make<moe_op_info>();
    out.implementation = "loops";
    out.workspace_bytes = loop->workspace(largest, loop_context(*host_, rows_));
    out.flags = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_HOST_SYNC;
  }
  entry.time.implementation = out.implementation == nullptr ? "" : out.implementation;
  ops_.push_back(std::move(entry));
  out.op = reinterpret_cast<const moe_op*>(&ops_.back());
  return {};
}

moe_status Device::find_op(const moe_compute* self, const char* id, const moe_op_args* largest, moe_op_info* out, moe_message* message) {
  Device* device = reinterpret_cast<const Compute*>(self)->device;
  return moe::guard(message, [&] { return device->find_op(id, *largest, *out); });
}

moe_status Device::launch(const moe_compute* self, const moe_op* op, const moe_op_args* args, moe_message* message) {
  Device* device = reinterpret_cast<const Compute*>(self)->device;
  auto& entry = *reinterpret_cast<OpEntry*>(const_cast<moe_op*>(op));
  if (!device->profiling_) return device->run(entry, args, message);
  const auto start = std::chrono::steady_clock::now();
  const moe_status status = device->run(entry, args, message);
  if (device->description_.stream != nullptr && !device->sync().ok()) return MOE_INTERNAL;
  const auto ns = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
  entry.time.nanoseconds += ns;
  ++entry.time.launches;
  device->profiled_ns_ += ns;
  return status;
}

moe_status Device::run(OpEntry& entry, const moe_op_args* args, moe_message* message) {
  if (entry.native != nullptr) return backend_->launch(instance_, entry.native, args, description_.stream, message);
  return moe::guard(message, [&] { return static_cast<const moe::loops::LoopOp*>(entry.loop)->run(*args, loop_context(*host_, rows_)); });
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
