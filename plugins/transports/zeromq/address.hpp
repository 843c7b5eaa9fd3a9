// Where the transport may listen.
#pragma once

#include <string_view>

#include "moe/sdk/result.hpp"

namespace zeromq {

// Errors begin with `option`, which has the address. MOE_INVALID_ARGUMENT: neither tcp://HOST:PORT nor ipc://PATH.
// MOE_PERMISSION_DENIED: it can be reached from other machines and `allow_remote` is not set.
moe::Status check_address(std::string_view option, std::string_view address, bool allow_remote);

// What binding to an ipc:// address would do without a word: longer paths are cut, files and other servers' sockets are
// replaced. MOE_INVALID_ARGUMENT: too long a path, or a file that is no socket; MOE_UNAVAILABLE: somebody listens
// there.
moe::Status check_path(std::string_view option, std::string_view address);

}  // namespace zeromq
