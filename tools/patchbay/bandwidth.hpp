// What this machine's memory gives.
#pragma once

#include "core/engine/model.hpp"
#include "core/plugin/host.hpp"

namespace patchbay {

// Read bandwidth in bytes a second with the host's compute threads, for a model's weights: the best of several passes over as many bytes as
// they have (256 MiB to 1 GiB; a server's last cache holds hundreds of MiB). Takes about `seconds`. 0, and no time, where the weights lie in
// the memory of a device that the host does not see.
double measure_weights_bandwidth(Host& host, Model& model, double seconds);

}  // namespace patchbay
