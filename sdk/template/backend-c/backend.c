/* The smallest backend in C: host memory, weights kept as f32, and one operation of its own, `add`. Because its memory
 * is visible to the host and its weights can be read back row by row, the SDK's loops run every other operation.
 * Replace them one by one: a row of kOps for each id that you have. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/abi/ops.h"

/* What `moe_weight*` stands for in this backend. */
typedef struct Weight {
  int64_t n_groups, n_out, n_in;
  float values[]; /* [n_groups, n_out, n_in] */
} Weight;

/* What `moe_op*` stands for. */
typedef struct Op {
  const char* id;
  void (*run)(const moe_op_args* args);
} Op;

enum { kAlignment = 64 };

static moe_status fail(moe_message* message, moe_status status, const char* what, const char* text) {
  if (message != NULL && message->capacity > 0) snprintf(message->text, message->capacity, "%s: %s", what, text);
  return status;
}

/* Whether a struct of the host's can be read: not null, of the size that we know or larger, and without a bit that we
 * do not know. */
#define CHECK(type, s)                                                                                  \
  do {                                                                                                  \
    if ((s) == NULL || (s)->struct_size < sizeof(type))                                                 \
      return fail(message, MOE_INVALID_ARGUMENT, #s, "expected a whole " #type);                        \
    if ((s)->must_understand != 0)                                                                      \
      return fail(message, MOE_UNIMPLEMENTED, #s, "asks for something that this plugin does not know"); \
  } while (0)

/* --- memory */

static void* zeroed(uint64_t n_bytes) {
  if (n_bytes > (uint64_t)1 << 48) return NULL;
  const size_t room =
      (n_bytes + kAlignment) / kAlignment * kAlignment; /* at least a byte, a multiple of the alignment */
  void* memory = aligned_alloc(kAlignment, room);
  if (memory != NULL) memset(memory, 0, room);
  return memory;
}
static void release_buffer(moe_buffer* buffer) {
  free(buffer->data);
  buffer->data = NULL;
}
static moe_status alloc(moe_backend_instance* self, uint64_t n_bytes, int32_t memory, moe_buffer* out,
                        moe_message* message) {
  (void)self, (void)memory;
  CHECK(moe_buffer, out);
  void* data = zeroed(n_bytes);
  if (data == NULL) {
    char size[24];
    snprintf(size, sizeof(size), "%llu bytes", (unsigned long long)n_bytes);
    return fail(message, MOE_RESOURCE_EXHAUSTED, size, "could not be had");
  }
  *out = (moe_buffer){.struct_size = sizeof(*out),
                      .data = data,
                      .n_bytes = n_bytes,
                      .device = {MOE_DEVICE_HOST, 0},
                      .release = release_buffer};
  return MOE_OK;
}
static moe_status copy(moe_backend_instance* self, void* to, const void* from, uint64_t n_bytes, int32_t direction,
                       void* stream, moe_message* message) {
  (void)self, (void)direction, (void)stream, (void)message;
  if (n_bytes > 0) memmove(to, from, n_bytes);
  return MOE_OK;
}

/* --- weights */

static void release_weight(moe_prepared* prepared) {
  free(prepared->weight);
  prepared->weight = NULL;
}
static moe_status prepare(moe_backend_instance* self, const moe_weight_source* source, moe_prepared* out,
                          moe_message* message) {
  (void)self;
  CHECK(moe_weight_source, source);
  CHECK(moe_prepared, out);
  if (strcmp(source->wanted, "auto") != 0 && strcmp(source->wanted, "f32") != 0)
    return fail(message, MOE_UNIMPLEMENTED, source->wanted, "expected auto or f32");
  const size_t matrix = (size_t)(source->n_out * source->n_in);
  const size_t n_bytes = (size_t)source->n_groups * matrix * sizeof(float);
  Weight* w = malloc(sizeof(Weight) + n_bytes);
  if (w == NULL) return fail(message, MOE_RESOURCE_EXHAUSTED, source->name, "out of memory");
  w->n_groups = source->n_groups, w->n_out = source->n_out, w->n_in = source->n_in;
  for (int64_t g = 0; g < source->n_groups; ++g) {
    source->read_f32(source->context, g, 0, source->n_out, w->values + (size_t)g * matrix);
    source->done(source->context, g);
  }
  *out = (moe_prepared){.struct_size = sizeof(*out),
                        .weight = (moe_weight*)w,
                        .encoding = "f32",
                        .n_bytes = n_bytes,
                        .release = release_weight};
  return MOE_OK;
}
static void weight_shape(const moe_weight* weight, int64_t shape[3]) {
  const Weight* w = (const Weight*)weight;
  shape[0] = w->n_groups, shape[1] = w->n_out, shape[2] = w->n_in;
}
static const float* weight_row(const moe_weight* weight, int64_t group, int64_t row, float* scratch) {
  const Weight* w = (const Weight*)weight;
  (void)scratch;
  return w->values + (group * w->n_out + row) * w->n_in;
}

/* --- operations */

static void add(const moe_op_args* header) {
  const moe_add_args* a = (const moe_add_args*)header;
  for (int64_t i = 0; i < a->out.shape[0]; ++i) {
    const float* x = (const float*)a->x.data + i * a->x.strides[0];
    const float* y = a->y.data == NULL ? NULL : (const float*)a->y.data + i * a->y.strides[0];
    float* out = (float*)a->out.data + i * a->out.strides[0];
    for (int64_t c = 0; c < a->out.shape[1]; ++c) out[c] = a->alpha * x[c] + (y == NULL ? 0.0F : a->beta * y[c]);
  }
}

static const Op kOps[] = {{MOE_OP_ADD, add}};

static moe_status find_op(moe_backend_instance* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                          moe_message* message) {
  (void)self;
  CHECK(moe_op_args, largest);
  CHECK(moe_op_info, out);
  for (size_t i = 0; i < sizeof(kOps) / sizeof(kOps[0]); ++i) {
    if (strcmp(kOps[i].id, id) != 0) continue;
    *out = (moe_op_info){.struct_size = sizeof(*out),
                         .op = (const moe_op*)&kOps[i],
                         .implementation = "plain",
                         .flags = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT};
    return MOE_OK;
  }
  return fail(message, MOE_UNIMPLEMENTED, id, "not in this backend");
}
static moe_status launch(moe_backend_instance* self, const moe_op* op, const moe_op_args* args, void* stream,
                         moe_message* message) {
  (void)self, (void)stream;
  CHECK(moe_op_args, args);
  ((const Op*)op)->run(args);
  return MOE_OK;
}
static moe_status sync(moe_backend_instance* self, void* stream, moe_message* message) {
  (void)self, (void)stream, (void)message;
  return MOE_OK;
}

/* --- the instance: there is nothing to keep */

static moe_status create(const moe_host* host, const moe_option_value* values, uint32_t n_values,
                         moe_backend_instance** out, moe_backend_description* description, moe_message* message) {
  static char the_instance;
  (void)host, (void)values, (void)n_values;
  CHECK(moe_backend_description, description);
  *description = (moe_backend_description){.struct_size = sizeof(*description),
                                           .device = {MOE_DEVICE_HOST, 0},
                                           .flags = MOE_BACKEND_HOST_VISIBLE,
                                           .device_name = "host, plain C"};
  *out = (moe_backend_instance*)&the_instance;
  return MOE_OK;
}
static void destroy(moe_backend_instance* self) { (void)self; }

static const moe_backend_rows kRows = {
    .struct_size = sizeof(moe_backend_rows), .shape = weight_shape, .row = weight_row};
static const void* get_extension(const char* id) { return strcmp(id, MOE_BACKEND_ROWS_ID) == 0 ? &kRows : NULL; }

static const moe_backend kBackend = {
    .component = {.struct_size = sizeof(moe_backend),
                  .name = "my_backend",
                  .doc = "Host memory, `add`, and the SDK's loops.",
                  .capabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT,
                  .get_extension = get_extension},
    .create = create,
    .destroy = destroy,
    .alloc = alloc,
    .copy = copy,
    .prepare = prepare,
    .find_op = find_op,
    .launch = launch,
    .sync = sync};
static const moe_component* const kComponents[] = {&kBackend.component};
static const moe_factory kFactory = {.struct_size = sizeof(moe_factory), .components = kComponents, .n_components = 1};

static moe_status init(const moe_host* host, moe_message* message) {
  CHECK(moe_host, host);
  return MOE_OK;
}
static void deinit(void) {}
static const moe_factory* get_factory(const char* kind_id) {
  return strcmp(kind_id, MOE_BACKEND_ID) == 0 ? &kFactory : NULL;
}

MOE_MANIFEST("my_backend", "0.1.0", "MIT", "you", "component: moe.backend/1 my_backend\n");
MOE_EXPORT const moe_plugin moe_plugin_v1 = {.struct_size = sizeof(moe_plugin),
                                             .abi_major = MOE_ABI_MAJOR,
                                             .abi_minor = MOE_ABI_MINOR,
                                             .name = "my_backend",
                                             .version = "0.1.0",
                                             .license = "MIT",
                                             .author = "you",
                                             .init = init,
                                             .deinit = deinit,
                                             .get_factory = get_factory};
