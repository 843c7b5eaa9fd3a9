// Products of few rows with a weight that is streamed from memory once: decoding.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/weight.hpp"
#include "moe/abi/ops.h"

namespace moe::cuda {

// out[i, g, :] = cap(scale * (w[g] x[i, g, :] + bias[g, :]) [+ out]), as moe_matmul_args says it.
struct MatvecParams {
  WeightView w;
  const float* x;  // [n, n_groups, n_in]
  int64_t x_row;   // elements between rows, and between groups
  int64_t x_group;
  const float* bias;  // [n_groups, n_out], or null
  float* out;         // [n, n_groups, n_out]
  int64_t out_row;
  int64_t out_group;
  int64_t n;           // any; up to 32 rows read the weight once
  int32_t activation;  // MOE_F32, MOE_BF16, MOE_F16, MOE_I8
  float scale;
  float soft_cap;  // 0: none
  bool accumulate;
  // Where given, x is normalised first (root mean square, row by row): x / sqrt(mean(x^2) + norm_eps) * norm_weight.
  // For few rows and where matvec_takes_norm() says so (else cudaErrorNotSupported).
  const float* norm_weight;  // [n_in], or null
  float norm_eps;
  float* normed;  // [n, n_in]: the normalised rows for others, or null; not x
  int64_t normed_row;
  // One row may take the kernels of single.hpp: another order of summation, and 227 KiB of shared memory a block.
  bool single;
  // Programmatic dependent launch: the kernel may start while the one before it on the stream still runs, and asks for
  // weights then. It reads and writes nothing else before that one is through.
  bool pdl;
  void* workspace;  // matvec_workspace() bytes, 256-byte aligned
};

// Rows that a product normalises itself: each of its blocks does it for all of them.
inline constexpr int64_t kMostNormedRows = 4;
// Whether the weight and the type of activations are for a norm in front: one group, and not MOE_I8 with weights that
// are not integers.
bool matvec_takes_norm(const MatvecParams& p);

// Bytes of workspace for these shapes. It is needed where x cannot be read as it lies: rows that do not begin on 16
// bytes, n_in that is not the weight's row, MOE_I8 with weights that are not integers.
size_t matvec_workspace(const MatvecParams& p);

// Any shape, format and activation type. A row's sums run in an order that follows from the weight's shape alone, or,
// for one row where `single` allows it, in that of single.hpp. Products of MOE_BF16 (MOE_F16, MOE_I8) activations with kBF16 and kF8 (kF16; kI8 and kI4)
// weights are one tensor-core product; the others take three (six for kF16), which lose nothing of an f32, or f32
// arithmetic (kF32). Enqueues; never allocates or waits.
cudaError_t launch_matvec(const MatvecParams& p, cudaStream_t stream);

}  // namespace moe::cuda
