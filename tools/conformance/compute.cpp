#include "tools/conformance/compute.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "moe/sdk/growth.hpp"

namespace patchbay::conformance {

moe::Result<std::unique_ptr<Compute>> Compute::open(Component<moe_backend> backend, CheckHost& host,
                                                    const std::vector<GivenOption>& given) {
  const std::string name = backend.header().name;
  MOE_ASSIGN(const OptionValues options, check_options(backend.header(), given, name));
  std::unique_ptr<Compute> self(new Compute(std::move(backend)));
  self->description_ = moe::make<moe_backend_description>();
  const auto created = across([&](moe_message* message) {
    return self->backend_->create(host.get(), options.data(), options.size(), &self->instance_, &self->description_,
                                  message);
  });
  if (!created.ok()) return created.error().in(fmt::format("backend \"{}\"", name));
  MOE_TRY(moe::check_struct(&self->description_, "description"));
  const auto extension = self->backend_.header().get_extension;
  const auto* rows =
      extension == nullptr ? nullptr : static_cast<const moe_backend_rows*>(extension(MOE_BACKEND_ROWS_ID));
  self->context_ = {host.get(), rows};
  self->shared_.abi = moe::make<moe_compute>();
  self->shared_.abi.backend = self->backend_.table;
  self->shared_.abi.instance = self->instance_;
  self->shared_.abi.stream = self->description_.stream;
  self->shared_.abi.device = self->description_.device;
  self->shared_.abi.flags = self->description_.flags;
  self->shared_.abi.find_op = find_op;
  self->shared_.abi.launch = launch;
  self->shared_.owner = self.get();
  return self;
}

Compute::~Compute() {
  for (auto& prepared : prepared_) prepared.release(&prepared);
  if (instance_ != nullptr) backend_->destroy(instance_);
}

moe::Result<moe_buffer> Compute::alloc(uint64_t n_bytes) {
  auto buffer = moe::make<moe_buffer>();
  MOE_TRY(across([&](moe_message* m) { return backend_->alloc(instance_, n_bytes, MOE_MEMORY_DEVICE, &buffer, m); }));
  return buffer;
}
moe::Status Compute::upload(void* to, const void* from, uint64_t n_bytes) {
  if (n_bytes == 0) return {};
  return across([&](moe_message* m) {
    return backend_->copy(instance_, to, from, n_bytes, MOE_COPY_TO_DEVICE, description_.stream, m);
  });
}
moe::Status Compute::download(void* to, const void* from, uint64_t n_bytes) {
  if (n_bytes == 0) return {};
  MOE_TRY(across([&](moe_message* m) {
    return backend_->copy(instance_, to, from, n_bytes, MOE_COPY_TO_HOST, description_.stream, m);
  }));
  return sync();
}
moe::Status Compute::sync() {
  return across([&](moe_message* m) { return backend_->sync(instance_, description_.stream, m); });
}

moe::Result<const moe_weight*> Compute::prepare(const moe_weight_spec& spec, const std::vector<float>& values) {
  struct Source {
    const moe_weight_spec& spec;
    const std::vector<float>& values;
  } from{spec, values};
  auto source = moe::make<moe_weight_source>();
  source.name = source.role = spec.role;
  source.encoding = source.wanted = "f32";
  source.n_groups = spec.n_groups;
  source.n_out = spec.n_out;
  source.n_in = spec.n_in;
  source.uses = MOE_USE_MATMUL;
  source.context = &from;
  source.read_f32 = [](void* context, int64_t group, int64_t row, int64_t n_rows, float* out) {
    const auto& s = *static_cast<const Source*>(context);
    std::copy_n(s.values.data() + (group * s.spec.n_out + row) * s.spec.n_in, n_rows * s.spec.n_in, out);
  };
  source.raw = [](void* context, int64_t group) -> const void* {
    const auto& s = *static_cast<const Source*>(context);
    return s.values.data() + group * s.spec.n_out * s.spec.n_in;
  };
  source.done = [](void*, int64_t) {};
  auto prepared = moe::make<moe_prepared>();
  const CheckHost::ComputeScope may_compute;
  MOE_TRY(across([&](moe_message* m) { return backend_->prepare(instance_, &source, &prepared, m); }));
  prepared_.push_back(prepared);
  return prepared.weight;
}

moe_status Compute::find_op(const moe_compute* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                            moe_message* message) {
  const HostCode mine;
  Compute& c = *reinterpret_cast<const Shared*>(self)->owner;
  return moe::guard(message, [&]() -> moe::Status {
    MOE_TRY(moe::check_struct(out, "out"));
    auto info = moe::make<moe_op_info>();
    moe::MessageBuffer text;
    const moe_status own = c.backend_->find_op(c.instance_, id, largest, &info, text.get());
    const moe::loops::LoopOp* loop = own == MOE_UNIMPLEMENTED && c.host_visible() ? moe::loops::find(id) : nullptr;
    if (own != MOE_OK && loop == nullptr) return text.error(own);
    c.found_.push_back({own == MOE_OK ? info.op : nullptr, loop});
    if (loop != nullptr) info.workspace_bytes = loop->workspace(*largest, c.context_);
    info.op = reinterpret_cast<const moe_op*>(&c.found_.back());
    moe::give(out, info);
    return {};
  });
}

moe_status Compute::launch(const moe_compute* self, const moe_op* op, const moe_op_args* args, moe_message* message) {
  const HostCode mine;
  const Compute& c = *reinterpret_cast<const Shared*>(self)->owner;
  const auto& found = *reinterpret_cast<const FoundOp*>(op);
  if (found.loop == nullptr) return c.backend_->launch(c.instance_, found.own, args, c.description_.stream, message);
  return moe::guard(message, [&] { return found.loop->run(*args, c.context_); });
}

BoundWeights::~BoundWeights() {
  for (auto& buffer : buffers_) buffer.release(&buffer);
}

moe::Status BoundWeights::bind(const moe_weight_spec* specs, uint32_t n_specs, const std::function<float()>& next,
                               const std::map<std::string, std::vector<float>>& given) {
  for (uint32_t i = 0; i < n_specs; ++i) {
    const moe_weight_spec& w = moe::nth(specs, i);
    MOE_TRY(moe::check_struct(&w, "weight"));
    const int64_t n = w.n_groups * w.n_out * w.n_in;
    if (w.role == nullptr || n < 1 || n > (int64_t{1} << 26))
      return moe::invalid("weights: expected a role and a shape");
    const auto found = given.find(w.role);
    if (found != given.end() && found->second.empty() && w.optional != 0) {
      bound_.push_back({w.role, nullptr, nullptr});
      continue;
    }
    auto& values = values_.emplace_back(static_cast<size_t>(n));
    if (found != given.end() && found->second.size() != values.size())
      return moe::invalid(fmt::format("weight {}: expected {} values, got {}", w.role, n, found->second.size()));
    if (found != given.end()) {
      values = found->second;
    } else {
      std::generate(values.begin(), values.end(), next);
    }
    moe_bound_weight bound{w.role, nullptr, nullptr};
    if (w.placement == MOE_PLACE_PREPARED) {
      MOE_ASSIGN(bound.prepared, compute_.prepare(w, values));
    } else if (w.placement == MOE_PLACE_HOST || compute_.host_visible()) {
      bound.plain = values.data();
    } else {
      MOE_ASSIGN(moe_buffer buffer, compute_.alloc(static_cast<uint64_t>(n) * 4));
      buffers_.push_back(buffer);
      MOE_TRY(compute_.upload(buffer.data, values.data(), static_cast<uint64_t>(n) * 4));
      MOE_TRY(compute_.sync());
      bound.plain = static_cast<const float*>(buffer.data);
    }
    bound_.push_back(bound);
  }
  return {};
}

CallMemory::~CallMemory() {
  for (auto& region : regions_) {
    if (region.device.release != nullptr) region.device.release(&region.device);
  }
}

void* CallMemory::add(const std::string& name, const void* init, uint64_t n_bytes, Use use) {
  Region& r = regions_.emplace_back();
  r.name = name;
  r.use = use;
  r.n_bytes = n_bytes;
  r.image.assign(n_bytes + 2 * kCanary, 0xC5);
  std::memset(r.image.data() + kCanary, 0xFF, n_bytes);
  if (init != nullptr && n_bytes > 0) std::memcpy(r.image.data() + kCanary, init, n_bytes);
  if (compute_ == nullptr) {
    r.host.resize(r.image.size() + 64);
    r.at = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(r.host.data()) + 63) / 64 * 64);
    std::memcpy(r.at, r.image.data(), r.image.size());
    return r.at + kCanary;
  }
  auto buffer = compute_->alloc(r.image.size());
  if (!buffer.ok()) {
    status_ = buffer.error();
    return nullptr;
  }
  r.device = *buffer;
  r.at = static_cast<uint8_t*>(buffer->data);
  if (auto s = compute_->upload(r.at, r.image.data(), r.image.size()); !s.ok()) status_ = s;
  if (auto s = compute_->sync(); !s.ok()) status_ = s;
  return r.at + kCanary;
}

