/* Weights that a router or an expert declares by role, and how it gets them. C11, C++17. */
#ifndef MOE_ABI_WEIGHTS_H
#define MOE_ABI_WEIGHTS_H

#include "backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
  MOE_PLACE_PREPARED = 1, /* packed by the backend: for products */
  MOE_PLACE_DEVICE = 2,   /* plain f32 in the backend's memory: for ops that take a tensor */
  MOE_PLACE_HOST = 3      /* plain f32 in host memory: for host code */
};

typedef struct moe_weight_spec {
  MOE_STRUCT_HEADER;
  const char* role; /* "gate", "up", "down", "bias", ...: the architecture's file says which tensor that is */
  int64_t n_groups; /* matrices: n_experts, or 1 */
  int64_t n_out;
  int64_t n_in;      /* 1 for vectors: [n_groups, n_out] */
  int32_t placement; /* MOE_PLACE_* */
  int32_t optional;  /* 1: may be missing in the checkpoint */
} moe_weight_spec;

/* One declared weight, in the order of the declaration. Valid as long as the instance that declared it. */
typedef struct moe_bound_weight {
  const char* role;
  const moe_weight* prepared; /* MOE_PLACE_PREPARED; null if missing */
  const float* plain;         /* MOE_PLACE_DEVICE or _HOST: [n_groups, n_out, n_in]; null if missing */
} moe_bound_weight;

/* The backend that a layer's part runs on, as its router or expert sees it. */
typedef struct moe_compute {
  MOE_STRUCT_HEADER;
  const moe_backend* backend; /* its table of calls; launch(instance, ...) */
  moe_backend_instance* instance;
  void* stream; /* the native stream; null where there are none */
  moe_device device;
  uint32_t flags;    /* MOE_BACKEND_* */
  uint32_t reserved;
  /* find_op with the host's fall-back to the SDK's loops; the result may be launched with `launch` below only. [main-thread] */
  moe_status (*find_op)(const struct moe_compute* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                        moe_message* message);
  /* [compute-thread] */
  moe_status (*launch)(const struct moe_compute* self, const moe_op* op, const moe_op_args* args, moe_message* message);
} moe_compute;

#ifdef __cplusplus
}
#endif
#endif
