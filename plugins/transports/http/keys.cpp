#include "keys.hpp"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/stat.h>

#include <fstream>

namespace httpd {

namespace {

constexpr size_t kShortest = 16;

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace

Keys::Digest Keys::digest_of(std::string_view key) {
  Digest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

moe::Result<Keys> Keys::read(const std::string& file) {
  const std::string subject = "api_key_file: " + file;
  struct stat info {};
  std::ifstream in(file);
  if (!in || ::stat(file.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return moe::invalid(subject + ": expected a file that can be read, got none");
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return moe::invalid(subject + ": expected that only its owner may write to it, got a file that others may");
  }
  Keys keys;
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    const std::string_view key = trimmed(line);
    if (key.empty() || key.front() == '#') continue;
    if (key.size() < kShortest) {
      return moe::invalid(subject + ": line " + std::to_string(number) + ": expected a key of at least " +
                          std::to_string(kShortest) + " bytes, got " + std::to_string(key.size()));
    }
    keys.digests_.push_back(digest_of(key));
  }
  if (keys.digests_.empty()) return moe::invalid(subject + ": expected a key a line, got none");
  return keys;
}

bool Keys::allow(std::string_view authorization) const {
  if (!are_asked()) return true;
  constexpr std::string_view kScheme = "Bearer ";
  if (!authorization.starts_with(kScheme)) return false;
  const Digest given = digest_of(trimmed(authorization.substr(kScheme.size())));
  bool found = false;  // all of them are compared, so that the place in the file does not show
  for (const Digest& d : digests_) found = CRYPTO_memcmp(d.data(), given.data(), d.size()) == 0 || found;
  return found;
}

}  // namespace httpd
