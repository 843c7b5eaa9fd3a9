// Any bytes as a configuration file: settings, or one error that says where.
#include <cstdint>
#include <string_view>

#include "core/config/settings.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto settings = patchbay::settings_from_text(text, "fuzz.toml");
  if (!settings.ok() && settings.error().message.empty()) __builtin_trap();
  return 0;
}
