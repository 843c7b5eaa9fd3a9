// An open file whose bytes are read into memory of the reader's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "core/model/checkpoint/mapped_file.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// Keeps the handle, so that it stays the same file whatever becomes of its name.
class InputFile {
 public:
  // Errors as MappedFile::open's.
  static moe::Result<InputFile> open(const std::filesystem::path& path);

  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  ~InputFile();

  // All of it.
  [[nodiscard]] moe::Result<MappedFile> map() const;

  // Fills `out` from `offset` on. MOE_DATA_LOSS: the file ends before, or cannot be read. [thread-safe]
  [[nodiscard]] moe::Status read_at(uint64_t offset, std::span<std::byte> out) const;

  // Asks for these bytes to be read soon, without waiting.
  void prefetch(uint64_t offset, uint64_t n_bytes) const;
  // Gives back what the system's cache holds of these bytes.
  void forget(uint64_t offset, uint64_t n_bytes) const;

 private:
  InputFile(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace patchbay
