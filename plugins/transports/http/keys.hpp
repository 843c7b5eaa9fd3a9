// Bearer keys: who may use the server.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/result.hpp"

namespace httpd {

// Kept as SHA-256 digests, so that comparing takes the same time whatever was sent.
class Keys {
 public:
  // A file with a key a line; blank lines and those that begin with # do not count. MOE_INVALID_ARGUMENT: it cannot be
  // read, others than its owner may write to it, or it has no key or one of fewer than 16 bytes.
  static moe::Result<Keys> read(const std::string& file);

  // Nobody is asked for a key.
  Keys() = default;
  [[nodiscard]] bool are_asked() const { return !digests_.empty(); }
  // Whether the value of an Authorization header, "Bearer KEY", has one of them.
  [[nodiscard]] bool allow(std::string_view authorization) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  static Digest digest_of(std::string_view key);
  std::vector<Digest> digests_;
};

}  // namespace httpd
