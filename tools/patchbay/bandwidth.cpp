#include "tools/patchbay/bandwidth.hpp"

#include <algorithm>

#include "core/engine/device.hpp"
#include "core/model/checkpoint/usable_memory.hpp"
#include "tools/conformance/ceilings.hpp"

namespace patchbay {

double measure_weights_bandwidth(Host& host, Model& model, double seconds, uint64_t most_bytes) {
  const auto devices = model.devices();
  if (!std::all_of(devices.begin(), devices.end(), [](const Device* d) { return d->host_visible(); })) return 0;
  const uint64_t most = std::max<uint64_t>(std::min(most_bytes, usable_memory_bytes() / 2), bench::Probe::kLeastBytes);
  const bench::Probe probe(*host.abi(), std::clamp<size_t>(model.bytes().weights, bench::Probe::kLeastBytes, most));
  double best = 0;
  const double end = bench::now() + seconds;
  do {
    best = std::max(best, probe.read_gbps(host.pool().n_threads()) * 1e9);
  } while (bench::now() < end);
  return best;
}

}  // namespace patchbay
