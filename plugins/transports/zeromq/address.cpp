#include "address.hpp"

#include <string>

#include "moe/sdk/transport_support.hpp"

namespace zeromq {

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
  if (!allow_remote && !moe::is_loopback(host)) {
    return moe::Error{MOE_PERMISSION_DENIED,
                      "bind: expected a loopback address (127.0.0.1, [::1]) or ipc://, got \"" + host +
                          "\", which others can reach; key_file asks them for keys, allow_remote = true lets them in"};
  }
  return {};
}

}  // namespace zeromq
