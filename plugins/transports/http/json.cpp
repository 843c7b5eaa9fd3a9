#include "json.hpp"

#include <algorithm>

namespace httpd {

namespace {

constexpr int kMostNested = 32;

// Before parsing: copying, comparing and printing nested values recurses.
int depth_of(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

std::string dump(const Json& document) { return document.dump(-1, ' ', false, Json::error_handler_t::replace); }

moe::Result<Json> parse_json(std::string_view text) {
  if (depth_of(text) > kMostNested) {
    return moe::invalid("body: expected JSON nested at most " + std::to_string(kMostNested) + " deep, got deeper");
  }
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& e) {
    const std::string what = e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    const size_t from = what.find("at line");
    return moe::invalid("body: expected JSON, got an error " + (from == std::string::npos ? what : what.substr(from)));
  }
}

}  // namespace httpd
