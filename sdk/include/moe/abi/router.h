/* moe.router/1: which experts a token goes to, and with what weights. C11, C++17. */
#ifndef MOE_ABI_ROUTER_H
#define MOE_ABI_ROUTER_H

#include "ops.h"
#include "weights.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_ROUTER_ID "moe.router/1"

typedef struct moe_router_instance moe_router_instance;

/* The layer that a router serves. */
typedef struct moe_router_config {
  MOE_STRUCT_HEADER;
  int64_t layer; /* of the model, from 0 */
  int64_t n_layers;
  int64_t d_model;
  int64_t n_experts; /* with weights */
  int64_t n_zero_experts; /* further ids [n_experts, n_experts + n_zero_experts): zero-compute */
  int64_t n_vocab;
} moe_router_config;

/* What a router reads besides the logits (moe_router_spec.inputs). */
enum {
  MOE_INPUT_HIDDEN = 1,          /* the normalised state that the experts get */
  MOE_INPUT_BEFORE_ATTENTION = 2, /* the layer's input, before attention and norm */
  MOE_INPUT_PREVIOUS_PLAN = 4,   /* the plan and aux of the nearest MoE layer below */
  MOE_INPUT_HOST = 8             /* host scoring: all tensors of route() are in host memory, whatever the backend */
};

/* What a router declares. Pointers stay valid as long as the instance. */
typedef struct moe_router_spec {
  MOE_STRUCT_HEADER;
  const moe_weight_spec* weights;
  uint32_t n_weights;
  uint32_t inputs;        /* MOE_INPUT_* */
  int64_t n_logits;       /* the core computes logits [n, n_logits] = hidden . W^T in f32 from the weight of role "gate"
                             [n_logits, d_model], which need not be declared; 0: the router computes what it needs itself */
  int64_t k_max;          /* columns of the plan */
  int64_t context_floats; /* f32 a token that the router keeps in the paged cache; 0: none */
  int64_t aux_floats;     /* f32 a token that it hands to the next MoE layer's router; 0: none */
  int32_t weight_on;      /* MOE_WEIGHT_ON_* */
  int32_t dynamic;        /* 1: fills plan.count */
  float weights_sum;      /* what the weights of every token add up to, while its scores do not underflow; 0: that varies */
  int32_t reserved;
} moe_router_spec;

/* The decision for n tokens. */
typedef struct moe_plan {
  MOE_STRUCT_HEADER;
  moe_tensor ids;     /* [n, k_max] i32, distinct in a row, best first, ties to the lower id */
  moe_tensor weights; /* [n, k_max] f32, finite; 0 from count[i] on */
  moe_tensor count;   /* [n] i32 in [1, k_max]; absent: k_max */
  moe_tensor aux;     /* [n, aux_floats] f32; absent: none */
  int32_t weight_on;
  int32_t reserved;
} moe_plan;

/* A router's own rows in the paged cache: row p of a sequence was written when its token at position p was routed in this layer. Rows
 * follow their sequence through prefix reuse and preemption. A router writes the rows of its call's tokens and reads earlier ones. */
typedef struct moe_context {
  MOE_STRUCT_HEADER;
  moe_tensor rows; /* [n_rows, context_floats] f32: all sequences' */
  moe_pages pages; /* where position p of sequence s lies: see moe_pages */
} moe_context;

typedef struct moe_route_args {
  MOE_STRUCT_HEADER;
  int64_t n_tokens;
  moe_tensor logits;           /* [n, n_logits] f32 */
  moe_tensor hidden;           /* [n, d_model], where asked for */
  moe_tensor before_attention; /* [n, d_model], where asked for */
  moe_tensor token_ids;        /* [n] i32 */
  moe_tensor positions;        /* [n] i32; tokens of one sequence come in ascending order */
  moe_tensor sequences;        /* [n] i32: rows of context.pages.page_table */
  const moe_plan* previous;    /* where asked for; null in the first MoE layer */
  moe_context context;
  moe_plan plan; /* out */
  void* workspace;
  uint64_t workspace_bytes;
} moe_route_args;

typedef struct moe_router {
  moe_component component;

  /* `values` are the component's options in order. MOE_INVALID_ARGUMENT names the option that does not fit the layer. [main-thread] */
  moe_status (*create)(const moe_host* host, const moe_router_config* config, const moe_option_value* values, uint32_t n_values,
                       moe_router_instance** out, moe_message* message);
  void (*destroy)(moe_router_instance* self);

  /* [main-thread] */
  moe_status (*describe)(moe_router_instance* self, moe_router_spec* out, moe_message* message);

  /* Hands over the declared weights and the backend, and asks for the workspace of calls of up to max_tokens. `compute` stays valid as
   * long as the instance. [main-thread] */
  moe_status (*prepare)(moe_router_instance* self, const moe_compute* compute, const moe_bound_weight* weights, uint32_t n_weights,
                        int64_t max_tokens, uint64_t* workspace_bytes, moe_message* message);

  /* Fills args->plan. Allocates nothing, keeps no pointer. Unless MOE_INPUT_HOST, only enqueues on the compute's stream.
   * [compute-thread] */
  moe_status (*route)(moe_router_instance* self, const moe_route_args* args, moe_message* message);
} moe_router;

/* Extension: a router whose decision is exactly one `route` operation (MOE_OP_ROUTE) of its logits, so that a host may run that operation
 * itself, with what comes before it, in the place of calling route(). Such a router has neither context_floats nor aux_floats, and reads
 * the logits only. */
#define MOE_ROUTER_OP_ID "moe.router.op/1"
typedef struct moe_router_op {
  MOE_STRUCT_HEADER;
  /* Fills `out`, which comes with its struct_size and every tensor absent, with the arguments of the operation that route(args) would
   * launch; the workspace is left to whoever launches it. Called after prepare, first with shapes as large as they will come and without
   * data. [main-thread; compute-thread] */
  moe_status (*op)(moe_router_instance* self, const moe_route_args* args, moe_route_op_args* out, moe_message* message);
} moe_router_op;

#ifdef __cplusplus
}
#endif
#endif
