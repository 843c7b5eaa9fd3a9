// What this machine can do at most: memory that streams through the cores, and products that never leave the registers.
#pragma once

#include <cstdint>

#include "moe/abi/host.h"

namespace patchbay::bench {

// Ceilings change from minute to minute (other users of the machine, clocks, where the host puts virtual cores), so a
// timing is compared with a probe that ran just before it, on the same threads of the same host.
class Probe {
 public:
  explicit Probe(const moe_host& host);
  ~Probe();
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  // GB/s of reading 256 MiB once, on so many threads.
  [[nodiscard]] double read_gbps(int32_t n_threads) const;
  enum class Rate { kF32, kBF16, kI8 };
  // GFLOP/s (a multiplication and an addition are two) of a few milliseconds; 0 where the machine has no instruction
  // for it.
  [[nodiscard]] double matrix_gflops(int32_t n_threads, Rate rate) const;

 private:
  const moe_host& host_;
  float* memory_;
};

// Seconds since some point in time: of the clock, or of the process's own processor time, which a busy machine disturbs
// less (one thread only).
extern bool g_processor_time;
double now();

}  // namespace patchbay::bench
