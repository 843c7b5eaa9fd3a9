// One case of each operation as a model has it, large enough to be measured, with what it moves and computes.
#pragma once

#include <vector>

#include "tools/conformance/ops/op_case.hpp"

namespace patchbay::conformance {

struct PerfCase {
  const char* what;  // "1 token, 8192 x 4096, bf16"
  OpCase op_case;
  double weight_elements = 0;  // that a call reads; their bytes are the backend's matter
  double bytes = 0;            // of everything else that it reads or writes
  double flops = 0;            // a multiplication and an addition are two
};

// Made one at a time: some hold a hundred megabytes.
constexpr size_t kPerfCases = 19;
PerfCase perf_case(size_t index);

}  // namespace patchbay::conformance
