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

/* The version of these headers. Within a major version everything that was there stays as it is. */
#define MOE_ABI_MAJOR 1
#define MOE_ABI_MINOR 0
/* The oldest host that a plugin works with: define it before including this, if it cannot do without what a later version added. */
#ifndef MOE_ABI_LEAST_MINOR
#define MOE_ABI_LEAST_MINOR 0
#endif

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

/* The manifest: an ELF note of this owner and type, whose text can be read without running any code of the library. Lines "key: value":
 * name, version, license, author, abi (oldest host and own version, "1.0-1.2"), and a `component: KIND-ID NAME` for each component. */
#define MOE_NOTE_OWNER "moe"
#define MOE_NOTE_MANIFEST 1
#define MOE_TEXT_OF_(x) #x
#define MOE_TEXT_OF(x) MOE_TEXT_OF_(x)
#define MOE_MANIFEST_HEAD(name, version, license, author)                                          \
  "name: " name "\nversion: " version "\nlicense: " license "\nauthor: " author "\nabi: "           \
  MOE_TEXT_OF(MOE_ABI_MAJOR) "." MOE_TEXT_OF(MOE_ABI_LEAST_MINOR) "-" MOE_TEXT_OF(MOE_ABI_MAJOR) "." \
  MOE_TEXT_OF(MOE_ABI_MINOR) "\n"

/* For plugins in C, once in a library, beside the entry. All arguments are string literals; `components` is one line
 * "component: moe.router/1 my_router\n" for each. (In C++ MOE_PLUGIN does this.) */
#define MOE_MANIFEST(name, version, license, author, components)                        \
  __attribute__((section(".note.moe"), used, aligned(4))) static const struct {         \
    uint32_t name_bytes, text_bytes, type;                                              \
    char owner[4];                                                                      \
    char text[(sizeof(MOE_MANIFEST_HEAD(name, version, license, author) components) + 3) / 4 * 4]; \
  } moe_manifest_note = {4, sizeof(moe_manifest_note.text), MOE_NOTE_MANIFEST, MOE_NOTE_OWNER,      \
                         MOE_MANIFEST_HEAD(name, version, license, author) components}

#ifdef __cplusplus
}
#endif
#endif
