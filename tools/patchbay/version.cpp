#include "tools/patchbay/version.hpp"

#include "patchbay_version.inc"

namespace patchbay {

const std::string& program_version() {
  static const std::string text =
      std::string(PATCHBAY_COMMIT).empty() ? PATCHBAY_VERSION : PATCHBAY_VERSION " " PATCHBAY_COMMIT;
  return text;
}

}  // namespace patchbay
