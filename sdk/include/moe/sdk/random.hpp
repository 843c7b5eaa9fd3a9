// The random stream of a request: counter-based, so that a draw depends on (seed, counter, lane) and nothing else.
#pragma once

#include <array>
#include <cstdint>

namespace moe {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): key from the seed, four words a counter.
inline std::array<uint32_t, 4> philox(uint64_t seed, uint64_t counter, uint64_t lane) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                               static_cast<uint32_t>(lane), static_cast<uint32_t>(lane >> 32)};
  uint32_t k0 = static_cast<uint32_t>(seed);
  uint32_t k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53U} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57U} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

// Uniform in [0, 1), 53 bits.
inline double uniform(uint64_t seed, uint64_t counter, uint64_t lane = 0) {
  const auto w = philox(seed, counter, lane);
  const uint64_t bits = (uint64_t{w[0]} << 32 | w[1]) >> 11;
  return static_cast<double>(bits) * 0x1.0p-53;
}

}  // namespace moe
