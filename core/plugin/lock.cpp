#include "core/plugin/lock.hpp"

#include <fmt/format.h>

namespace patchbay {

moe::Status PluginLock::check(const std::filesystem::path& library, const std::string& sha256) const {
  const LockedLibrary* same_path = nullptr;
  for (const auto& l : libraries_) {
    if (!sha256.empty() && l.sha256 == sha256) return {};
    if (l.path == library) same_path = &l;
  }
  const std::string got = sha256.empty() ? "a file that cannot be read" : sha256;
  if (same_path != nullptr) {
    return moe::Error{MOE_PERMISSION_DENIED,
                      fmt::format("has changed since it was locked in {}: expected sha256 {}, got {}", file_.string(),
                                  same_path->sha256, got)};
  }
  return moe::Error{
      MOE_PERMISSION_DENIED,
      fmt::format("is not in {}: expected one of {} locked libraries, got sha256 {} (`patchbay plugins lock` adds it)",
                  file_.string(), libraries_.size(), got)};
}

}  // namespace patchbay