std::vector<uint8_t> CallMemory::image_of(Region& r) {
  std::vector<uint8_t> now(r.image.size());
  if (compute_ == nullptr) {
    std::memcpy(now.data(), r.at, now.size());
  } else if (auto s = compute_->download(now.data(), r.at, now.size()); !s.ok()) {
    status_ = s;
  }
  return now;
}

CallMemory::Region& CallMemory::region_at(const void* data) {
  for (auto& r : regions_) {
    if (r.at + kCanary == data) return r;
  }
  return regions_.front();
}

std::vector<uint8_t> CallMemory::read(const void* data) {
  Region& r = region_at(data);
  const auto now = image_of(r);
  return {now.begin() + kCanary, now.begin() + static_cast<int64_t>(kCanary + r.n_bytes)};
}

void CallMemory::refill(CallMemory& other) {
  for (size_t i = 0; i < regions_.size() && i < other.regions_.size(); ++i) {
    Region& r = regions_[i];
    r.image = other.regions_[i].image;
    if (compute_ == nullptr) {
      std::memcpy(r.at, r.image.data(), r.image.size());
    } else if (auto s = compute_->upload(r.at, r.image.data(), r.image.size()); !s.ok()) {
      status_ = s;
    }
  }
  if (compute_ != nullptr) (void)compute_->sync();
}

