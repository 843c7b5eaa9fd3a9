// The one kernel that comes before those that need their input in a certain way.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/launch.hpp"
#include "kernels/weight.hpp"

namespace moe::cuda {

// Rows of f32 as products read them: out[i, g, :] [n, n_groups, out_row] is x[i, g, :] with zeros from n_in on, rounded
// to MOE_I8 and back where `round_i8` (each value q * scale in f32; moe/sdk/quant.hpp).
struct PadParams {
  const float* x;
  int64_t x_row;
  int64_t x_group;
  float* out;
  int64_t out_row;  // a multiple of 32
  int64_t n, n_groups, n_in;
  bool round_i8;
  bool pdl;
};
cudaError_t launch_pad(const PadParams& p, cudaStream_t stream);

// Whether products with `w` can read rows of x where they lie: on 16 bytes, and nothing to be padded.
inline bool reads_in_place(const float* x, int64_t x_row, int64_t x_group, const WeightView& w) {
  return w.row == w.n_in && x_row % 4 == 0 && x_group % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

inline cudaError_t count_multiprocessors(int* n) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error != cudaSuccess ? error : cudaDeviceGetAttribute(n, cudaDevAttrMultiProcessorCount, device);
}

}  // namespace moe::cuda
