// SHA-256, in hexadecimal.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace patchbay {

// Of what is added, in order.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void add(std::string_view bytes);
  // Once: nothing is added after it.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_of_text(std::string_view text);
// Of a file; empty if it cannot be read.
std::string sha256_of(const std::filesystem::path& file);

}  // namespace patchbay
