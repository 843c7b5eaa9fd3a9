// JSON of requests and responses.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "moe/sdk/result.hpp"

namespace httpd {

using Json = nlohmann::ordered_json;

// One line; text that is not UTF-8 (bytes of a token) with replacement characters. Only for what we made ourselves: it
// recurses.
std::string dump(const Json& document);

// A document from outside. MOE_INVALID_ARGUMENT: no JSON, or nested deeper than 32.
moe::Result<Json> parse_json(std::string_view text);

}  // namespace httpd
