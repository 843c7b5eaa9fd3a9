// What this machine's memory gives.
#pragma once

#include "core/engine/model.hpp"
#include "core/plugin/host.hpp"

namespace patchbay {

// Read bandwidth in bytes a second with the host's compute threads, for a model's weights: the best of several passes over as many bytes as
// they have (256 MiB to `most_bytes`, or to half of what memory has left). A server's last cache holds hundreds of MiB: with 480 of them passes
// over 1 GiB gave 30 to 31 GB/s where those over 4 GiB gave 26 to 28. Takes about `seconds`, and to write as many bytes first. 0, and no time,
// where the weights lie in the memory of a device that the host does not see.
double measure_weights_bandwidth(Host& host, Model& model, double seconds, uint64_t most_bytes = uint64_t{1} << 30);

}  // namespace patchbay
