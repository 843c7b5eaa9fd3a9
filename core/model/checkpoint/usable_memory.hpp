// How much memory there is.
#pragma once

#include <cstdint>

namespace patchbay {

// What the system says a program may still use, its cache of files counted as free; of a container what it may use at
// all. The largest number if it does not say.
uint64_t usable_memory_bytes();

}  // namespace patchbay
