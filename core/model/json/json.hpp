// Strict JSON for files from outside: duplicate keys, deep nesting and trailing text are errors with line and column.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "moe/sdk/result.hpp"

namespace patchbay {

struct JsonLimits {
  size_t max_depth = 64;
  size_t max_bytes = size_t{256} << 20;
};

// The document, or an error "line L, column C: expected ..., got ...". Recursion-free: safe on any input, in linear time.
moe::Result<nlohmann::json> parse_json(std::string_view text, JsonLimits limits = {});

// The same for a file; errors begin with the path. A byte-order mark is skipped.
moe::Result<nlohmann::json> parse_json_file(const std::filesystem::path& path, JsonLimits limits = {});

// A whole file as bytes; an error names the path and the reason.
moe::Result<std::string> read_file(const std::filesystem::path& path, size_t max_bytes);

}  // namespace patchbay
