#define _GNU_SOURCE
#include "hooks.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

/* The C library's own, under names that nobody stands before. */
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
extern void __libc_free(void*);

static atomic_bool counting;
static atomic_int_fast64_t n_allocations, n_frees, n_waits, n_files, n_threads, fail_at = -1, live_bytes, live_blocks;
static _Atomic(const char*) first_counted;
/* initial-exec: the access itself allocates nothing. */
static __thread int paused __attribute__((tls_model("initial-exec")));

static void count(atomic_int_fast64_t* counter, const char* function) {
  if (!atomic_load_explicit(&counting, memory_order_relaxed) || paused > 0) return;
  atomic_fetch_add(counter, 1);
  const char* none = NULL;
  atomic_compare_exchange_strong(&first_counted, &none, function);
}

static int refuses(const char* function) {
  count(&n_allocations, function);
  if (paused > 0 || atomic_load_explicit(&fail_at, memory_order_relaxed) < 0) return 0;
  if (atomic_fetch_sub(&fail_at, 1) != 0) return 0;
  errno = ENOMEM;
  return 1;
}

static void* given(void* p) {
  if (p == NULL) return p;
  atomic_fetch_add_explicit(&live_bytes, (int_fast64_t)malloc_usable_size(p), memory_order_relaxed);
  atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
  return p;
}
static void taken(void* p) {
  if (p == NULL) return;
  atomic_fetch_sub_explicit(&live_bytes, (int_fast64_t)malloc_usable_size(p), memory_order_relaxed);
  atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
}

void* malloc(size_t n) { return refuses("malloc") ? NULL : given(__libc_malloc(n)); }
void* calloc(size_t n, size_t size) { return refuses("calloc") ? NULL : given(__libc_calloc(n, size)); }
void* realloc(void* p, size_t n) {
  if (refuses("realloc")) return NULL;
  taken(p);
  void* moved = __libc_realloc(p, n);
  given(moved == NULL && n > 0 ? p : moved);
  return moved;
}
void free(void* p) {
  count(&n_frees, "free");
  taken(p);
  __libc_free(p);
}
void* memalign(size_t alignment, size_t n) { return refuses("memalign") ? NULL : given(__libc_memalign(alignment, n)); }
void* aligned_alloc(size_t alignment, size_t n) {
  return refuses("aligned_alloc") ? NULL : given(__libc_memalign(alignment, n));
}
int posix_memalign(void** out, size_t alignment, size_t n) {
  void* p = refuses("posix_memalign") ? NULL : given(__libc_memalign(alignment, n));
  if (p == NULL) return ENOMEM;
  *out = p;
  return 0;
}

/* The next library's function of that name. */
#define NEXT(name)                            \
  static __typeof__(&(name)) next;            \
  if (next == NULL) {                         \
    ++paused;                                 \
    *(void**)&next = dlsym(RTLD_NEXT, #name); \
    --paused;                                 \
  }
/* A function that is counted and then does what it does. */
#define COUNTED(counter, type, name, parameters, arguments) \
  type name parameters {                                    \
    NEXT(name)                                              \
    count(&(counter), #name);                               \
    return next arguments;                                  \
  }

COUNTED(n_waits, int, nanosleep, (const struct timespec* t, struct timespec* left), (t, left))
COUNTED(n_waits, int, clock_nanosleep, (clockid_t c, int f, const struct timespec* t, struct timespec* l), (c, f, t, l))
COUNTED(n_waits, int, usleep, (useconds_t t), (t))
COUNTED(n_waits, unsigned, sleep, (unsigned t), (t))
COUNTED(n_waits, int, pthread_cond_wait, (pthread_cond_t * c, pthread_mutex_t* m), (c, m))
COUNTED(n_waits, int, pthread_cond_timedwait, (pthread_cond_t * c, pthread_mutex_t* m, const struct timespec* t),
        (c, m, t))
COUNTED(n_waits, int, pthread_cond_clockwait,
        (pthread_cond_t * c, pthread_mutex_t* m, clockid_t clock, const struct timespec* t), (c, m, clock, t))
COUNTED(n_waits, int, pthread_join, (pthread_t thread, void** out), (thread, out))
COUNTED(n_waits, int, sem_wait, (sem_t * s), (s))
COUNTED(n_waits, int, poll, (struct pollfd * fds, nfds_t n, int timeout), (fds, n, timeout))
COUNTED(n_waits, int, select, (int n, fd_set* r, fd_set* w, fd_set* e, struct timeval* t), (n, r, w, e, t))
COUNTED(n_waits, int, epoll_wait, (int fd, struct epoll_event* events, int n, int timeout), (fd, events, n, timeout))
COUNTED(n_threads, int, pthread_create,
        (pthread_t * thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument),
        (thread, attributes, start, argument))
COUNTED(n_files, FILE*, fopen, (const char* path, const char* mode), (path, mode))
COUNTED(n_files, FILE*, fopen64, (const char* path, const char* mode), (path, mode))

/* The mode of a file that is to be made comes as a further argument. */
#define OPEN(name)                                                                 \
  int name(const char* path, int flags, ...) {                                     \
    NEXT(name)                                                                     \
    va_list rest;                                                                  \
    va_start(rest, flags);                                                         \
    const int mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, int) : 0; \
    va_end(rest);                                                                  \
    count(&n_files, #name);                                                        \
    return next(path, flags, mode);                                                \
  }
OPEN(open)
OPEN(open64)

static void begin(void) {
  atomic_store(&counting, 0);
  n_allocations = n_frees = n_waits = n_files = n_threads = 0;
  atomic_store(&first_counted, NULL);
  atomic_store(&counting, 1);
}
static patchbay_hook_counts end(void) {
  atomic_store(&counting, 0);
  const patchbay_hook_counts c = {n_allocations, n_frees, n_waits, n_files, n_threads, atomic_load(&first_counted)};
  return c;
}
static void pause_thread(void) { ++paused; }
static void resume_thread(void) { --paused; }
static void fail_allocation(int64_t n) { atomic_store(&fail_at, n); }
static int64_t get_live_bytes(void) { return live_bytes; }
static int64_t get_live_blocks(void) { return live_blocks; }

const patchbay_hooks_table patchbay_hooks = {
    begin, end, pause_thread, resume_thread, fail_allocation, get_live_bytes, get_live_blocks};