void CallMemory::spoil() {
  for (auto& r : regions_) {
    std::fill(r.image.begin(), r.image.end(), uint8_t{0xFF});
    if (compute_ == nullptr) {
      std::memcpy(r.at, r.image.data(), r.image.size());
    } else if (auto s = compute_->upload(r.at, r.image.data(), r.image.size()); !s.ok()) {
      status_ = s;
    }
  }
  if (compute_ != nullptr) (void)compute_->sync();
}

std::string CallMemory::violations(bool spoiled) {
  for (auto& r : regions_) {
    const auto now = image_of(r);
    for (uint64_t i = 0; i < now.size(); ++i) {
      if (now[i] == r.image[i]) continue;
      const bool inside = i >= kCanary && i < kCanary + r.n_bytes;
      const uint64_t at = i - kCanary;
      const bool in_row = inside && (r.stride_bytes == 0 || at % r.stride_bytes < r.row_bytes);
      if (spoiled) return fmt::format("{}: expected no write after its call, got one", r.name);
      if (in_row && r.use == Use::kOutput) continue;
      if (in_row) return fmt::format("{}: expected an input to stay as it is, got another byte {}", r.name, at);
      if (inside) return fmt::format("{}: expected nothing to be written between its rows, got byte {}", r.name, at);
      return i < kCanary
                 ? fmt::format("{}: expected nothing to be written before it, got byte -{}", r.name, kCanary - i)
                 : fmt::format("{}: expected nothing to be written after its {} bytes, got byte {}", r.name, r.n_bytes,
                               at);
    }
  }
  return "";
}

}  // namespace patchbay::conformance
