// A file that appears under its name whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "moe/sdk/result.hpp"

namespace patchbay {

// Written under another name in the same folder; commit() gives it its own, until then the destructor removes it.
// Errors begin with the path; a full disk, quota or file-size limit is MOE_RESOURCE_EXHAUSTED.
class OutputFile {
 public:
  // Reserves `n_bytes` on the disk where the file system can, so that a disk too small is noticed before the work is
  // done.
  static moe::Result<OutputFile> create(const std::filesystem::path& path, uint64_t n_bytes);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  moe::Status write_at(uint64_t offset, std::span<const std::byte> bytes);

  // Brings the bytes to the disk, then the file to its name, in place of one that was there.
  moe::Status commit();

  // Removes the file again if it was committed: for sets of files of which a later one failed.
  void withdraw() noexcept;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  OutputFile(std::filesystem::path path, std::filesystem::path temporary, int fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty once committed
  int fd_ = -1;
};

}  // namespace patchbay
