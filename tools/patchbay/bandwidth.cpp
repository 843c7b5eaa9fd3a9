#include "tools/patchbay/bandwidth.hpp"

#include <algorithm>

#include "core/engine/device.hpp"
#include "tools/conformance/ceilings.hpp"

namespace patchbay {

double measure_read_bandwidth(Host& host, double seconds) {
  const bench::Probe probe(*host.abi());
  double best = 0;
  const double end = bench::now() + seconds;
  do {
    best = std::max(best, probe.read_gbps(host.pool().n_threads()) * 1e9);
  } while (bench::now() < end);
  return best;
}

double measure_weights_bandwidth(Host& host, Model& model, double seconds) {
  const auto devices = model.devices();
  const bool all_here = std::all_of(devices.begin(), devices.end(), [](const Device* d) { return d->host_visible(); });
  return all_here ? measure_read_bandwidth(host, seconds) : 0.0;
}

}  // namespace patchbay
