/* Status codes and messages: how every call across the boundary says what went wrong. C11, C++17. */
#ifndef MOE_ABI_STATUS_H
#define MOE_ABI_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The codes are those of abseil's StatusCode. 0 is success; a code that a host does not know is treated as MOE_UNKNOWN. */
typedef int32_t moe_status;

enum {
  MOE_OK = 0,
  MOE_CANCELLED = 1,
  MOE_UNKNOWN = 2,
  MOE_INVALID_ARGUMENT = 3,
  MOE_DEADLINE_EXCEEDED = 4,
  MOE_NOT_FOUND = 5,
  MOE_ALREADY_EXISTS = 6,
  MOE_PERMISSION_DENIED = 7,
  MOE_RESOURCE_EXHAUSTED = 8,
  MOE_FAILED_PRECONDITION = 9,
  MOE_ABORTED = 10,
  MOE_OUT_OF_RANGE = 11,
  MOE_UNIMPLEMENTED = 12,
  MOE_INTERNAL = 13,
  MOE_UNAVAILABLE = 14,
  MOE_DATA_LOSS = 15,
  MOE_UNAUTHENTICATED = 16
};

/* A buffer of the caller's for one message: UTF-8, always terminated by NUL, cut to fit. A function that returns MOE_OK leaves it
 * alone. A null moe_message* means that the caller wants no text. */
typedef struct moe_message {
  char* text;        /* `capacity` bytes, owned by the caller */
  uint32_t capacity; /* including the NUL; 0 allows no text */
  uint32_t reserved;
} moe_message;

#ifdef __cplusplus
}
#endif
#endif
