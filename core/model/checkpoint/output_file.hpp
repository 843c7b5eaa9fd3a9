// A file that appears under its name whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "core/model/checkpoint/mapped_file.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// Written without a name, or under another one in the same folder; commit() gives it its own, until then the destructor
// removes it.
// Errors begin with the path; a full disk, quota or file-size limit is MOE_RESOURCE_EXHAUSTED.
class OutputFile {
 public:
  // Reserves `n_bytes` on the disk where the file system can, so that a disk too small is noticed before the work is
  // done.
  static moe::Result<OutputFile> create(const std::filesystem::path& path, uint64_t n_bytes);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  // `n_zeros` zeros after the bytes, in one go: a file system chooses its pages by how much it is given.
  moe::Status write_at(uint64_t offset, std::span<const std::byte> bytes, uint64_t n_zeros = 0);

  // Has what was written brought to the disk, and gives back what the system's cache holds of it, as far as that is there
  // already. Without waiting: the next call gives back what this one could not.
  void forget() const;

  // Up to `n_bytes` of the file for reading, also while it is written: what has been written lies there. It outlives
  // this, whether committed or not.
  [[nodiscard]] moe::Result<MappedFile> map(uint64_t n_bytes) const;

  // Ends the file after `n_bytes`, where more was reserved.
  moe::Status cut(uint64_t n_bytes);

  // Brings the bytes to the disk, then the file to its name, in place of one that was there.
  moe::Status commit();

  // Removes the file again if it was committed: for sets of files of which a later one failed.
  void withdraw() noexcept;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  OutputFile(std::filesystem::path path, std::filesystem::path temporary, int fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty while it has no name, and once committed
  int fd_ = -1;
  bool committed_ = false;
};

}  // namespace patchbay
