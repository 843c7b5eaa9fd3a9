#include "kernels/device.cuh"
#include "kernels/launch.hpp"
#include "kernels/route.hpp"
#include "kernels/route_row.cuh"

namespace moe::cuda {
namespace {

__global__ void route_kernel(const __grid_constant__ RouteParams p, int64_t row_floats) {
  extern __shared__ float memory[];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (p.pdl) begin_early();
  if (i >= p.n) return;
  RouteRow(p, memory + threadIdx.x / 32 * row_floats).run(i, p.logits.data + i * p.logits.stride);
}

}  // namespace

cudaError_t launch_route(const RouteParams& p, cudaStream_t stream) {
  if (p.n == 0) return cudaSuccess;
  const int64_t bytes = route_bytes(p);
  const int64_t warps = bytes <= 4096 ? 4 : 1;
  const auto shared = static_cast<size_t>(bytes * warps);
  const auto blocks = static_cast<unsigned>((p.n + warps - 1) / warps);
  const LaunchShape shape{dim3(blocks), static_cast<unsigned>(warps * 32), shared, p.pdl};
  return launch_kernel(route_kernel, shape, stream, p, bytes / 4);
}

}  // namespace moe::cuda
