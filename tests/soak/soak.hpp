// What the soak's parts share.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "tests/e2e/server.hpp"

namespace patchbay::soak {

struct Flags {
  int seconds = 20;
  int64_t streams = 0;  // 0: as many as fit in the time
  int clients = 16;
  int rounds = 10;
  uint32_t seed = 1;
  std::string model = e2e::quickstart_model();
  std::vector<std::string> serve;  // further flags of the server
};

inline int64_t resident_kib(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::stoll(line.substr(6));
  }
  return -1;
}

// Each prints what it saw and returns an exit code.
int run_integrity(const Flags& flags);
int run_overload(const Flags& flags);
int run_sigterm(const Flags& flags);
int run_speed(const Flags& flags);

}  // namespace patchbay::soak
