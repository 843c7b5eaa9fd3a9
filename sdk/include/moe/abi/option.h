/* Options that describe themselves: from one table come the check of the configuration, its error messages, `patchbay plugins
 * inspect` and the reference page. C11, C++17. */
#ifndef MOE_ABI_OPTION_H
#define MOE_ABI_OPTION_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Types of options. */
enum {
  MOE_OPTION_BOOL = 1,   /* value.i is 0 or 1 */
  MOE_OPTION_INT = 2,    /* value.i */
  MOE_OPTION_FLOAT = 3,  /* value.f */
  MOE_OPTION_STRING = 4, /* value.s; one of `choices` where there are any */
  MOE_OPTION_INT_LIST = 5,
  MOE_OPTION_FLOAT_LIST = 6
};

/* Flags of options. */
enum {
  MOE_OPTION_REQUIRED = 1,  /* no default: a configuration must give it */
  MOE_OPTION_RUNTIME = 2,   /* may change while the plugin runs */
  MOE_OPTION_PER_LAYER = 4, /* may differ from layer to layer */
  MOE_OPTION_REQUEST = 8    /* may be set by each request (links of the sampler chain) */
};

/* One option. All pointers stay valid as long as the library is loaded. */
typedef struct moe_option {
  MOE_STRUCT_HEADER;
  const char* key;
  const char* default_text;   /* as it would stand in TOML: "true", "8", "0.6", "softmax"; lists "1, 2"; null with REQUIRED */
  const char* const* choices; /* null-terminated; null: any */
  const char* unit;           /* "tokens", "bytes", ...; may be null */
  const char* doc;            /* one sentence; never null */
  double min;                 /* inclusive range of numbers; min > max: unbounded */
  double max;
  int32_t type;  /* MOE_OPTION_* */
  uint32_t flags;
} moe_option;

/* A checked value, handed to `create`: the host has applied defaults, so every option of the table is there, in its order. */
typedef struct moe_option_value {
  const char* key;
  union {
    int64_t i;
    double f;
    const char* s;
    const int64_t* ints;
    const double* floats;
  } value;
  uint32_t n;     /* elements, where it is a list; otherwise 1 */
  int32_t type;   /* MOE_OPTION_* */
  int32_t is_set; /* 1: the configuration or the request gave it; 0: it is the default */
  int32_t reserved;
} moe_option_value;

#ifdef __cplusplus
}
#endif
#endif
