// Any bytes as a model's config.json, against every architecture file: a spec, or one error.
#include <cstdint>
#include <string_view>

#include "core/model/architecture/architecture.hpp"
#include "core/model/json/json.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto library = patchbay::ArchitectureLibrary::open({PATCHBAY_SOURCE_DIR "/configs/architectures"});
  if (!library.ok()) __builtin_trap();
  const auto config = patchbay::parse_json({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) return 0;
  const auto spec = library->describe(*config);
  if (!spec.ok() && spec.error().message.empty()) __builtin_trap();
  return 0;
}
