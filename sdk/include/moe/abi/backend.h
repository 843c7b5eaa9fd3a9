/* moe.backend/1: a device, its memory and its operations. C11, C++17. */
#ifndef MOE_ABI_BACKEND_H
#define MOE_ABI_BACKEND_H

#include "plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_BACKEND_ID "moe.backend/1"

typedef struct moe_backend_instance moe_backend_instance; /* the plugin's own */
typedef struct moe_weight moe_weight;                     /* a prepared weight: the backend's own layout */
typedef struct moe_op moe_op;                             /* an operation as found for some shapes: the backend's own */

/* Memory on the device, zero-filled. Whoever holds it calls release once; the backend must still exist then. */
typedef struct moe_buffer {
  MOE_STRUCT_HEADER;
  void* data;
  uint64_t n_bytes;
  moe_device device;
  void* owner; /* the backend's */
  void (*release)(struct moe_buffer* self); /* [main-thread] */
} moe_buffer;

/* What a prepared weight will be used for (moe_weight_source.uses). */
enum { MOE_USE_MATMUL = 1, MOE_USE_EMBED = 2 };

/* A weight as it is stored: n_groups matrices [n_out, n_in] (an expert each, or a head each, or one). Implemented by the host;
 * valid during `prepare` only. read_f32 may be called from several threads at once. */
typedef struct moe_weight_source {
  MOE_STRUCT_HEADER;
  const char* name;     /* for messages and caches: the first tensor's name */
  const char* role;     /* "gate", "up", "down", "q", ... */
  const char* encoding; /* an encoding's id (moe/sdk/codec.hpp): how it is stored */
  const char* wanted;   /* "auto" (as stored if the backend reads that, otherwise the nearest without loss), or an encoding's id */
  int64_t n_groups;
  int64_t n_out;
  int64_t n_in;
  uint32_t uses; /* MOE_USE_* */
  uint32_t reserved;
  void* context;
  /* Rows [row, row + n_rows) of matrix `group` as f32 into out [n_rows, n_in]. [thread-safe] */
  void (*read_f32)(void* context, int64_t group, int64_t row, int64_t n_rows, float* out);
  /* The bytes of matrix `group` in `encoding`, rows contiguous; null if they do not lie like that. [thread-safe] */
  const void* (*raw)(void* context, int64_t group);
  /* The matrix has been read and its pages may go. [thread-safe] */
  void (*done)(void* context, int64_t group);
  /* Where elements are stored with scales beside them, one for each block of block_rows x block_cols elements of a matrix, counted from its
   * first row and column: the encoding of the elements by themselves. Null: they are not, or the blocks of what the matrix is made of do not
   * line up. A weight is element * scale, rounded once to f32; read_f32 gives that, and `encoding` is "f32". */
  const char* block_encoding;
  int64_t block_rows;
  int64_t block_cols;
  /* Row `index` of blocks of matrix `group`: its rows of elements (block_rows, or what is left of the matrix), each `stride` bytes after the
   * one before, and its scales [ceil(n_in / block_cols)]. [thread-safe] */
  void (*read_block_row)(void* context, int64_t group, int64_t index, void* elements, int64_t stride, float* scales);
} moe_weight_source;

typedef struct moe_prepared {
  MOE_STRUCT_HEADER;
  moe_weight* weight;
  const char* encoding; /* what it is kept as; static */
  uint64_t n_bytes;     /* all groups */
  void* owner;
  void (*release)(struct moe_prepared* self); /* [main-thread] */
} moe_prepared;

/* How one operation runs. */
typedef struct moe_op_info {
  MOE_STRUCT_HEADER;
  const moe_op* op;           /* passed to launch; lives as long as the instance */
  const char* implementation; /* which row of the backend's table: "avx512", "portable", ...; static */
  uint64_t workspace_bytes;   /* the caller lends as much to every launch */
  uint32_t flags;             /* MOE_CAP_* of this operation */
  uint32_t reserved;
} moe_op_info;

/* Every argument struct of an operation begins with this (moe/abi/ops.h). */
typedef struct moe_op_args {
  MOE_STRUCT_HEADER;
  void* workspace; /* as asked for by find_op; device memory, 64-byte aligned */
  uint64_t workspace_bytes;
} moe_op_args;

enum { MOE_COPY_TO_DEVICE = 1, MOE_COPY_TO_HOST = 2, MOE_COPY_ON_DEVICE = 3 };

enum { MOE_MEMORY_DEVICE = 1, MOE_MEMORY_HOST_PINNED = 2 };

/* Flags of an instance. */
enum { MOE_BACKEND_HOST_VISIBLE = 1 /* its memory can be read and written by host code as it is */ };

typedef struct moe_backend_description {
  MOE_STRUCT_HEADER;
  moe_device device;
  uint32_t flags;
  uint32_t reserved;
  const char* device_name; /* "AMD EPYC, AVX-512, 2 threads" */
  void* stream;            /* the instance's compute stream; null where streams do not exist */
  uint64_t free_bytes;     /* memory that can still be had; 0: unknown */
} moe_backend_description;

