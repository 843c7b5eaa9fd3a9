/* moe.backend.packed/1: what a backend may have beside moe.backend/1. C11, C++17. */
#ifndef MOE_ABI_PACKED_H
#define MOE_ABI_PACKED_H

#include "backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Extension: prepared weights as plain bytes, which the host keeps in a file and takes from there at the next start instead of packing
 * again. For a backend whose memory is visible to the host. */
#define MOE_BACKEND_PACKED_ID "moe.backend.packed/1"
typedef struct moe_backend_packed {
  MOE_STRUCT_HEADER;
  /* By which rules this instance packs: order of elements, rounding, padding. Instances that say the same take each other's bytes, so a
   * change of any of these is a new text. Valid as long as the instance. [main-thread] */
  const char* (*layout)(moe_backend_instance* self);
  /* All bytes of a weight; they live as long as it. [thread-safe] */
  const void* (*bytes)(const moe_weight* weight, uint64_t* n_bytes);
  /* The weight that `prepare` would make of this source, over bytes that such a weight gave under the same layout(); nothing is copied, and
   * of the source only the description is read. `bytes` is a buffer of this instance's alloc(), where weights are read fastest, or begins
   * on a page of a file; it is for reading only and stays until `release`.
   * MOE_INVALID_ARGUMENT: not as many bytes as that weight has. [main-thread] */
  moe_status (*adopt)(moe_backend_instance* self, const moe_weight_source* source, const void* bytes, uint64_t n_bytes, moe_prepared* out,
                      moe_message* message);
} moe_backend_packed;

#ifdef __cplusplus
}
#endif
#endif
