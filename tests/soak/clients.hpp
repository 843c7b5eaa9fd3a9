// Clients that behave well or badly, each checking every byte that it gets.
#pragma once

#include <random>
#include <string>

#include "tests/soak/reference.hpp"

namespace patchbay::soak {

struct Addresses {
  std::string zeromq;
  std::string http;
  std::string faulty_zeromq;  // the same through a proxy that breaks connections; empty: none
};

enum class Outcome {
  kWhole,    // all of the text, and a right end
  kPart,     // we left, or were cut off as too slow: what came is the beginning of the text
  kRefused,  // busy or draining, said at once
  kWrong,    // anything else; `what` says it
};

struct Report {
  Outcome outcome = Outcome::kWrong;
  std::string behaviour;
  std::string what;
};

// One stream with a behaviour chosen by `random`: over either transport, whole, cancelled, abandoned, stalled, resumed
// over broken connections, or as a child process that is killed. [any thread]
Report run_one(const Question& question, const Addresses& addresses, std::mt19937& random);

}  // namespace patchbay::soak
