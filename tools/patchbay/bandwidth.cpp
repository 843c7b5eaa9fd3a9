#include "tools/patchbay/bandwidth.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "core/engine/device.hpp"

namespace patchbay {
namespace {

constexpr size_t kBytes = size_t{128} << 20;
constexpr size_t kChunk = size_t{256} << 10;

struct Pass {
  const uint64_t* data;
  std::vector<uint64_t>* sums;
};

void read_chunk(void* context, int64_t task, int32_t thread) {
  const auto& pass = *static_cast<Pass*>(context);
  const uint64_t* p = pass.data + static_cast<size_t>(task) * (kChunk / 8);
  uint64_t sum[8] = {};
  for (size_t i = 0; i < kChunk / 8; i += 8) {
    for (size_t j = 0; j < 8; ++j) sum[j] += p[i + j];
  }
  for (const uint64_t s : sum) (*pass.sums)[static_cast<size_t>(thread) * 16] += s;
}

}  // namespace

double measure_read_bandwidth(Host& host, double seconds) {
  using Clock = std::chrono::steady_clock;
  std::vector<uint64_t> data(kBytes / 8, 1);
  std::vector<uint64_t> sums(static_cast<size_t>(host.pool().n_threads()) * 16, 0);
  Pass pass{data.data(), &sums};
  double best = 0;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  do {
    const auto start = Clock::now();
    host.pool().run(kBytes / kChunk, read_chunk, &pass);
    best = std::max(best, static_cast<double>(kBytes) / std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < end);
  return best;
}

double measure_weights_bandwidth(Host& host, Model& model, double seconds) {
  const auto devices = model.devices();
  const bool all_here = std::all_of(devices.begin(), devices.end(), [](const Device* d) { return d->host_visible(); });
  return all_here ? measure_read_bandwidth(host, seconds) : 0.0;
}

}  // namespace patchbay
