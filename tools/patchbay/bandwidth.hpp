// What this machine's memory gives.
#pragma once

#include "core/plugin/host.hpp"

namespace patchbay {

// Read bandwidth in bytes a second with the host's compute threads: the best of several passes over a buffer larger than the caches. Takes
// about `seconds`.
double measure_read_bandwidth(Host& host, double seconds);

}  // namespace patchbay
