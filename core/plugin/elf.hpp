// What an ELF library (64-bit, little-endian) says without being loaded: no code of it runs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

class ElfFile {
 public:
  struct Symbol {
    std::string name;
    bool constant = false;  // lies where nothing can be written once the library is loaded
    bool function = false;
  };

  // MOE_INVALID_ARGUMENT: no such file, no ELF library, or its tables point outside of it. Nothing is read but what
  // they name.
  static moe::Result<ElfFile> read(const std::filesystem::path& path);
  // The same from the file's bytes; in linear time, whatever they are.
  static moe::Result<ElfFile> parse(std::string_view bytes);

  // The names that the library defines for others.
  [[nodiscard]] const std::vector<Symbol>& exported() const { return exported_; }
  // The libraries that it needs (DT_NEEDED).
  [[nodiscard]] const std::vector<std::string>& needed() const { return needed_; }
  // The descriptions of notes of this owner and type, in file order.
  [[nodiscard]] std::vector<std::string> notes(const std::string& owner, uint32_t type) const;

 private:
  struct Note {
    std::string owner;
    uint32_t type;
    std::string description;
  };
  moe::Status read_notes(std::string_view segment, uint64_t alignment);

  std::vector<Symbol> exported_;
  std::vector<std::string> needed_;
  std::vector<Note> notes_;
};

}  // namespace patchbay