/* Required: create and destroy, as every kind has them, and six calls. */
typedef struct moe_backend {
  moe_component component;

  /* `values` are the component's options in order; fills the description, which is valid until destroy. [main-thread] */
  moe_status (*create)(const moe_host* host, const moe_option_value* values, uint32_t n_values, moe_backend_instance** out,
                       moe_backend_description* description, moe_message* message);
  void (*destroy)(moe_backend_instance* self);

  /* Device memory (or pinned host memory). MOE_RESOURCE_EXHAUSTED says how much was asked for and how much there is. */
  moe_status (*alloc)(moe_backend_instance* self, uint64_t n_bytes, int32_t memory, moe_buffer* out, moe_message* message);

  /* Enqueues a copy on the stream. Host memory that is not pinned may make the call wait. [compute-thread] */
  moe_status (*copy)(moe_backend_instance* self, void* to, const void* from, uint64_t n_bytes, int32_t direction, void* stream,
                     moe_message* message);

  /* Packs and quantises a weight once, at load. [main-thread; may use host->parallel_for] */
  moe_status (*prepare)(moe_backend_instance* self, const moe_weight_source* source, moe_prepared* out, moe_message* message);

  /* How the backend would run operation `id`. `largest` is its argument struct with shapes as large as they will come and data
   * pointers null (but weights given). MOE_UNIMPLEMENTED: not at all; the host then runs the SDK's loops if this backend's memory is
   * visible to the host, and fails otherwise. [main-thread] */
  moe_status (*find_op)(moe_backend_instance* self, const char* id, const moe_op_args* largest, moe_op_info* out,
                        moe_message* message);

  /* Enqueues it. Allocates nothing. Arguments were checked when the model was built; shapes are at most those of find_op.
   * [compute-thread] */
  moe_status (*launch)(moe_backend_instance* self, const moe_op* op, const moe_op_args* args, void* stream, moe_message* message);

  /* Waits until everything on the stream is done, and reports what failed there. [compute-thread] */
  moe_status (*sync)(moe_backend_instance* self, void* stream, moe_message* message);
} moe_backend;

/* Extension: reading a prepared weight back as f32, row by row. A backend whose memory is visible to the host and that has it gets the
 * SDK's loops (moe/sdk/loops.hpp) for every operation that it refuses. */
#define MOE_BACKEND_ROWS_ID "moe.backend.rows/1"
typedef struct moe_backend_rows {
  MOE_STRUCT_HEADER;
  /* shape = {n_groups, n_out, n_in}. [thread-safe] */
  void (*shape)(const moe_weight* weight, int64_t shape[3]);
  /* Row `row` of matrix `group` as f32: a pointer into the weight, or `scratch` [n_in] filled. Valid as long as both. [thread-safe] */
  const float* (*row)(const moe_weight* weight, int64_t group, int64_t row, float* scratch);
} moe_backend_rows;

/* Extension: recording what is enqueued on a stream and replaying it, so that a step costs one launch. Between begin and end, calls of
 * operations whose flags have MOE_CAP_GRAPH_SAFE, and copies on the device, are recorded and not run; nothing else may be called. What is
 * recorded keeps the pointers and shapes of its arguments. */
typedef struct moe_graph moe_graph; /* the backend's own */
#define MOE_BACKEND_GRAPH_ID "moe.backend.graph/1"
typedef struct moe_backend_graph {
  MOE_STRUCT_HEADER;
  /* [compute-thread] */
  moe_status (*begin)(moe_backend_instance* self, void* stream, moe_message* message);
  /* Ends the recording in any case; on failure there is no graph. */
  moe_status (*end)(moe_backend_instance* self, void* stream, moe_graph** out, moe_message* message);
  /* Enqueues the whole of it. [compute-thread] */
  moe_status (*launch)(moe_backend_instance* self, moe_graph* graph, void* stream, moe_message* message);
  /* Not while it may still run. */
  void (*destroy)(moe_backend_instance* self, moe_graph* graph);
} moe_backend_graph;

/* Extension: several operations as one, where a backend has a faster way than one after the other. The result is that of launching them in
 * order, but what an operation whose bit in `temporary` is set (bit i: operation i) writes need not reach its outputs: nobody reads them
 * afterwards. The workspace of the arguments is not used; the caller lends that of the call. */
#define MOE_BACKEND_FUSED_ID "moe.backend.fused/1"
typedef struct moe_backend_fused {
  MOE_STRUCT_HEADER;
  /* As moe_backend.find_op, for operations[0 .. n). MOE_UNIMPLEMENTED: no faster way; the caller launches them one by one. [main-thread] */
  moe_status (*find)(moe_backend_instance* self, uint32_t n, const char* const* operations, const moe_op_args* const* largest,
                     uint32_t temporary, moe_op_info* out, moe_message* message);
  /* [compute-thread] */
  moe_status (*launch)(moe_backend_instance* self, const moe_op* op, const moe_op_args* const* args, void* workspace,
                       uint64_t workspace_bytes, void* stream, moe_message* message);
} moe_backend_fused;

/* Extension: how well the backend fits this machine, for `backend = "auto"`. Without it: 1. */
#define MOE_BACKEND_SCORE_ID "moe.backend.score/1"
typedef struct moe_backend_score {
  MOE_STRUCT_HEADER;
  /* 0: cannot run here (with the reason in `message`); otherwise the highest is taken: plain loops 1, portable CPU code 10, tuned
   * CPU code up to 100, a GPU above. Takes no noticeable time or memory. [thread-safe] */
  int32_t (*score)(moe_message* message);
} moe_backend_score;

#ifdef __cplusplus
}
#endif
#endif
