// Weights kF8 as bf16, for the products of many rows that know no fp8.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/weight.hpp"

namespace moe::cuda {

// out[i - first_group, r - first_row, :] = row r of matrix i, code * scale rounded to bf16, [row] elements.
struct UnpackParams {
  WeightView w;  // kF8
  int64_t first_row;
  int64_t n_rows;
  int64_t first_group;
  int64_t n_groups;
  // Device memory, or null: matrix i is group order[i], and those with tiles[i] == tiles[i + 1] are left out.
  const int32_t* order;
  const int32_t* tiles;
  uint16_t* out;
  bool pdl;
};
cudaError_t launch_unpack(const UnpackParams& p, cudaStream_t stream);

// What a part of a weight is unpacked into at a time: parts that fill the device with products, and not its memory.
inline constexpr int64_t kUnpackedBytes = int64_t{256} << 20;
// So many of `n` that take `bytes` each.
inline int64_t unpacked_at_once(int64_t n, int64_t bytes) {
  const int64_t fit = kUnpackedBytes / (bytes > 0 ? bytes : 1);
  return fit < n ? fit : n;
}

// `w` as it lies unpacked: matrices of n_rows rows.
inline WeightView unpacked_view(const WeightView& w, const void* data, int64_t n_groups, int64_t n_rows) {
  WeightView v = w;
  v.data = data;
  v.scales = nullptr;
  v.n_groups = n_groups;
  v.n_out = n_rows;
  v.format = Format::kBF16;
  return v;
}

}  // namespace moe::cuda
