// A mapped file in large pages, where the system can: fewer misses of the TLB when its bytes stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace patchbay {

// Bytes of a large page of most systems. A file is held in large pages where as many are written at once at a multiple of so many, or where they
// are read through a mapping that asks for it (Linux's ext4 since 6.16, xfs, btrfs).
inline constexpr uint64_t kLargePageBytes = uint64_t{2} << 20;

// Asks for that, for a mapping. A system that cannot does as before.
void ask_for_large_pages(std::span<const std::byte> mapped);

// Brings `part` of a mapping into memory, waiting for the disk, and says whether most of it is in large pages now. False where the system does not
// tell (before Linux 6.7). [thread-safe]
bool load_in_large_pages(std::span<const std::byte> part);

}  // namespace patchbay
