/* Views of memory. C11, C++17. */
#ifndef MOE_ABI_TENSOR_H
#define MOE_ABI_TENSOR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Every struct that crosses the boundary begins with this. `struct_size` is sizeof the struct as its writer knows it.
 * `must_understand` holds one bit for each later field whose meaning may not be ignored: a reader that does not know a set bit
 * refuses the struct with MOE_UNIMPLEMENTED. */
#define MOE_STRUCT_HEADER    \
  uint32_t struct_size;      \
  uint32_t must_understand

/* Element types. */
enum {
  MOE_F32 = 1,
  MOE_F16 = 2,
  MOE_BF16 = 3,
  MOE_F8_E4M3 = 4, /* OCP e4m3fn */
  MOE_I8 = 5,
  MOE_U8 = 6,
  MOE_I32 = 7,
  MOE_I64 = 8
};

/* Where memory lies. */
enum { MOE_DEVICE_HOST = 1, MOE_DEVICE_CUDA = 2 };

typedef struct moe_device {
  int32_t kind;  /* MOE_DEVICE_* */
  int32_t index; /* which of that kind, from 0 */
} moe_device;

/* How a tensor's bytes stand for numbers when `dtype` alone does not say. */
typedef struct moe_quant {
  MOE_STRUCT_HEADER;
  const char* encoding;    /* an encoding's id, such as "q8_0" */
  uint32_t block_elements; /* elements of the innermost dimension that one block holds */
  uint32_t block_bytes;
} moe_quant;

enum { MOE_MAX_DIMS = 4 };

/* A borrowed view, as DLPack's: element (i, j, ...) lies at data + (i * strides[0] + j * strides[1] + ...) elements.
 * Outermost dimension first. `data` null means that the tensor is absent; ndim is then 0. The memory is borrowed for the call,
 * and on a stream until the work that was enqueued on it has completed. */
typedef struct moe_tensor {
  MOE_STRUCT_HEADER;
  void* data;
  int32_t dtype; /* MOE_F32 ... */
  int32_t ndim;  /* 0 .. MOE_MAX_DIMS */
  int64_t shape[MOE_MAX_DIMS];
  int64_t strides[MOE_MAX_DIMS]; /* in elements */
  moe_device device;
  const moe_quant* quant; /* null: plain elements of dtype */
} moe_tensor;

#ifdef __cplusplus
}
#endif
#endif
