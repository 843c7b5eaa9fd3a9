// Launches of operations that treat each row by itself. Nothing here allocates or waits. Shapes of zero launch nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/weight.hpp"
#include "moe/abi/ops.h"

namespace moe::cuda {

// [n, heads, dim] with contiguous elements: row (i, h) begins at data + i * stride + h * head_stride.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  int64_t head_stride;
};

struct EmbedParams {
  WeightView table;
  const int32_t* ids;
  int64_t ids_stride;
  Rows<float> out;
  int64_t n;
  float scale;
};
// An id outside the table gives a row of NaN.
cudaError_t launch_embed(const EmbedParams& p, cudaStream_t stream);

struct NormParams {
  Rows<float> x;
  Rows<const float> residual;  // data null: none
  const float* weight;         // null: ones
  const float* bias;           // null: zeros
  Rows<float> out;
  int64_t n, heads, dim;
  float eps;
  bool layer;  // layer normalisation, else root mean square
  bool pdl;    // programmatic dependent launch
  // Where it is not null, rows (heads 1) go there in place of out, as narrow_type (MOE_F16, MOE_BF16) and with zeros
  // from dim to narrow_row.
  uint16_t* narrow;
  int64_t narrow_row;
  int32_t narrow_type;
};
cudaError_t launch_norm(const NormParams& p, cudaStream_t stream);

struct RopeParams {
  Rows<const float> x;
  Rows<float> out;
  const int32_t* positions;
  int64_t positions_stride;
  const float* inv_freq;  // [half]
  int64_t n, heads, half, offset;
  float scale;
  bool interleaved;
};
cudaError_t launch_rope(const RopeParams& p, cudaStream_t stream);

struct CacheStoreParams {
  Rows<const float> x;
  const int64_t* rows;
  int64_t rows_stride;
  void* cache;
  int64_t cache_stride;
  int64_t n, dim;
  int32_t dtype;  // of the cache: MOE_F32, MOE_F16, MOE_BF16
};
cudaError_t launch_cache_store(const CacheStoreParams& p, cudaStream_t stream);

struct ActivationParams {
  Rows<const float> gate;
  Rows<const float> up;  // data null: ungated
  Rows<float> out;
  int64_t n, width;
  moe_gating gating;
};
cudaError_t launch_activation(const ActivationParams& p, cudaStream_t stream);

// out[r] = x[rows[r]], or x[r] without rows.
struct GatherParams {
  Rows<const float> x;
  const int32_t* rows;
  int64_t rows_stride;
  Rows<float> out;
  int64_t n, dim;
};
cudaError_t launch_gather(const GatherParams& p, cudaStream_t stream);

struct CombineParams {
  Rows<const float> x;
  Rows<const int32_t> slots;  // [n, k]; negative: none
  Rows<const float> weights;  // [n, k]
  Rows<float> out;
  int64_t n, k, dim;
  bool accumulate;
};
// out[i] (+)= sum_j weights[i, j] * x[slots[i, j]], j ascending.
cudaError_t launch_combine(const CombineParams& p, cudaStream_t stream);

// out[i] += scale * (sum of weights[i, j] with ids[i, j] >= first) * x[i].
struct IdentityParams {
  Rows<const float> x;
  Rows<const int32_t> ids;
  Rows<const float> weights;
  const int32_t* count;  // null: k
  int64_t count_stride;
  Rows<float> out;
  int64_t n, k, dim;
  int64_t first;
  float scale;
};
cudaError_t launch_identity(const IdentityParams& p, cudaStream_t stream);

struct AddParams {
  Rows<const float> x;
  Rows<const float> y;  // data null: none
  Rows<float> out;
  int64_t n, dim;
  float alpha, beta;
};
cudaError_t launch_add(const AddParams& p, cudaStream_t stream);

struct ArgmaxParams {
  Rows<const float> x;
  int32_t* ids;
  int64_t ids_stride;
  int64_t n, dim;
};
cudaError_t launch_argmax(const ArgmaxParams& p, cudaStream_t stream);

// Rows of x rounded to `activation`: as f32, or as 16-bit floats (MOE_F16, MOE_BF16) where `narrow`; columns [dim,
// out_dim) become zero.
struct RoundParams {
  Rows<const float> x;
  void* out;
  int64_t out_stride;  // in elements
  int64_t n, dim, out_dim;
  int32_t activation;
  bool narrow;
};
cudaError_t launch_round(const RoundParams& p, cudaStream_t stream);

struct ClampParams {
  Rows<const float> x;
  Rows<float> out;
  int64_t n, dim;
  float limit;
};
cudaError_t launch_clamp(const ClampParams& p, cudaStream_t stream);

}  // namespace moe::cuda
