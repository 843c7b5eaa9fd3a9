// Any bytes as a plugin library that is looked at without being loaded: what it says of itself, or one error.
#include <cstdint>
#include <string_view>

#include "core/plugin/manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = patchbay::ElfFile::parse({reinterpret_cast<const char*>(data), size});
  if (!file.ok()) {
    if (file.error().message.empty()) __builtin_trap();
    return 0;
  }
  size_t names = 0;
  for (const auto& symbol : file->exported()) names += symbol.name.size();
  for (const auto& library : file->needed()) names += library.size();
  if (names > size) __builtin_trap();
  const auto manifest = patchbay::manifest_of(*file);
  const bool empty = manifest.ok() ? manifest->name.empty() : manifest.error().message.empty();
  if (empty) __builtin_trap();
  return 0;
}
