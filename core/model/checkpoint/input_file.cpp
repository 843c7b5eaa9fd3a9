#include "core/model/checkpoint/input_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace patchbay {

moe::Result<InputFile> InputFile::open(const std::filesystem::path& path) {
  MOE_ASSIGN(const int fd, open_for_reading(path));
  return InputFile(path, fd);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

moe::Result<MappedFile> InputFile::map() const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) return moe::data_loss(fmt::format("{}: {}", path_.string(), std::strerror(errno)));
  return MappedFile::of(fd_, path_, static_cast<size_t>(info.st_size));
}

moe::Status InputFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return moe::data_loss(fmt::format("{}: {}", path_.string(), std::strerror(errno)));
    if (n == 0) {
      return moe::data_loss(fmt::format("{}: expected {} more bytes at {}, got its end", path_.string(), out.size(), offset));
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return {};
}

void InputFile::prefetch(uint64_t offset, uint64_t n_bytes) const {
  ::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(n_bytes), POSIX_FADV_WILLNEED);
}

void InputFile::forget(uint64_t offset, uint64_t n_bytes) const {
  ::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(n_bytes), POSIX_FADV_DONTNEED);
}

}  // namespace patchbay
