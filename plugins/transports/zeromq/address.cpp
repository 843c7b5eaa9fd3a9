#include "address.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "moe/sdk/transport_support.hpp"

namespace zeromq {
namespace {

// Whether somebody listens at the socket `path`.
bool is_served(const sockaddr_un& address) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  // EAGAIN: somebody listens, and has not yet taken those who came before.
  const bool served =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN;
  ::close(fd);
  return served;
}

}  // namespace

moe::Status check_path(std::string_view option, std::string_view address) {
  constexpr std::string_view kIpc = "ipc://";
  if (!address.starts_with(kIpc)) return {};
  const std::string path(address.substr(kIpc.size()));
  if (path.starts_with('@') || path == "*") return {};  // no file: an abstract name, or any free one
  sockaddr_un socket{};
  socket.sun_family = AF_UNIX;
  if (path.size() >= sizeof socket.sun_path) {
    return moe::invalid(std::string(option) + ": expected a path of at most " +
                        std::to_string(sizeof socket.sun_path - 1) + " bytes, got " + std::to_string(path.size()) +
                        ": " + path);
  }
  struct stat found {};
  if (::lstat(path.c_str(), &found) != 0) return {};
  if (!S_ISSOCK(found.st_mode)) {
    return moe::invalid(std::string(option) +
                        ": expected no file or a socket that nobody serves, got another kind of file: " + path);
  }
  std::memcpy(socket.sun_path, path.data(), path.size());
  if (is_served(socket)) {
    return moe::Error{
        MOE_UNAVAILABLE,
        std::string(option) + ": expected a socket that nobody serves, got one that a server listens at: " + path};
  }
  return {};
}

moe::Status check_address(std::string_view option, std::string_view address, bool allow_remote) {
  constexpr std::string_view kTcp = "tcp://";
  constexpr std::string_view kIpc = "ipc://";
  const moe::Error wrong = moe::invalid(std::string(option) + ": expected tcp://HOST:PORT or ipc://PATH, got \"" +
                                        std::string(address) + "\"");
  if (address.starts_with(kIpc)) return address.size() > kIpc.size() ? moe::Status() : wrong;
  if (!address.starts_with(kTcp)) return wrong;
  address.remove_prefix(kTcp.size());
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || colon + 1 == address.size()) return wrong;
  const std::string host(address.substr(0, colon));
  if (!allow_remote && !moe::is_loopback(host)) {
    return moe::Error{MOE_PERMISSION_DENIED,
                      std::string(option) + ": expected a loopback address (127.0.0.1, [::1]) or ipc://, got \"" +
                          host +
                          "\", which others can reach; key_file asks them for keys, allow_remote = true lets them in"};
  }
  return {};
}

}  // namespace zeromq
