// An allow list of plugin libraries by what is in them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/plugin/sha256.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

struct LockedLibrary {
  std::filesystem::path path;  // where it was when it was locked
  std::string sha256;
  std::string name;  // for people: of its manifest
  std::string version;
};

class PluginLock {
 public:
  // `file` is named in messages.
  PluginLock(std::filesystem::path file, std::vector<LockedLibrary> libraries)
      : file_(std::move(file)), libraries_(std::move(libraries)) {}

  // Whether a library of this content may be loaded: it is in the list, wherever it lies. MOE_PERMISSION_DENIED: it is
  // not, or has changed since.
  [[nodiscard]] moe::Status check(const std::filesystem::path& library, const std::string& sha256) const;
  [[nodiscard]] const std::vector<LockedLibrary>& libraries() const { return libraries_; }

 private:
  std::filesystem::path file_;
  std::vector<LockedLibrary> libraries_;
};

}  // namespace patchbay
