/* moe.sampler/1: one link of the chain that turns logits into a token. C11, C++17. */
#ifndef MOE_ABI_SAMPLER_H
#define MOE_ABI_SAMPLER_H

#include "plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_SAMPLER_ID "moe.sampler/1"

typedef struct moe_sampler_state moe_sampler_state; /* of one request in one link */

/* One request's row. The logits are the link's to change in place; -inf takes a token out. */
typedef struct moe_sample_row {
  moe_sampler_state* state;
  float* logits;          /* [n_vocab] */
  const int32_t* history; /* prompt and what was generated, in order */
  int64_t n_history;
  int64_t n_prompt; /* how much of the history is prompt */
  uint64_t seed;    /* with `counter`, the row's random stream: moe/sdk/random.hpp. Nothing else may be random */
  uint64_t counter; /* index of the token to be generated: the same wherever the request runs and whoever runs beside it */
  int32_t picked;   /* -1; a link that decides writes the token here and later links leave the row alone */
  int32_t reserved;
} moe_sample_row;

typedef struct moe_sample_args {
  MOE_STRUCT_HEADER;
  int64_t n_rows;
  int64_t n_vocab;
  moe_sample_row* rows;
} moe_sample_args;

/* Options with MOE_OPTION_REQUEST may come with each request; the configuration gives their defaults. */
typedef struct moe_sampler {
  moe_component component;

  /* A request's state, from the options in order. [thread-safe] */
  moe_status (*create)(const moe_option_value* values, uint32_t n_values, int64_t n_vocab, moe_sampler_state** out,
                       moe_message* message);
  void (*destroy)(moe_sampler_state* state);

  /* Changes the rows' logits, or picks. NaN must not be hidden. Allocates nothing after a state's first call.
   * [compute-thread; several calls at once on different rows] */
  moe_status (*apply)(const moe_sample_args* args, moe_message* message);

  /* The token that the chain ended with. Null if the link has no use for it. [compute-thread] */
  void (*accept)(moe_sampler_state* state, int32_t token);

  /* A copy for a fork of the request (n > 1). [thread-safe] */
  moe_status (*copy)(const moe_sampler_state* state, moe_sampler_state** out, moe_message* message);

  /* 1: with this state the link leaves every row as it is, and the core may skip it. Null: never. [thread-safe] */
  int32_t (*is_identity)(const moe_sampler_state* state);
} moe_sampler;

#ifdef __cplusplus
}
#endif
#endif
