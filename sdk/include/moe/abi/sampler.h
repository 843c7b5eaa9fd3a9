/* moe.sampler/1: one link of the chain that turns logits into a token. C11, C++17. */
#ifndef MOE_ABI_SAMPLER_H
#define MOE_ABI_SAMPLER_H

#include "plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_SAMPLER_ID "moe.sampler/1"

typedef struct moe_sampler_state moe_sampler_state; /* of one request in one link */

/* What moe_sample_row.picked holds besides a token. */
enum {
  MOE_PICKED_NONE = -1,  /* no link has decided */
  MOE_PICKED_FAILED = -2 /* the link that was to decide found a NaN, +inf, or no finite logit */
};

/* One request's row. The logits are the link's to change in place; -inf takes a token out. */
typedef struct moe_sample_row {
  moe_sampler_state* state;
  float* logits;          /* [n_vocab] */
  const int32_t* history; /* prompt and what was generated, in order */
  int64_t n_history;
  int64_t n_prompt; /* how much of the history is prompt */
  uint64_t seed;    /* with `counter`, the row's random stream: moe/sdk/random.hpp. Nothing else may be random */
  uint64_t counter; /* index of the token to be generated: the same wherever the request runs and whoever runs beside it */
  int32_t picked;   /* MOE_PICKED_NONE; a link that decides writes the token here, or MOE_PICKED_FAILED */
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

  /* Changes the rows' logits, or picks. A row whose `picked` is not MOE_PICKED_NONE is left alone. Allocates nothing after a state's
   * first call.
   *
   * Broken logits must surface, in their own request only: a row that holds a NaN or +inf, or no finite logit, keeps them through every
   * link, and the link that decides (any with MOE_CAP_PICKS, and temperature 0) sets MOE_PICKED_FAILED there, which the core turns into
   * the failure of that request alone. The call still returns MOE_OK: its other rows are good. Another status means that the call did
   * nothing of use, and fails every request in it.
   * [compute-thread; several calls at once on different rows] */
  moe_status (*apply)(const moe_sample_args* args, moe_message* message);

  /* The token that the chain ended with. Null if the link has no use for it. [compute-thread] */
  void (*accept)(moe_sampler_state* state, int32_t token);

  /* A copy for a fork of the request (n > 1). [thread-safe] */
  moe_status (*copy)(const moe_sampler_state* state, moe_sampler_state** out, moe_message* message);

  /* 1: with this state the link leaves every row as it is, and the core may skip it. Null: never. [thread-safe] */
  int32_t (*is_identity)(const moe_sampler_state* state);
} moe_sampler;

/* Extension: links that only look for the largest logit. Where the links before are neutral the core then asks the backend for it
 * (MOE_OP_ARGMAX), and the logits need not come to the host. */
#define MOE_SAMPLER_LARGEST_ID "moe.sampler.largest/1"
typedef struct moe_sampler_largest {
  MOE_STRUCT_HEADER;
  /* 1: with this state `apply` picks the lowest index of the row's largest logit, whatever else the row says, or fails where the row is
   * broken. [thread-safe] */
  int32_t (*picks_largest)(const moe_sampler_state* state);
} moe_sampler_largest;

#ifdef __cplusplus
}
#endif
#endif
