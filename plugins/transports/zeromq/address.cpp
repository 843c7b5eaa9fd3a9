#include "address.hpp"

#include <arpa/inet.h>

#include <string>

namespace zeromq {

namespace {

// Numbers only: a name (other than localhost) may resolve to anything, and differently the next time.
bool is_loopback(std::string host) {
  if (host == "localhost") return true;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace

moe::Status check_address(std::string_view address, bool allow_remote) {
  constexpr std::string_view kTcp = "tcp://";
  constexpr std::string_view kIpc = "ipc://";
  const moe::Error wrong =
      moe::invalid("bind: expected tcp://HOST:PORT or ipc://PATH, got \"" + std::string(address) + "\"");
  if (address.starts_with(kIpc)) return address.size() > kIpc.size() ? moe::Status() : wrong;
  if (!address.starts_with(kTcp)) return wrong;
  address.remove_prefix(kTcp.size());
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || colon + 1 == address.size()) return wrong;
  const std::string host(address.substr(0, colon));
  if (!allow_remote && !is_loopback(host)) {
    return moe::Error{MOE_PERMISSION_DENIED, "bind: expected a loopback address (127.0.0.1, [::1]) or ipc://, got \"" +
                                                 host + "\", which others can reach; allow_remote = true permits it"};
  }
  return {};
}

}  // namespace zeromq
