// What this program was built from.
#pragma once

#include <string>

namespace patchbay {

// "0.1.0", and the commit where it was built in a checkout: "0.1.0 1a2b3c4d5e6f", with "+" if files had changed.
const std::string& program_version();

}  // namespace patchbay
