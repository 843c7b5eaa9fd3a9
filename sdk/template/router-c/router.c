/* The smallest router in C: softmax over the experts, the k best, weights that sum to one. Change score() and you have
 * your own. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/abi/router.h"

typedef struct Router {
  int64_t n_experts;
  int64_t k;
} Router;

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

static const moe_option kOptions[] = {{.struct_size = sizeof(moe_option),
                                       .key = "k",
                                       .default_text = "2",
                                       .doc = "Experts a token goes to.",
                                       .min = 1,
                                       .max = 1024,
                                       .type = MOE_OPTION_INT,
                                       .flags = MOE_OPTION_PER_LAYER}};

static moe_status create(const moe_host* host, const moe_router_config* config, const moe_option_value* values,
                         uint32_t n_values, moe_router_instance** out, moe_message* message) {
  (void)host, (void)n_values; /* every option is there, in the table's order */
  CHECK(moe_router_config, config);
  const int64_t n_experts = config->n_experts + config->n_zero_experts;
  if (values[0].value.i > n_experts)
    return fail(message, MOE_INVALID_ARGUMENT, "k: expected at most the layer's experts");
  Router* router = malloc(sizeof(Router));
  if (router == NULL) return fail(message, MOE_RESOURCE_EXHAUSTED, "out of memory");
  router->n_experts = n_experts;
  router->k = values[0].value.i;
  *out = (moe_router_instance*)router;
  return MOE_OK;
}
static void destroy(moe_router_instance* self) { free(self); }

static moe_status describe(moe_router_instance* self, moe_router_spec* out, moe_message* message) {
  const Router* router = (const Router*)self;
  CHECK(moe_router_spec, out);
  memset(out, 0, sizeof(*out));
  out->struct_size = sizeof(*out);
  out->inputs = MOE_INPUT_HOST;
  out->n_logits = router->n_experts;
  out->k_max = router->k;
  out->weight_on = MOE_WEIGHT_ON_OUTPUT;
  out->weights_sum = 1;
  return MOE_OK;
}
static moe_status prepare(moe_router_instance* self, const moe_compute* compute, const moe_bound_weight* weights,
                          uint32_t n_weights, int64_t max_tokens, uint64_t* workspace_bytes, moe_message* message) {
  (void)self, (void)weights, (void)n_weights, (void)max_tokens;
  CHECK(moe_compute, compute);
  *workspace_bytes = 0;
  return MOE_OK;
}

/* One token: ids best first, ties to the lower id. NaN logits give NaN weights and legal ids. */
static void score(const Router* router, const float* logits, int32_t* ids, float* weights) {
  float sum = 0;
  for (int64_t j = 0; j < router->k; ++j) {
    int32_t best = -1;
    for (int32_t e = 0; e < router->n_experts; ++e) {
      int taken = 0;
      for (int64_t i = 0; i < j; ++i) taken |= ids[i] == e;
      if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
    }
    ids[j] = best;
    weights[j] = expf(logits[best] - logits[ids[0]]);
    sum += weights[j];
  }
  for (int64_t j = 0; j < router->k; ++j) weights[j] /= sum;
}

static moe_status route(moe_router_instance* self, const moe_route_args* args, moe_message* message) {
  const Router* router = (const Router*)self;
  CHECK(moe_route_args, args);
  const moe_plan* plan = &args->plan;
  for (int64_t i = 0; i < args->n_tokens; ++i) {
    score(router, (const float*)args->logits.data + i * args->logits.strides[0],
          (int32_t*)plan->ids.data + i * plan->ids.strides[0],
          (float*)plan->weights.data + i * plan->weights.strides[0]);
  }
  return MOE_OK;
}

static const moe_router kRouter = {
    .component = {.struct_size = sizeof(moe_router),
                  .name = "my_router",
                  .doc = "Softmax, then the k best.",
                  .options = kOptions,
                  .n_options = 1,
                  .capabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT},
    .create = create,
    .destroy = destroy,
    .describe = describe,
    .prepare = prepare,
    .route = route};
static const moe_component* const kComponents[] = {&kRouter.component};
static const moe_factory kFactory = {.struct_size = sizeof(moe_factory), .components = kComponents, .n_components = 1};

static moe_status init(const moe_host* host, moe_message* message) {
  CHECK(moe_host, host);
  return MOE_OK;
}
static void deinit(void) {}
static const moe_factory* get_factory(const char* kind_id) {
  return strcmp(kind_id, MOE_ROUTER_ID) == 0 ? &kFactory : NULL;
}

MOE_MANIFEST("my_router", "0.1.0", "MIT", "you", "component: moe.router/1 my_router\n");
MOE_EXPORT const moe_plugin moe_plugin_v1 = {.struct_size = sizeof(moe_plugin),
                                             .abi_major = MOE_ABI_MAJOR,
                                             .abi_minor = MOE_ABI_MINOR,
                                             .name = "my_router",
                                             .version = "0.1.0",
                                             .license = "MIT",
                                             .author = "you",
                                             .init = init,
                                             .deinit = deinit,
                                             .get_factory = get_factory};
