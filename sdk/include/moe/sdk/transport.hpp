// Transports in C++: derive from Transport; the service's connections are ServiceConnection objects.
#pragma once

#include <chrono>
#include <concepts>
#include <memory>
#include <string_view>
#include <utility>

#include "moe/abi/transport.h"
#include "moe/sdk/compute.hpp"

namespace moe {

// Where one connection's events go. See moe_sink.
class EventSink {
 public:
  virtual ~EventSink() = default;

  // One serialized ServerMessage, borrowed for the call. Must not block, throw or call the service. MOE_OK: taken;
  // MOE_RESOURCE_EXHAUSTED: no room, offered again after ServiceConnection::resume(); anything else: the reader is
  // gone. [engine's thread, or within a submit or resume of this connection]
  virtual moe_status deliver(std::string_view message) noexcept = 0;
};

// A connection to the service, closed by its destructor. The sink must outlive it. All calls are [thread-safe] and do
// not block; none may be made from within deliver().
class ServiceConnection {
 public:
  ServiceConnection() = default;
  static Result<ServiceConnection> open(const moe_service* service, EventSink* to) {
    moe_sink sink = make<moe_sink>();
    sink.context = to;
    sink.deliver = [](void* context, const void* message, uint64_t n_bytes) {
      return static_cast<EventSink*>(context)->deliver({static_cast<const char*>(message), n_bytes});
    };
    ServiceConnection connection;
    MessageBuffer message;
    const moe_status status = service->open(service->self, &sink, &connection.id_, message.get());
    if (status != MOE_OK) return message.error(status);
    connection.service_ = service;
    return connection;
  }
  ~ServiceConnection() { close(); }
  ServiceConnection(ServiceConnection&& other) noexcept
      : service_(std::exchange(other.service_, nullptr)), id_(std::exchange(other.id_, 0)) {}
  ServiceConnection& operator=(ServiceConnection&& other) noexcept {
    if (this != &other) {
      close();
      service_ = std::exchange(other.service_, nullptr);
      id_ = std::exchange(other.id_, 0);
    }
    return *this;
  }

  // One serialized ClientMessage. Errors as in moe_service::submit; nothing was done then.
  Status submit(std::string_view client_message) {
    if (service_ == nullptr) return precondition("submit: expected an open connection, got a closed one");
    MessageBuffer message;
    const moe_status status =
        service_->submit(service_->self, id_, client_message.data(), client_message.size(), message.get());
    if (status != MOE_OK) return message.error(status);
    return {};
  }
  // The sink has room again.
  void resume() {
    if (service_ != nullptr) service_->resume(service_->self, id_);
  }
  // Cancels what still runs. No deliver() runs after it returns.
  void close() {
    if (service_ != nullptr) service_->close(std::exchange(service_, nullptr)->self, id_);
  }
  [[nodiscard]] bool is_open() const { return service_ != nullptr; }

 private:
  const moe_service* service_ = nullptr;
  uint64_t id_ = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;

  // Reads the options; opens nothing. [main-thread]
  virtual Status configure(const Options& options) = 0;
  // Binds and begins to serve, on threads of its own. `service` lives until stop has returned. [main-thread]
  virtual Status start(const moe_service& service) = 0;
  // New values of the options with MOE_OPTION_RUNTIME, while it serves; files that options name are read again. On failure
  // nothing has changed. Only for a class with  static constexpr bool kReconfigures = true. [main-thread]
  virtual Status reconfigure(const Options& /*options*/) { return unimplemented("reconfigure: not of this transport"); }
  // New requests will be refused. By default nothing: the service itself answers them with "draining". [main-thread]
  virtual void drain() {}
  // Flushes for at most `grace`, closes every connection, ends its threads. Called at most once, and only after start.
  // [main-thread]
  virtual void stop(std::chrono::milliseconds grace) = 0;
  // Where it listens, after start. Valid until it is destroyed. [main-thread]
  [[nodiscard]] virtual const char* address() const = 0;
};

template <std::derived_from<Transport> C>
struct ComponentOf<C> {
  static constexpr const char* kKind = MOE_TRANSPORT_ID;

  static Transport* of(moe_transport_instance* self) { return reinterpret_cast<Transport*>(self); }
  static moe_status create(const moe_host*, const moe_option_value* values, uint32_t n_values,
                           moe_transport_instance** out, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      std::unique_ptr<Transport> transport = std::make_unique<C>();
      MOE_TRY(transport->configure(Options(values, n_values)));
      *out = reinterpret_cast<moe_transport_instance*>(transport.release());
      return {};
    });
  }
  static void destroy(moe_transport_instance* self) noexcept { delete of(self); }
  static moe_status start(moe_transport_instance* self, const moe_service* service, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(service, "service"));
      return of(self)->start(*service);
    });
  }
  // drain and stop have nobody to tell of an exception: what threw stays undone.
  static void drain(moe_transport_instance* self) noexcept {
    guard(nullptr, [&]() -> Status {
      of(self)->drain();
      return {};
    });
  }
  static void stop(moe_transport_instance* self, int64_t grace_ms) noexcept {
    guard(nullptr, [&]() -> Status {
      of(self)->stop(std::chrono::milliseconds(grace_ms));
      return {};
    });
  }
  static const char* address(moe_transport_instance* self) noexcept { return of(self)->address(); }
  static moe_status reconfigure(void* self, const moe_option_value* values, uint32_t n_values,
                                moe_message* message) noexcept {
    return guard(message, [&] {
      return of(static_cast<moe_transport_instance*>(self))->reconfigure(Options(values, n_values));
    });
  }
  static const void* extension(const char* id) {
    if constexpr (requires { C::kReconfigures; }) {
      static constexpr moe_reconfigure kReconfigure = [] {
        moe_reconfigure r = make<moe_reconfigure>();
        r.set = reconfigure;
        return r;
      }();
      if (std::string_view(id) == MOE_RECONFIGURE_ID) return &kReconfigure;
    }
    if constexpr (requires { C::extension(""); }) return C::extension(id);
    return nullptr;
  }
  static constexpr moe_transport kTable = [] {
    moe_transport t{};
    t.component = component_header<C>(sizeof(moe_transport));
    t.component.get_extension = extension;
    t.create = create;
    t.destroy = destroy;
    t.start = start;
    t.drain = drain;
    t.stop = stop;
    t.address = address;
    return t;
  }();
};

}  // namespace moe
