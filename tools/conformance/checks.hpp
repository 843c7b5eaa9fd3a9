// The tests of each kind, and what they share.
#pragma once

#include <memory>
#include <vector>

#include "tools/conformance/kit.hpp"

namespace patchbay::conformance {

const std::vector<Check>& library_checks();
const std::vector<Check>& router_checks();
const std::vector<Check>& expert_checks();
const std::vector<Check>& sampler_checks();
const std::vector<Check>& backend_checks();
const std::vector<Check>& transport_checks();

// The rules that hold for every kind with a hot call, by way of a Subject.
void append_general_checks(std::vector<Check>& checks);
// Those that need no hot call.
void append_lifecycle_checks(std::vector<Check>& checks);

// The kit of a test; null, with the reason found, if the library cannot be used.
std::unique_ptr<Kit> open_kit(const CheckContext& context, Findings& findings);

// Why the component cannot run on this machine, a backend without its device for one; empty: it can.
std::string unable_here(const Kit& kit);

void router_matches_golden(const CheckContext& context, Findings& findings);

}  // namespace patchbay::conformance
