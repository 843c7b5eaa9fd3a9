/* moe.transport/1: how requests come in and events go out. C11, C++17.
 *
 * Messages are serialized Protobuf of schemas/patchbay.proto: ClientMessage in, ServerMessage out. So this interface stays narrow and the
 * wire grows by Protobuf's rules. */
#ifndef MOE_ABI_TRANSPORT_H
#define MOE_ABI_TRANSPORT_H

#include "plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_TRANSPORT_ID "moe.transport/1"

typedef struct moe_transport_instance moe_transport_instance;

/* Where a connection's events go. `deliver` is called in order and never two at a time for one sink, from the engine's thread or from
 * within a call of `submit` or `resume` for this connection. It must not block and must not call the service; and a transport holds no
 * lock during its own calls of the service that its deliver takes. The bytes are borrowed for the call. Returns MOE_OK;
 * MOE_RESOURCE_EXHAUSTED: the reader has no room, the service holds the event and what follows until `resume`; anything else: the
 * reader is gone, its requests are cancelled. */
typedef struct moe_sink {
  MOE_STRUCT_HEADER;
  void* context;
  moe_status (*deliver)(void* context, const void* message, uint64_t n_bytes);
} moe_sink;

/* The service, as a transport sees it. All calls are [thread-safe] and do not block. */
typedef struct moe_service {
  MOE_STRUCT_HEADER;
  void* self;
  /* Opens a connection: sink events begin. The sink struct is copied; its context must live until close returns. */
  moe_status (*open)(void* self, const moe_sink* sink, uint64_t* connection, moe_message* message);
  /* One ClientMessage. MOE_INVALID_ARGUMENT: it cannot be parsed; MOE_RESOURCE_EXHAUSTED: the connection has too many answers waiting
   * for `resume`; MOE_NOT_FOUND: no such connection; nothing was done then. Every other fault is answered by an event. */
  moe_status (*submit)(void* self, uint64_t connection, const void* message, uint64_t n_bytes, moe_message* text);
  /* The reader has room again. */
  void (*resume)(void* self, uint64_t connection);
  /* Cancels what the connection still has running; no deliver call runs after it returns. */
  void (*close)(void* self, uint64_t connection);
  const void* (*get_extension)(void* self, const char* id);
} moe_service;

typedef struct moe_transport {
  moe_component component;

  /* Checks the options; opens nothing. [main-thread] */
  moe_status (*create)(const moe_host* host, const moe_option_value* values, uint32_t n_values, moe_transport_instance** out,
                       moe_message* message);
  void (*destroy)(moe_transport_instance* self);

  /* Binds and begins to serve, on threads of its own (which wait for the network and compute nothing). [main-thread] */
  moe_status (*start)(moe_transport_instance* self, const moe_service* service, moe_message* message);
  /* Takes no new requests (they are answered with "draining"); what runs goes on. [main-thread] */
  void (*drain)(moe_transport_instance* self);
  /* Flushes for at most `grace_ms`, closes every connection and returns when its threads have ended. [main-thread] */
  void (*stop)(moe_transport_instance* self, int64_t grace_ms);
  /* Where it listens, such as "tcp://127.0.0.1:5757" (after start; the port as bound). Valid until destroy. [main-thread] */
  const char* (*address)(moe_transport_instance* self);
} moe_transport;

#ifdef __cplusplus
}
#endif
#endif
