#include "core/model/checkpoint/usable_memory.hpp"

#include <algorithm>
#include <fstream>
#include <string>

namespace patchbay {

uint64_t usable_memory_bytes() {
  uint64_t bytes = UINT64_MAX;
  std::string name;
  uint64_t kilobytes = 0;
  std::string unit;
  for (std::ifstream file("/proc/meminfo"); file >> name >> kilobytes; std::getline(file, unit)) {
    if (name == "MemAvailable:") bytes = kilobytes * 1024;
  }
  uint64_t limit = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit) bytes = std::min(bytes, limit);
  return bytes;
}

}  // namespace patchbay
