// CURVE keys of ZeroMQ in files: NAME.key has a pair, "public KEY" and "secret KEY"; NAME.pub has the public one and a
// name, and a list of those who may come in is several such lines in one file. Keys are in Z85, 40 characters. Blank
// lines and those that begin with # do not count. Needs libzmq.
#pragma once

#include <sys/stat.h>
#include <zmq.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "moe/sdk/result.hpp"

namespace moe {

struct CurveKeys {
  std::string public_key;
  std::string secret_key;
};

struct NamedKey {
  std::string key;
  std::string name;  // for people; may be empty
};

inline bool is_curve_key(const std::string& text) {
  std::array<uint8_t, 32> bytes{};
  return text.size() == 40 && zmq_z85_decode(bytes.data(), text.c_str()) != nullptr;
}

namespace detail {

// The words of each line that counts.
inline Result<std::vector<std::vector<std::string>>> words_of(const std::string& file) {
  std::ifstream in(file);
  if (!in) return not_found(file + ": expected a file of keys that can be read, got none");
  std::vector<std::vector<std::string>> lines;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::vector<std::string> all;
    for (std::string word; words >> word;) all.push_back(word);
    if (!all.empty() && all[0][0] != '#') lines.push_back(std::move(all));
  }
  return lines;
}

}  // namespace detail

// A pair. MOE_INVALID_ARGUMENT: none in there, or others than the file's owner may read it.
inline Result<CurveKeys> read_curve_keys(const std::string& file) {
  MOE_ASSIGN(const auto lines, detail::words_of(file));
  struct stat info {};
  if (::stat(file.c_str(), &info) == 0 && (info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return invalid(file + ": expected that only its owner may read it, got a file that others may (chmod 600)");
  }
  CurveKeys keys;
  for (const auto& words : lines) {
    if (words.size() < 2) continue;
    if (words[0] == "public") keys.public_key = words[1];
    if (words[0] == "secret") keys.secret_key = words[1];
  }
  if (!is_curve_key(keys.public_key) || !is_curve_key(keys.secret_key)) {
    return invalid(file + ": expected \"public KEY\" and \"secret KEY\" of 40 characters, got something else");
  }
  return keys;
}

// At least one. MOE_INVALID_ARGUMENT names the key that is none.
inline Result<std::vector<NamedKey>> read_public_keys(const std::string& file) {
  MOE_ASSIGN(const auto lines, detail::words_of(file));
  std::vector<NamedKey> keys;
  for (const auto& words : lines) {
    if (!is_curve_key(words[0])) {
      return invalid(file + ": expected a public key of 40 characters, got \"" + words[0].substr(0, 60) + "\"");
    }
    keys.push_back({words[0], words.size() > 1 ? words[1] : ""});
  }
  if (keys.empty()) return invalid(file + ": expected at least one public key, got none");
  return keys;
}

}  // namespace moe
