/* The smallest link of the sampler chain in C: it takes out a token that has already come `times` times in a row. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/abi/sampler.h"

typedef struct Link {
  int64_t times;
} Link;

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
                                       .key = "times",
                                       .default_text = "8",
                                       .unit = "tokens",
                                       .doc = "How often a token may come in a row.",
                                       .min = 1,
                                       .max = 1000000,
                                       .type = MOE_OPTION_INT,
                                       .flags = MOE_OPTION_REQUEST}};

static moe_status create(const moe_option_value* values, uint32_t n_values, int64_t n_vocab, moe_sampler_state** out,
                         moe_message* message) {
  (void)n_values, (void)n_vocab; /* every option is there, in the table's order */
  Link* link = malloc(sizeof(Link));
  if (link == NULL) return fail(message, MOE_RESOURCE_EXHAUSTED, "out of memory");
  link->times = values[0].value.i;
  *out = (moe_sampler_state*)link;
  return MOE_OK;
}
static void destroy(moe_sampler_state* state) { free(state); }

static moe_status copy(const moe_sampler_state* state, moe_sampler_state** out, moe_message* message) {
  Link* link = malloc(sizeof(Link));
  if (link == NULL) return fail(message, MOE_RESOURCE_EXHAUSTED, "out of memory");
  *link = *(const Link*)state;
  *out = (moe_sampler_state*)link;
  return MOE_OK;
}

static void apply_row(moe_sample_row* row) {
  const int64_t times = ((const Link*)row->state)->times;
  if (row->n_history - row->n_prompt < times) return; /* the prompt does not count */
  const int32_t last = row->history[row->n_history - 1];
  for (int64_t i = 1; i <= times; ++i) {
    if (row->history[row->n_history - i] != last) return;
  }
  row->logits[last] = -INFINITY;
}

static moe_status apply(const moe_sample_args* args, moe_message* message) {
  CHECK(moe_sample_args, args);
  for (int64_t i = 0; i < args->n_rows; ++i) {
    if (args->rows[i].picked == MOE_PICKED_NONE) apply_row(&args->rows[i]);
  }
  return MOE_OK;
}

static const moe_sampler kSampler = {
    .component = {.struct_size = sizeof(moe_sampler),
                  .name = "my_sampler",
                  .doc = "Breaks loops of one token.",
                  .options = kOptions,
                  .n_options = 1,
                  .capabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT},
    .create = create,
    .destroy = destroy,
    .apply = apply,
    .copy = copy};
static const moe_component* const kComponents[] = {&kSampler.component};
static const moe_factory kFactory = {.struct_size = sizeof(moe_factory), .components = kComponents, .n_components = 1};

static moe_status init(const moe_host* host, moe_message* message) {
  CHECK(moe_host, host);
  return MOE_OK;
}
static void deinit(void) {}
static const moe_factory* get_factory(const char* kind_id) {
  return strcmp(kind_id, MOE_SAMPLER_ID) == 0 ? &kFactory : NULL;
}

MOE_MANIFEST("my_sampler", "0.1.0", "MIT", "you", "component: moe.sampler/1 my_sampler\n");
MOE_EXPORT const moe_plugin moe_plugin_v1 = {.struct_size = sizeof(moe_plugin),
                                             .abi_major = MOE_ABI_MAJOR,
                                             .abi_minor = MOE_ABI_MINOR,
                                             .name = "my_sampler",
                                             .version = "0.1.0",
                                             .license = "MIT",
                                             .author = "you",
                                             .init = init,
                                             .deinit = deinit,
                                             .get_factory = get_factory};
