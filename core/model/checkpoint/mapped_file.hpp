// A whole file mapped for reading.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "moe/sdk/result.hpp"

namespace patchbay {

// A handle on a regular file, for the caller to close. Errors as MappedFile::open's.
moe::Result<int> open_for_reading(const std::filesystem::path& path);

// Owns the mapping; keeps no file handle. Moving it does not move the bytes.
class MappedFile {
 public:
  // MOE_NOT_FOUND: nothing there, or not a regular file; MOE_RESOURCE_EXHAUSTED: out of handles or address space.
  // Errors begin with the path. An empty file is mapped as no bytes.
  static moe::Result<MappedFile> open(const std::filesystem::path& path);

  // The first `n_bytes` of an open file, which may still grow up to there: what lies behind its end must not be read.
  static moe::Result<MappedFile> of(int file, const std::filesystem::path& path, size_t n_bytes);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  // When the file was last written to before it was mapped, in nanoseconds since 1970.
  [[nodiscard]] int64_t modified_ns() const { return modified_ns_; }

  // Asks for `part` of bytes() to be read soon, without waiting: pages that come by being touched come 128 kB at a time
  // (150 MB/s from a disk that gave 1.1 GB/s).
  void prefetch(std::span<const std::byte> part) const;

  // Gives back the memory of the pages that lie wholly in `part`, a part of bytes(). They are read from the file again
  // on use: from the system's cache, or from the disk if they are to leave that too.
  void release(std::span<const std::byte> part, bool from_cache_too = false) const;

 private:
  MappedFile(std::filesystem::path path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int64_t modified_ns_ = 0;
};

}  // namespace patchbay
