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

// The bits of must_understand that these headers define for an operation's arguments. A backend that does not do what one of them asks for
// says MOE_UNIMPLEMENTED in find_op.
constexpr uint32_t op_bits(std::string_view id) {
  if (id == MOE_OP_ATTENTION) return MOE_ATTENTION_CHUNK | MOE_ATTENTION_TEMPERATURE;
  if (id == MOE_OP_CACHE_STORE) return MOE_CACHE_STORE_HEADS;
  return 0;
}
inline Status check_op_args(const char* id, const moe_op_args* args) {
  if (args == nullptr || args->struct_size < sizeof(moe_op_args)) return invalid(std::string(id) + ": expected its arguments, got fewer");
  const uint32_t unknown = args->must_understand & ~op_bits(id);
  if (unknown == 0) return {};
  return unimplemented(std::string(id) + ": asks for something unknown (must_understand " + std::to_string(unknown) + ")");
}

// A component class may have  static int32_t score(moe_message*)  for `backend = "auto"`.
template <std::derived_from<Backend> C>
struct ComponentOf<C> {
  static constexpr const char* kKind = MOE_BACKEND_ID;

  static Backend* of(moe_backend_instance* self) { return reinterpret_cast<Backend*>(self); }
  static moe_status create(const moe_host*, const moe_option_value* values, uint32_t n_values, moe_backend_instance** out,
                           moe_backend_description* description, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(description, "description"));
      std::unique_ptr<Backend> backend = std::make_unique<C>();
      MOE_TRY(backend->open(Options(values, n_values)));
      give(description, backend->describe());
      *out = reinterpret_cast<moe_backend_instance*>(backend.release());
      return {};
    });
  }
  static void destroy(moe_backend_instance* self) noexcept { delete of(self); }
  static moe_status alloc(moe_backend_instance* self, uint64_t n_bytes, int32_t memory, moe_buffer* out,
                          moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(out, "out"));
      MOE_ASSIGN(const moe_buffer buffer, of(self)->alloc(n_bytes, memory));
      give(out, buffer);
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
      MOE_TRY(check_struct(source, "source"));
      MOE_TRY(check_struct(out, "out"));
      MOE_ASSIGN(const moe_prepared prepared, of(self)->prepare(*Grown(*source)));
      give(out, prepared);
      return {};
    });
  }
  static moe_status find_op(moe_backend_instance* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                            moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_op_args(id, largest));
      MOE_TRY(check_struct(out, "out"));
      MOE_ASSIGN(const moe_op_info info, of(self)->find_op(id, *largest));
      give(out, info);
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
