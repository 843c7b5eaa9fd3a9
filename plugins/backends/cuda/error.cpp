#include "error.hpp"

#include <mutex>

#include "moe/sdk/plugin.hpp"

namespace moe::cuda {
namespace {

std::mutex g_mutex;
std::string g_poison;  // empty: none

// Errors after which nothing works in this process any more.
bool is_fatal(cudaError_t code) {
  switch (code) {
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorAssert:
    case cudaErrorContextIsDestroyed:
    case cudaErrorDevicesUnavailable:
    case cudaErrorExternalDevice:
      return true;
    default:
      return false;
  }
}

std::string text_of(cudaError_t code, const char* call, const char* place) {
  std::string text(call);
  if (const size_t end = text.find('('); end != std::string::npos) text.resize(end);
  return text + " (" + place + "): " + cudaGetErrorName(code) + ", " + cudaGetErrorString(code);
}

}  // namespace

Error poison(std::string message) {
  const std::lock_guard lock(g_mutex);
  if (g_poison.empty()) {
    g_poison = "POISONED: the device's context is lost: " + message;
    if (host() != nullptr) host()->log(host()->self, MOE_LOG_ERROR, "cuda", g_poison.c_str());
  }
  return {MOE_UNAVAILABLE, g_poison};
}

Status poisoned() {
  const std::lock_guard lock(g_mutex);
  if (g_poison.empty()) return {};
  return Error{MOE_UNAVAILABLE, g_poison};
}

Status check(cudaError_t code, const char* call, const char* place) {
  if (code == cudaSuccess) return {};
  cudaGetLastError();  // an error that is not fatal must not show at the next launch
  const std::string text = text_of(code, call, place);
  if (is_fatal(code)) return poison(text);
  if (code == cudaErrorMemoryAllocation) return exhausted(text);
  if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver) return Error{MOE_UNAVAILABLE, text};
  return internal(text);
}

}  // namespace moe::cuda
