#include "core/model/checkpoint/mapped_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace patchbay {
namespace {

moe::Error system_error(const std::filesystem::path& path, int code) {
  const std::string message = fmt::format("{}: {}", path.string(), std::strerror(code));
  if (code == EMFILE || code == ENFILE || code == ENOMEM) return moe::exhausted(message);
  if (code == EACCES || code == EPERM) return {MOE_PERMISSION_DENIED, message};
  return moe::not_found(message);
}

}  // namespace

moe::Result<int> open_for_reading(const std::filesystem::path& path) {
  // O_NONBLOCK: a FIFO under the name of a file must not hang us.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return system_error(path, errno);
  struct stat info {};
  const int code = ::fstat(fd, &info) == 0 ? 0 : errno;
  if (code == 0 && S_ISREG(info.st_mode)) return fd;
  ::close(fd);
  if (code != 0) return system_error(path, code);
  return moe::not_found(fmt::format("{}: expected a file, got something else", path.string()));
}

moe::Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  MOE_ASSIGN(const int fd, open_for_reading(path));
  struct stat info {};
  const int code = ::fstat(fd, &info) == 0 ? 0 : errno;
  moe::Result<MappedFile> mapped =
      code != 0 ? system_error(path, code) : of(fd, path, static_cast<size_t>(info.st_size));
  ::close(fd);
  if (mapped.ok()) mapped->modified_ns_ = info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec;
  return mapped;
}

moe::Result<MappedFile> MappedFile::of(int file, const std::filesystem::path& path, size_t n_bytes) {
  void* data = n_bytes == 0 ? nullptr : ::mmap(nullptr, n_bytes, PROT_READ, MAP_PRIVATE, file, 0);
  if (data == MAP_FAILED) return system_error(path, errno);
  return MappedFile(path, static_cast<const std::byte*>(data), n_bytes);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      modified_ns_(other.modified_ns_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(modified_ns_, other.modified_ns_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::prefetch(std::span<const std::byte> part) const {
  static const auto kPage = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = static_cast<size_t>(part.data() - data_);
  const size_t first = begin / kPage * kPage;
  if (!part.empty()) ::madvise(const_cast<std::byte*>(data_) + first, begin + part.size() - first, MADV_WILLNEED);
}

void MappedFile::release(std::span<const std::byte> part, bool from_cache_too) const {
  static const auto kPage = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  // The mapping begins on a page, so offsets in it are as good as addresses.
  const auto begin = static_cast<size_t>(part.data() - data_);
  const size_t first = (begin + kPage - 1) / kPage * kPage;
  const size_t last = (begin + part.size()) / kPage * kPage;
  // The pages are unmodified copies of the file's: if the system refuses, nothing but memory is lost.
  if (first >= last) return;
  ::madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
  if (!from_cache_too) return;
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return;
  ::posix_fadvise(fd, static_cast<off_t>(first), static_cast<off_t>(last - first), POSIX_FADV_DONTNEED);
  ::close(fd);
}

}  // namespace patchbay
