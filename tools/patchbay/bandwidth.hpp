// What this machine's memory gives.
#pragma once

#include "core/engine/model.hpp"
#include "core/plugin/host.hpp"

namespace patchbay {

// Read bandwidth in bytes a second with the host's compute threads: the best of several passes over a buffer larger than the caches. Takes
// about `seconds`.
double measure_read_bandwidth(Host& host, double seconds);

// The same for a model's weights: 0, and no time, where they lie in the memory of a device that the host does not see.
double measure_weights_bandwidth(Host& host, Model& model, double seconds);

}  // namespace patchbay
