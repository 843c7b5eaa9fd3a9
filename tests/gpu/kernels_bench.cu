// The fast kernels of the backend `cuda` against plain loops in double, then against the card's limits. Needs a GPU.
//   nvcc -std=c++20 -O3 --extended-lambda --expt-relaxed-constexpr -diag-suppress=177 -gencode=arch=compute_90a,code=sm_90a
//     -Iplugins/backends/cuda -Isdk/include -Itests/gpu plugins/backends/cuda/kernels/{gemv_dense,ffn*,grouped_*,single_*,unpack}.cu
//     tests/gpu/kernels_bench*.cu -o kernels_bench
// Usage: kernels_bench [check] [time] [part of a case's name]
#include "kernels_bench.hpp"

#include <cstdio>
#include <cstring>

namespace bench = moe::cuda::bench;

int main(int argc, char** argv) {
  bool check = false;
  bool time = false;
  std::string filter;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "check") == 0) {
      check = true;
    } else if (std::strcmp(argv[i], "time") == 0) {
      time = true;
    } else {
      filter = argv[i];
    }
  }
  if (!check && !time) check = time = true;
  cudaDeviceProp device{};
  if (cudaGetDeviceProperties(&device, 0) != cudaSuccess) {
    std::fprintf(stderr, "device: expected a CUDA device, got none\n");
    return 1;
  }
  std::printf("%s, %d multiprocessors, %.0f MB of L2\n", device.name, device.multiProcessorCount,
              device.l2CacheSize / 1e6);
  bench::Report report(filter);
  if (check) {
    bench::check_matvec(report);
    bench::check_ffn(report);
  }
  if (time) {
    bench::time_memory(report);
    bench::time_matvec(report);
    bench::time_ffn(report);
  }
  report.print();
  return report.n_failed() == 0 ? 0 : 1;
}
