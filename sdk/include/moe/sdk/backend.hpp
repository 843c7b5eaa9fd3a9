// Backends in C++: derive from Backend.
#pragma once

#include <concepts>
#include <memory>

#include "moe/abi/ops.h"
#include "moe/sdk/compute.hpp"

namespace moe {

class Backend {
 public:
  virtual ~Backend() = default;

  // Opens the device. [main-thread]
  virtual Status open(const Options& options) = 0;
  [[nodiscard]] virtual moe_backend_description describe() const = 0;
  virtual Result<moe_buffer> alloc(uint64_t n_bytes, int32_t memory) = 0;
  virtual Status copy(void* to, const void* from, uint64_t n_bytes, int32_t direction, void* stream) = 0;
  virtual Result<moe_prepared> prepare(const moe_weight_source& source) = 0;
  // MOE_UNIMPLEMENTED (moe::unimplemented) for an operation that the backend does not have.
  virtual Result<moe_op_info> find_op(std::string_view id, const moe_op_args& largest) = 0;
  virtual Status launch(const moe_op& op, const moe_op_args& args, void* stream) = 0;
  virtual Status sync(void* stream) = 0;
};

// A component class may have  static int32_t score(moe_message*)  for `backend = "auto"`.
template <std::derived_from<Backend> C>
struct ComponentOf<C> {
  static constexpr const char* kKind = MOE_BACKEND_ID;

  static Backend* of(moe_backend_instance* self) { return reinterpret_cast<Backend*>(self); }
  static moe_status create(const moe_host*, const moe_option_value* values, uint32_t n_values, moe_backend_instance** out,
                           moe_backend_description* description, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      std::unique_ptr<Backend> backend = std::make_unique<C>();
      MOE_TRY(backend->open(Options(values, n_values)));
      *description = backend->describe();
      *out = reinterpret_cast<moe_backend_instance*>(backend.release());
      return {};
    });
  }
  static void destroy(moe_backend_instance* self) noexcept { delete of(self); }
  static moe_status alloc(moe_backend_instance* self, uint64_t n_bytes, int32_t memory, moe_buffer* out,
                          moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_ASSIGN(*out, of(self)->alloc(n_bytes, memory));
      return {};
    });
  }
  static moe_status copy(moe_backend_instance* self, void* to, const void* from, uint64_t n_bytes, int32_t direction, void* stream,
                         moe_message* message) noexcept {
    return guard(message, [&] { return of(self)->copy(to, from, n_bytes, direction, stream); });
  }
  static moe_status prepare(moe_backend_instance* self, const moe_weight_source* source, moe_prepared* out,
                            moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_ASSIGN(*out, of(self)->prepare(*source));
      return {};
    });
  }
  static moe_status find_op(moe_backend_instance* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                            moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_ASSIGN(*out, of(self)->find_op(id, *largest));
      return {};
    });
  }
  static moe_status launch(moe_backend_instance* self, const moe_op* op, const moe_op_args* args, void* stream,
                           moe_message* message) noexcept {
    return guard(message, [&] { return of(self)->launch(*op, *args, stream); });
  }
  static moe_status sync(moe_backend_instance* self, void* stream, moe_message* message) noexcept {
    return guard(message, [&] { return of(self)->sync(stream); });
  }
  static constexpr moe_backend kTable = [] {
    moe_backend t{};
    t.component = component_header<C>(sizeof(moe_backend));
    t.create = create;
    t.destroy = destroy;
    t.alloc = alloc;
    t.copy = copy;
    t.prepare = prepare;
    t.find_op = find_op;
    t.launch = launch;
    t.sync = sync;
    return t;
  }();
};

}  // namespace moe
