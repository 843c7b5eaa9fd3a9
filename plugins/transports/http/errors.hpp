// Errors as OpenAI's clients expect them.
#pragma once

#include <string>

#include "moe/sdk/result.hpp"
#include "session.hpp"

namespace httpd {

// The status of an error's code: 400 for what the client did wrong, 429 busy, 503 not now, 500 ours.
int status_of(moe_status code);

// {"error": {"message", "type", "param", "code"}}. Where the message is worded "subject: ...", the subject is the
// param.
std::string error_body(int status, const std::string& message);

// The whole response.
Response error_response(const moe::Error& error);

}  // namespace httpd
