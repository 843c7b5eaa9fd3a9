// Products of rows that are sorted by group, with weights of any format; and what cuBLAS leaves to be done.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/weight.hpp"

namespace moe::cuda {

// out[r, :] = w[g] x[r, :] + bias[g, :] for the rows r of each group g, in f32. A row's order of summation does not
// depend on the others.
struct GroupedProductParams {
  WeightView w;
  const float* x;  // [n, n_in]
  int64_t x_row;
  float* out;  // [n, n_out]
  int64_t out_row;
  const float* bias;  // [n_groups, n_out]; null: none
  int64_t bias_row;
  int64_t n;
  const int32_t* tiles;  // of launch_tiles
};

// Rows of one group that are multiplied together.
inline constexpr int64_t kTileRows = 64;
// int32 that launch_tiles writes for so many rows.
inline int64_t tiles_size(int64_t n, int64_t n_groups) { return 1 + 3 * (n / kTileRows + n_groups); }
// tiles: [0] how many, then (group, first row, end row) each, from offsets [n_groups + 1].
cudaError_t launch_tiles(const int32_t* offsets, int64_t n_groups, int32_t* tiles, cudaStream_t stream);
cudaError_t launch_grouped_product(const GroupedProductParams& p, cudaStream_t stream);

// out = cap(out + scale * bias).
struct FinishParams {
  float* out;
  int64_t out_row, out_group;
  const float* bias;  // [n_groups * n_out]; null: none
  int64_t n, n_groups, n_out;
  float scale, soft_cap;
};
cudaError_t launch_finish(const FinishParams& p, cudaStream_t stream);

}  // namespace moe::cuda
