/* The smallest expert layer in C: SwiGLU by the backend's `ffn` operation, for routed and for shared experts (a dense
 * layer is a shared expert alone). Put operations of your own around it, or in its place. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/abi/expert.h"

/* One set of feed-forwards and its operation. */
typedef struct Part {
  int routed;
  int64_t n_groups;
  int64_t width;
  moe_ffn_args args; /* everything that is the same in each call */
  const moe_op* op;
} Part;

typedef struct Expert {
  moe_expert_config config;
  const moe_compute* compute;
  moe_weight_spec weights[6]; /* gate, up, down of each part */
  uint32_t n_parts;
  Part parts[2];
} Expert;

static moe_status fail(moe_message* message, moe_status status, const char* text) {
  if (message != NULL && message->capacity > 0) snprintf(message->text, message->capacity, "%s", text);
  return status;
}

/* Whether a struct of the host's can be read: not null, of the size that we know or larger, and without a bit that we
 * do not know. */
#define CHECK(type, s)                                                                                   \
  do {                                                                                                   \
    if ((s) == NULL || (s)->struct_size < sizeof(type))                                                  \
      return fail(message, MOE_INVALID_ARGUMENT, #s ": expected a whole " #type);                        \
    if ((s)->must_understand != 0)                                                                       \
      return fail(message, MOE_UNIMPLEMENTED, #s ": asks for something that this plugin does not know"); \
  } while (0)

static void declare(Expert* e, int routed, const char* const roles[3], int64_t n_groups, int64_t width) {
  const int64_t d = e->config.d_model;
  for (int r = 0; r < 3; ++r) {
    e->weights[3 * e->n_parts + (uint32_t)r] = (moe_weight_spec){.struct_size = sizeof(moe_weight_spec),
                                                                 .role = roles[r],
                                                                 .n_groups = n_groups,
                                                                 .n_out = r == 2 ? d : width,
                                                                 .n_in = r == 2 ? width : d,
                                                                 .placement = MOE_PLACE_PREPARED};
  }
  e->parts[e->n_parts++] = (Part){.routed = routed, .n_groups = n_groups, .width = width};
}

static moe_status create(const moe_host* host, const moe_expert_config* config, const moe_option_value* values,
                         uint32_t n_values, moe_expert_instance** out, moe_message* message) {
  static const char* const kRouted[3] = {"gate", "up", "down"};
  static const char* const kShared[3] = {"shared_gate", "shared_up", "shared_down"};
  (void)host, (void)values, (void)n_values;
  CHECK(moe_expert_config, config);
  if (config->n_zero_experts > 0) return fail(message, MOE_INVALID_ARGUMENT, "layer: expected no zero-compute experts");
  Expert* e = calloc(1, sizeof(Expert));
  if (e == NULL) return fail(message, MOE_RESOURCE_EXHAUSTED, "out of memory");
  e->config = *config;
  if (config->n_experts > 0) declare(e, 1, kRouted, config->n_local_experts, config->d_expert);
  if (config->d_shared > 0) declare(e, 0, kShared, 1, config->d_shared);
  *out = (moe_expert_instance*)e;
  return MOE_OK;
}
static void destroy(moe_expert_instance* self) { free(self); }

static moe_status describe(moe_expert_instance* self, moe_expert_spec* out, moe_message* message) {
  const Expert* e = (const Expert*)self;
  CHECK(moe_expert_spec, out);
  *out = (moe_expert_spec){.struct_size = sizeof(*out), .weights = e->weights, .n_weights = 3 * e->n_parts};
  return MOE_OK;
}

/* A view with a shape and no data: how large a tensor will be at most. */
static moe_tensor largest(int32_t dtype, int64_t rows, int64_t width, moe_device device) {
  moe_tensor t = {.struct_size = sizeof(moe_tensor), .dtype = dtype, .ndim = width > 0 ? 2 : 1, .device = device};
  t.shape[0] = rows;
  t.shape[1] = width;
  t.strides[0] = width > 0 ? width : 1;
  t.strides[1] = width > 0 ? 1 : 0;
  return t;
}

static moe_status prepare(moe_expert_instance* self, const moe_compute* compute, const moe_bound_weight* weights,
                          uint32_t n_weights, int64_t max_tokens, uint64_t* workspace_bytes, moe_message* message) {
  Expert* e = (Expert*)self;
  (void)n_weights;
  CHECK(moe_compute, compute);
  e->compute = compute;
  *workspace_bytes = 0;
  for (uint32_t p = 0; p < e->n_parts; ++p) {
    Part* part = &e->parts[p];
    moe_ffn_args* a = &part->args;
    *a = (moe_ffn_args){.header = {.struct_size = sizeof(moe_ffn_args)},
                        .gate = weights[3 * p].prepared,
                        .up = weights[3 * p + 1].prepared,
                        .down = weights[3 * p + 2].prepared,
                        .n_experts = part->n_groups,
                        .width = part->width,
                        .gating = {.kind = MOE_ACT_SILU},
                        .activation = e->config.activation,
                        .accumulate = 1};
    a->x = a->out = largest(MOE_F32, max_tokens, e->config.d_model, compute->device);
    if (part->routed) {
      a->ids = largest(MOE_I32, max_tokens, e->config.k_max, compute->device);
      a->weights = largest(MOE_F32, max_tokens, e->config.k_max, compute->device);
      a->count = largest(MOE_I32, max_tokens, 0, compute->device);
      a->first_expert = e->config.first_expert;
      a->weight_on = e->config.weight_on;
    }
    moe_op_info info = {.struct_size = sizeof(moe_op_info)};
    const moe_status status = compute->find_op(compute, MOE_OP_FFN, &a->header, &info, message);
    if (status != MOE_OK) return status;
    part->op = info.op;
    if (info.workspace_bytes > *workspace_bytes) *workspace_bytes = info.workspace_bytes;
  }
  return MOE_OK;
}

static moe_status forward(moe_expert_instance* self, const moe_expert_args* args, moe_message* message) {
  Expert* e = (Expert*)self;
  CHECK(moe_expert_args, args);
  for (uint32_t p = 0; p < e->n_parts; ++p) {
    moe_ffn_args* a = &e->parts[p].args;
    a->x = args->x;
    a->out = args->out;
    a->scale = args->scale;
    if (e->parts[p].routed) {
      a->ids = args->plan.ids;
      a->weights = args->plan.weights;
      a->count = args->plan.count;
    }
    a->header.workspace = args->workspace;
    a->header.workspace_bytes = args->workspace_bytes;
    const moe_status status = e->compute->launch(e->compute, e->parts[p].op, &a->header, message);
    if (status != MOE_OK) return status;
  }
  return MOE_OK;
}

static const moe_expert kExpert = {.component = {.struct_size = sizeof(moe_expert),
                                                 .name = "my_expert",
                                                 .doc = "down(silu(gate x) * up x), routed and shared experts.",
                                                 .capabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT},
                                   .create = create,
                                   .destroy = destroy,
                                   .describe = describe,
                                   .prepare = prepare,
                                   .forward = forward};
static const moe_component* const kComponents[] = {&kExpert.component};
static const moe_factory kFactory = {.struct_size = sizeof(moe_factory), .components = kComponents, .n_components = 1};

static moe_status init(const moe_host* host, moe_message* message) {
  CHECK(moe_host, host);
  return MOE_OK;
}
static void deinit(void) {}
static const moe_factory* get_factory(const char* kind_id) {
  return strcmp(kind_id, MOE_EXPERT_ID) == 0 ? &kFactory : NULL;
}

MOE_MANIFEST("my_expert", "0.1.0", "MIT", "you", "component: moe.expert/1 my_expert\n");
MOE_EXPORT const moe_plugin moe_plugin_v1 = {.struct_size = sizeof(moe_plugin),
                                             .abi_major = MOE_ABI_MAJOR,
                                             .abi_minor = MOE_ABI_MINOR,
                                             .name = "my_expert",
                                             .version = "0.1.0",
                                             .license = "MIT",
                                             .author = "you",
                                             .init = init,
                                             .deinit = deinit,
                                             .get_factory = get_factory};
