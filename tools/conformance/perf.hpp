// How fast a component's hot call is, and what share of the measured ceiling that is.
#pragma once

#include <string>
#include <vector>

#include "tools/conformance/check.hpp"

namespace patchbay::conformance {

struct PerfRow {
  std::string what;            // "matmul: 1 token, 8192 x 4096"
  std::string implementation;  // of a backend's operation
  double us = 0;               // a call, median
  double gbps = 0;             // bytes that it must move at least; 0: not counted
  double gflops = 0;           // 0: not counted
  double share = -1;           // of the time that memory or arithmetic need at least here; negative: not known
};

struct PerfReport {
  std::string ceilings;  // "memory 14.2 GB/s, products 150 GFLOP/s in f32, 410 in bf16, 2 threads"
  std::vector<PerfRow> rows;
};

// In this process. For backends every operation that they have; for other kinds the hot call of 17 tokens (3 rows).
moe::Result<PerfReport> measure(const CheckContext& context);

std::string to_json(const PerfReport& report);
moe::Result<PerfReport> perf_from_json(std::string_view text);

}  // namespace patchbay::conformance
