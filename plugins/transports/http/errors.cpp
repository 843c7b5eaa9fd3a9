#include "errors.hpp"

#include <algorithm>

#include "json.hpp"

namespace httpd {

namespace {

const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

Json param_of(const std::string& message) {
  const size_t colon = message.find(':');
  if (colon == std::string::npos || colon == 0) return nullptr;
  const std::string subject = message.substr(0, colon);
  const bool is_name = std::all_of(subject.begin(), subject.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '[' || c == ']';
  });
  return is_name ? Json(subject) : Json(nullptr);
}

}  // namespace

int status_of(moe_status code) {
  switch (code) {
    case MOE_INVALID_ARGUMENT:
    case MOE_FAILED_PRECONDITION:
    case MOE_OUT_OF_RANGE:
    case MOE_UNIMPLEMENTED:
      return 400;
    case MOE_UNAUTHENTICATED:
      return 401;
    case MOE_PERMISSION_DENIED:
      return 403;
    case MOE_NOT_FOUND:
      return 404;
    case MOE_RESOURCE_EXHAUSTED:
      return 429;
    case MOE_UNAVAILABLE:
    case MOE_CANCELLED:  // by the server itself, at its end: the client that cancels is gone
      return 503;
    case MOE_DEADLINE_EXCEEDED:
      return 504;
    default:
      return 500;
  }
}

std::string error_body(int status, const std::string& message) {
  const Json code = status == 401   ? Json("invalid_api_key")
                    : status == 404 ? Json("not_found")
                    : status == 429 ? Json("busy")
                                    : Json(nullptr);
  return dump(
      {{"error", {{"message", message}, {"type", type_of(status)}, {"param", param_of(message)}, {"code", code}}}});
}

Response error_response(const moe::Error& error) {
  const int status = status_of(error.code);
  Response response{status, "application/json", error_body(status, error.message), {}};
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (status == 429 || status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

}  // namespace httpd
