#include "core/plugin/lock.hpp"

#include <fmt/format.h>
#include <sodium.h>

#include <fstream>

namespace patchbay {

std::string sha256_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return "";
  crypto_hash_sha256_state state;
  crypto_hash_sha256_init(&state);
  std::vector<char> buffer(size_t{1} << 18);
  while (in) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    crypto_hash_sha256_update(&state, reinterpret_cast<const unsigned char*>(buffer.data()),
                              static_cast<size_t>(in.gcount()));
  }
  if (in.bad()) return "";
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256_final(&state, digest);
  std::string hex;
  for (const unsigned char byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

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
