/* What a plugin library exports: one const symbol, moe_plugin_v1. C11, C++17.
 *
 * A library may hold any number of components of any kind. Each kind has an id ("moe.router/1") and a struct that begins with
 * moe_component; get_factory(id) lists the library's components of that kind. An incompatible change of the entry is a new symbol
 * (moe_plugin_v2), an incompatible change of a kind a new id. */
#ifndef MOE_ABI_PLUGIN_H
#define MOE_ABI_PLUGIN_H

#include "host.h"
#include "option.h"
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What holds for every call of a component. Absent bits are the pessimistic case. */
enum {
  MOE_CAP_GRAPH_SAFE = 1,      /* its hot call only enqueues work and may be captured into a graph and replayed */
  MOE_CAP_HOST_SYNC = 2,       /* its hot call waits for the device */
  MOE_CAP_DETERMINISTIC = 4,   /* same input, same bits */
  MOE_CAP_BATCH_INVARIANT = 8, /* a row's bits do not depend on the other rows */
  MOE_CAP_REENTRANT = 16,      /* two instances may run at the same time */
  MOE_CAP_PICKS = 32           /* a link of the sampler chain that chooses the token */
};

/* The beginning of every component. Pointers stay valid as long as the library is loaded. */
typedef struct moe_component {
  MOE_STRUCT_HEADER;
  const char* name; /* how the configuration names it; unique within its kind: [a-z][a-z0-9_]* */
  const char* doc;  /* one sentence */
  const moe_option* options;
  uint32_t n_options;
  uint32_t capabilities; /* MOE_CAP_* */

  /* A further interface of this component by its id; null if it has none. May be null itself. [thread-safe] */
  const void* (*get_extension)(const char* id);
} moe_component;

/* Extension of a component: options with MOE_OPTION_RUNTIME may change while an instance runs. */
#define MOE_RECONFIGURE_ID "moe.reconfigure/1"

typedef struct moe_reconfigure {
  MOE_STRUCT_HEADER;
  /* `instance` as the component's create gave it; the values are a whole set as for create, and those of options without
   * MOE_OPTION_RUNTIME are as they were. Files that options name are read again. On failure nothing has changed. [main-thread] */
  moe_status (*set)(void* instance, const moe_option_value* values, uint32_t n_values, moe_message* message);
} moe_reconfigure;

typedef struct moe_factory {
  MOE_STRUCT_HEADER;
  const moe_component* const* components; /* each is the kind's own struct, such as moe_router */
  uint32_t n_components;
  uint32_t reserved;
} moe_factory;

enum { MOE_ABI_MAJOR = 1, MOE_ABI_MINOR = 0 };

typedef struct moe_plugin {
  MOE_STRUCT_HEADER;
  uint32_t abi_major; /* MOE_ABI_MAJOR when it was compiled */
  uint32_t abi_minor;
  const char* name;
  const char* version; /* semantic: "1.2.3" */
  const char* license; /* an SPDX id */
  const char* author;

  /* Called once after loading and before anything else. `host` stays valid until deinit returns. On failure nothing else is called.
   * [main-thread] */
  moe_status (*init)(const moe_host* host, moe_message* message);

  /* Called once, when nothing of the library is in use any more. [main-thread] */
  void (*deinit)(void);

  /* The components of a kind, by the kind's id; null if the library has none. [thread-safe after init] */
  const moe_factory* (*get_factory)(const char* kind_id);
} moe_plugin;

#if defined(__GNUC__)
#define MOE_EXPORT __attribute__((visibility("default")))
#else
#define MOE_EXPORT
#endif

#define MOE_PLUGIN_SYMBOL "moe_plugin_v1"

#ifdef __cplusplus
}
#endif
#endif
