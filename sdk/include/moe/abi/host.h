/* moe.host/1: what a plugin may ask of the program that loaded it. C11, C++17. */
#ifndef MOE_ABI_HOST_H
#define MOE_ABI_HOST_H

#include "status.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_HOST_ID "moe.host/1"

enum { MOE_LOG_DEBUG = 0, MOE_LOG_INFO = 1, MOE_LOG_WARNING = 2, MOE_LOG_ERROR = 3 };

/* One task of a parallel_for. `thread` is in [0, n_threads) and no two tasks that run at the same time share it. */
typedef void (*moe_task)(void* context, int64_t task, int32_t thread);

typedef struct moe_host {
  MOE_STRUCT_HEADER;
  void* self;       /* the host's; passed back to every function */
  const char* name; /* the program and its version */

  /* One line for the operator; `text` need not end with a newline. [thread-safe] */
  void (*log)(void* self, int32_t level, const char* plugin, const char* text);

  /* Adds `value` to a counter, or sets a gauge. Names follow Prometheus: [a-z_][a-z0-9_]*. [thread-safe] */
  void (*metric_add)(void* self, const char* name, double value);
  void (*metric_set)(void* self, const char* name, double value);

  /* Runs task(context, i, thread) for every i in [0, n_tasks) on the host's compute threads, the caller's among them, and returns
   * when all are done. A thread runs neighbouring tasks in ascending order, and takes over others' when it has done its own, so a
   * result may not depend on which thread ran it. A call from inside a task runs serially. Plugins start no compute threads of
   * their own. [compute-thread] */
  void (*parallel_for)(void* self, int64_t n_tasks, moe_task task, void* context);

  /* How many threads parallel_for uses at most, the caller's included. [thread-safe] */
  int32_t (*n_threads)(void* self);

  /* A further interface by its id, such as "moe.host.trace/1"; null if the host does not have it. [thread-safe] */
  const void* (*get_extension)(void* self, const char* id);
} moe_host;

#ifdef __cplusplus
}
#endif
#endif
