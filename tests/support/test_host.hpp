// A moe_host for tests: the conformance kit's.
#pragma once

#include "tools/conformance/check_host.hpp"

namespace patchbay::test {

using TestHost = conformance::CheckHost;

}  // namespace patchbay::test
