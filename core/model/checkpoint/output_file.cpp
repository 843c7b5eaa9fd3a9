#include "core/model/checkpoint/output_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "core/model/checkpoint/large_pages.hpp"

namespace patchbay {
namespace {

moe::Error write_error(const std::filesystem::path& path, int code) {
  const std::string message = fmt::format("{}: expected to write it, got: {}", path.string(), std::strerror(code));
  if (code == ENOSPC || code == EDQUOT || code == EFBIG || code == EMFILE || code == ENFILE)
    return moe::exhausted(message);
  if (code == EACCES || code == EPERM || code == EROFS) return {MOE_PERMISSION_DENIED, message};
  if (code == ENOENT || code == ENOTDIR) return moe::not_found(message);
  return moe::data_loss(message);
}

// A name of nobody else's beside `path`.
std::filesystem::path temporary_name(const std::filesystem::path& path) {
  static std::atomic<unsigned> counter{0};
  return path.parent_path() / fmt::format(".{}.{}-{}.tmp", path.filename().string(), ::getpid(), counter.fetch_add(1));
}

}  // namespace

moe::Result<OutputFile> OutputFile::create(const std::filesystem::path& path, uint64_t n_bytes) {
  // A file without a name vanishes with the process, however that ends; not every file system has them.
  const auto folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  std::filesystem::path temporary;
  int fd = ::open(folder.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0666);
  if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
    do {
      temporary = temporary_name(path);
      fd = ::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (fd < 0 && errno == EEXIST);  // left over by a process of our number
  }
  if (fd < 0) return write_error(path, errno);
  OutputFile file(path, temporary, fd);
  if (n_bytes > static_cast<uint64_t>(INT64_MAX)) return write_error(path, EFBIG);
  // Where the file system cannot reserve, writing will tell.
  const bool reserved = n_bytes == 0 || ::fallocate(fd, 0, 0, static_cast<off_t>(n_bytes)) == 0;
  if (!reserved && errno != EOPNOTSUPP && errno != ENOSYS) return write_error(path, errno);
  return file;
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      fd_(std::exchange(other.fd_, -1)),
      committed_(std::exchange(other.committed_, false)) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(fd_, other.fd_);
  std::swap(committed_, other.committed_);
  return *this;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

moe::Status OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes, uint64_t n_zeros) {
  static const std::vector<std::byte> kZeros(kLargePageBytes);
  while (bytes.size() + n_zeros > 0) {
    const iovec parts[] = {{const_cast<std::byte*>(bytes.data()), bytes.size()},
                           {const_cast<std::byte*>(kZeros.data()), std::min<uint64_t>(n_zeros, kZeros.size())}};
    const ssize_t n = ::pwritev(fd_, parts, 2, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return write_error(path_, errno);
    const auto written = static_cast<uint64_t>(n);
    const uint64_t of_bytes = std::min<uint64_t>(written, bytes.size());
    offset += written;
    bytes = bytes.subspan(of_bytes);
    n_zeros -= written - of_bytes;
  }
  return {};
}

void OutputFile::forget() const { ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

moe::Result<MappedFile> OutputFile::map(uint64_t n_bytes) const { return MappedFile::of(fd_, path_, n_bytes); }

moe::Status OutputFile::cut(uint64_t n_bytes) {
  if (::ftruncate(fd_, static_cast<off_t>(n_bytes)) != 0) return write_error(path_, errno);
  return {};
}

moe::Status OutputFile::commit() {
  if (::fsync(fd_) != 0) return write_error(path_, errno);
  // A name for a file without one; link() does not replace, rename() does.
  const std::string file = fmt::format("/proc/self/fd/{}", fd_);
  while (temporary_.empty()) {
    const auto name = temporary_name(path_);
    if (::linkat(AT_FDCWD, file.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
      temporary_ = name;
    } else if (errno != EEXIST) {
      return write_error(path_, errno);
    }
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return write_error(path_, errno);
  temporary_.clear();
  committed_ = true;
  return {};
}

void OutputFile::withdraw() noexcept {
  if (committed_) ::unlink(path_.c_str());
}

}  // namespace patchbay
