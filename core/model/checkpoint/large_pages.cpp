#include "core/model/checkpoint/large_pages.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <iterator>

namespace patchbay {
namespace {

// The whole pages around `part`. A mapping begins on a page.
struct Pages {
  uint64_t first;
  uint64_t last;
};
Pages pages_of(std::span<const std::byte> part) {
  static const auto kPage = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uint64_t>(part.data());
  return {begin / kPage * kPage, (begin + part.size() + kPage - 1) / kPage * kPage};
}
bool advise(std::span<const std::byte> part, int advice) {
  const Pages pages = pages_of(part);
  return part.empty() || ::madvise(reinterpret_cast<void*>(pages.first), pages.last - pages.first, advice) == 0;
}

// What Linux's PAGEMAP_SCAN takes and gives (Documentation/admin-guide/mm/pagemap.rst); Debian 12's headers are older.
struct Region {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
struct ScanRequest {
  uint64_t size = sizeof(ScanRequest);
  uint64_t flags = 0;
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t walk_end = 0;
  uint64_t regions = 0;
  uint64_t n_regions = 0;
  uint64_t max_pages = 0;
  uint64_t inverted = 0;
  uint64_t all_of = 0;
  uint64_t any_of = 0;
  uint64_t wanted = 0;
};
constexpr uint64_t kIsHuge = 1 << 6;

uint64_t bytes_in_large_pages(const Pages& pages) {
  const int fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  Region regions[64];
  ScanRequest request;
  request.end = pages.last;
  request.regions = reinterpret_cast<uint64_t>(regions);
  request.n_regions = std::size(regions);
  request.all_of = request.wanted = kIsHuge;
  uint64_t bytes = 0;
  for (request.start = pages.first; request.start < request.end; request.start = request.walk_end) {
    const int n = ::ioctl(fd, _IOWR('f', 16, ScanRequest), &request);
    if (n < 0) break;
    for (int i = 0; i < n; ++i) bytes += regions[i].end - regions[i].start;
    if (request.walk_end <= request.start) break;
  }
  ::close(fd);
  return bytes;
}

}  // namespace

void ask_for_large_pages(std::span<const std::byte> mapped) {
#ifdef MADV_HUGEPAGE
  (void)advise(mapped, MADV_HUGEPAGE);
#else
  (void)mapped;
#endif
}

bool load_in_large_pages(std::span<const std::byte> part) {
  constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ, Linux 5.14
  if (!advise(part, kPopulateRead)) return false;
  // Where it begins and ends it may share a large page with what is not mapped.
  return bytes_in_large_pages(pages_of(part)) >= part.size() / 4 * 3;
}

}  // namespace patchbay
