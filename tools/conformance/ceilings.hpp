// What this machine can do at most: memory that streams through the cores, and products that never leave the registers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "moe/abi/host.h"

namespace patchbay::bench {

// Ceilings change from minute to minute (other users of the machine, clocks, where the host puts virtual cores), so a
// timing is compared with a probe that ran just before it, on the same threads of the same host.
class Probe {
 public:
  // Reads so many bytes in a pass: at least 256 MiB, more where what is compared with it is larger, because a server's
  // last cache holds hundreds.
  static constexpr size_t kLeastBytes = size_t{256} << 20;
  explicit Probe(const moe_host& host, size_t n_bytes = kLeastBytes);
  ~Probe();
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  // GB/s of one pass, on so many threads.
  [[nodiscard]] double read_gbps(int32_t n_threads) const;
  enum class Rate { kF32, kBF16, kI8 };
  // GFLOP/s (a multiplication and an addition are two) of a few milliseconds of vector instructions; 0 where the
  // machine has none for it. Tiles (AMX) are not counted: they multiply several times as fast, and more than 100 % of
  // this is theirs.
  [[nodiscard]] double matrix_gflops(int32_t n_threads, Rate rate) const;

 private:
  const moe_host& host_;
  float* memory_;
  size_t n_bytes_;
};

// Seconds since some point in time: of the clock, or of the process's own processor time, which a busy machine disturbs
// less (one thread only).
extern bool g_processor_time;
double now();

}  // namespace patchbay::bench
