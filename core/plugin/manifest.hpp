// What a plugin library says of itself without being loaded: an ELF note that MOE_PLUGIN (or MOE_MANIFEST, in C) puts
// there. In the library rather than in a file beside it, because it then cannot be lost, and cannot be another
// version's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/plugin/elf.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

struct Manifest {
  struct ComponentName {
    std::string kind_id;  // "moe.router/1"
    std::string name;
  };
  std::string name;
  std::string version;
  std::string license;
  std::string author;
  uint32_t abi_major = 0;
  uint32_t abi_minor = 0;        // of the headers that it was built with
  uint32_t abi_least_minor = 0;  // the oldest host that it works with
  std::vector<ComponentName> components;
};

// No code of the library runs. MOE_NOT_FOUND: it has no manifest; MOE_INVALID_ARGUMENT: it is no ELF library, or the
// manifest is broken.
moe::Result<Manifest> read_manifest(const std::filesystem::path& library);

// The same of a library that has been parsed.
moe::Result<Manifest> manifest_of(const ElfFile& file);

// The same from the note's text: lines "key: value".
moe::Result<Manifest> parse_manifest(std::string_view text);

}  // namespace patchbay
