// Fields of a JSON object with the type that they must have; errors name the field.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "core/model/tokenizer/unicode.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay::fields {

using nlohmann::json;

// The field, or nullptr if it is absent or null.
inline const json* find(const json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

inline moe::Error wrong(const char* key, const char* expected, const json* got) {
  return moe::invalid(
      fmt::format("{}: expected {}, got {}", key, expected, got == nullptr ? "nothing" : got->type_name()));
}

inline moe::Result<const json*> object(const json& o, const char* key) {
  const json* v = find(o, key);
  if (v == nullptr || !v->is_object()) return wrong(key, "an object", v);
  return v;
}

inline moe::Result<const json*> array(const json& o, const char* key) {
  const json* v = find(o, key);
  if (v == nullptr || !v->is_array()) return wrong(key, "an array", v);
  return v;
}

// Without a fallback the field must be there.
inline moe::Result<std::string> text(const json& o, const char* key,
                                     std::optional<std::string> fallback = std::nullopt) {
  const json* v = find(o, key);
  if (v == nullptr && fallback) return *fallback;
  if (v == nullptr || !v->is_string()) return wrong(key, "a string", v);
  // A parsed document is UTF-8 already; one that a program made need not be.
  if (!unicode::is_valid(v->get_ref<const std::string&>())) return wrong(key, "UTF-8", v);
  return v->get<std::string>();
}

inline moe::Result<bool> boolean(const json& o, const char* key, std::optional<bool> fallback = std::nullopt) {
  const json* v = find(o, key);
  if (v == nullptr && fallback) return *fallback;
  if (v == nullptr || !v->is_boolean()) return wrong(key, "true or false", v);
  return v->get<bool>();
}

// 0 to 2^63 - 1.
inline moe::Result<int64_t> natural(const json& v, const char* key) {
  const bool fits =
      v.is_number_unsigned() ? v.get<uint64_t>() <= INT64_MAX : v.is_number_integer() && v.get<int64_t>() >= 0;
  if (!fits)
    return moe::invalid(
        fmt::format("{}: expected a whole number from 0 on, got {}", key, v.is_number() ? v.dump() : v.type_name()));
  return v.get<int64_t>();
}

inline moe::Result<int64_t> natural(const json& o, const char* key, std::optional<int64_t> fallback) {
  const json* v = find(o, key);
  if (v == nullptr && fallback) return *fallback;
  if (v == nullptr) return wrong(key, "a whole number", v);
  return natural(*v, key);
}

}  // namespace patchbay::fields
