/* What a plugin's hot call does behind its host's back: a library that is loaded first (LD_PRELOAD) stands before the
 * allocation functions, the functions that wait and those that open files, counts their calls while it is told to, and
 * can make one allocation fail. The conformance kit runs each test in a process with it. C11, C++17. */
#ifndef PATCHBAY_CONFORMANCE_HOOKS_H
#define PATCHBAY_CONFORMANCE_HOOKS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct patchbay_hook_counts {
  int64_t allocations; /* malloc and its relatives */
  int64_t frees;
  int64_t waits;     /* sleeping, condition variables, semaphores, joins, polls */
  int64_t files;     /* opened files */
  int64_t threads;   /* threads started */
  const char* first; /* the first function that was counted, or null */
} patchbay_hook_counts;

/* The library's one symbol, "patchbay_hooks". */
typedef struct patchbay_hooks_table {
  /* From now on calls of every thread are counted, except between pause and resume of that thread. */
  void (*begin)(void);
  /* Counts since begin. */
  patchbay_hook_counts (*end)(void);
  /* The calling thread runs code of the host's, which may do as it likes. They nest. */
  void (*pause)(void);
  void (*resume)(void);
  /* The n-th allocation from now on (from 0) of a thread that is not paused fails, once. -1: none does. */
  void (*fail_allocation)(int64_t n);
  /* Bytes that were allocated and not freed, over the process's life. */
  int64_t (*live_bytes)(void);
  int64_t (*live_blocks)(void);
} patchbay_hooks_table;

#ifdef __cplusplus
}
#endif
#endif
