#include "kernels/unpack.hpp"

#include "kernels/gemv_weight.cuh"
#include "kernels/launch.hpp"

namespace moe::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnit = 16;  // codes of a thread

// Two codes, the low half of the word.
__device__ __forceinline__ uint32_t unpack_two(uint32_t two, float scale) {
  const uint32_t v = e4m3_to_f16(two);
  return pack_bf16(from_f16_bits(static_cast<uint16_t>(v)) * scale,
                   from_f16_bits(static_cast<uint16_t>(v >> 16)) * scale);
}
__device__ __forceinline__ uint4 unpack_eight(uint32_t lo, uint32_t hi, float scale) {
  return make_uint4(unpack_two(lo & 0xFFFFU, scale), unpack_two(lo >> 16, scale), unpack_two(hi & 0xFFFFU, scale),
                    unpack_two(hi >> 16, scale));
}

// Blocks: (units of a matrix's rows, matrices).
__global__ void __launch_bounds__(kThreads) unpack_kernel(const __grid_constant__ UnpackParams p) {
  pdl_launch();
  pdl_wait();
  const auto units = static_cast<int>(p.w.row) / kUnit;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = at / units;
  const auto unit = static_cast<int>(at % units);
  if (row >= p.n_rows) return;
  const int64_t i = p.first_group + blockIdx.y;
  if (p.tiles != nullptr && p.tiles[i] == p.tiles[i + 1]) return;
  const int64_t group = p.order != nullptr ? p.order[i] : i;
  const int64_t r = p.first_row + row;
  const char* codes = static_cast<const char*>(p.w.data) + (group * p.w.n_out + r) * p.w.row;
  const uint4 w = load_stream(reinterpret_cast<const uint4*>(codes) + unit, evict_first());
  const float scale = f8_scales(p.w, group, r)[unit * kUnit / kF8Block];
  auto* out = reinterpret_cast<uint4*>(p.out + (blockIdx.y * p.n_rows + row) * p.w.row) + 2 * unit;
  out[0] = unpack_eight(w.x, w.y, scale);
  out[1] = unpack_eight(w.z, w.w, scale);
}

}  // namespace

cudaError_t launch_unpack(const UnpackParams& p, cudaStream_t stream) {
  if (p.n_rows == 0 || p.n_groups == 0 || p.w.row == 0) return cudaSuccess;
  const int64_t units = p.n_rows * (p.w.row / kUnit);
  const dim3 grid(static_cast<unsigned>((units + kThreads - 1) / kThreads), static_cast<unsigned>(p.n_groups));
  return launch_kernel(unpack_kernel, {grid, kThreads, 0, p.pdl}, stream, p);
}

}  // namespace moe::cuda
