/* moe.expert/1: the experts of a layer, shared and zero-compute ones included. C11, C++17. */
#ifndef MOE_ABI_EXPERT_H
#define MOE_ABI_EXPERT_H

#include "router.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_EXPERT_ID "moe.expert/1"

typedef struct moe_expert_instance moe_expert_instance;

typedef struct moe_expert_config {
  MOE_STRUCT_HEADER;
  int64_t layer;
  int64_t d_model;
  int64_t n_experts;      /* routed, with weights; 0: a dense layer, whose plan is empty */
  int64_t n_zero_experts;
  int64_t k_max;          /* columns of the plan */
  int64_t d_expert;       /* width of a routed expert */
  int64_t d_shared;       /* width of the shared experts together, or of a dense layer; 0: none */
  int64_t first_expert;   /* the range of ids that this instance holds: expert parallelism's seam; today 0 .. n_experts */
  int64_t n_local_experts;
  moe_activation_type activation; /* what products round their activations to */
  int32_t weight_on;              /* what every plan will say: MOE_WEIGHT_ON_*; an operation's workspace depends on it */
} moe_expert_config;

typedef struct moe_expert_spec {
  MOE_STRUCT_HEADER;
  const moe_weight_spec* weights;
  uint32_t n_weights;
  uint32_t reserved;
} moe_expert_spec;

typedef struct moe_expert_args {
  MOE_STRUCT_HEADER;
  int64_t n_tokens;
  moe_tensor x;   /* [n, d_model]: the normalised state */
  moe_plan plan;  /* empty in a dense layer */
  moe_tensor out; /* [n, d_model]: out += experts(x), on top of what is there (the residual stream) */
  float scale;    /* of what is added; usually 1 */
  int32_t reserved;
  void* workspace;
  uint64_t workspace_bytes;
} moe_expert_args;

typedef struct moe_expert {
  moe_component component;

  /* [main-thread] */
  moe_status (*create)(const moe_host* host, const moe_expert_config* config, const moe_option_value* values, uint32_t n_values,
                       moe_expert_instance** out, moe_message* message);
  void (*destroy)(moe_expert_instance* self);
  moe_status (*describe)(moe_expert_instance* self, moe_expert_spec* out, moe_message* message);
  moe_status (*prepare)(moe_expert_instance* self, const moe_compute* compute, const moe_bound_weight* weights, uint32_t n_weights,
                        int64_t max_tokens, uint64_t* workspace_bytes, moe_message* message);

  /* y[t] = sum_j w[t, j] E_{ids[t, j]}(x[t]) over the instance's range of ids, plus shared experts. [compute-thread] */
  moe_status (*forward)(moe_expert_instance* self, const moe_expert_args* args, moe_message* message);
} moe_expert;

#ifdef __cplusplus
}
#endif
#endif
