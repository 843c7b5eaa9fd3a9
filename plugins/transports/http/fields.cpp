#include "fields.hpp"

#include <cmath>

namespace httpd {

moe::Error wrong(const std::string& field, const std::string& expected, const Json& got) {
  const bool is_short = got.is_primitive() && !(got.is_string() && got.get_ref<const std::string&>().size() > 60);
  return moe::invalid(field + ": expected " + expected + ", got " +
                      (is_short ? dump(got) : std::string(got.type_name())));
}

namespace {

std::string range(const char* type, const std::string& min, const std::string& max) {
  return std::string(type) + " from " + min + " to " + max;
}

std::string plain(double x) { return Json(x).dump(); }

}  // namespace

const Json* Fields::take(const char* key) {
  taken_.insert(key);
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

moe::Result<std::optional<int64_t>> Fields::integer(const char* key, int64_t min, int64_t max) {
  const Json* value = take(key);
  if (value == nullptr) return std::optional<int64_t>();
  const auto error = [&] {
    return wrong(name(key), range("a whole number", std::to_string(min), std::to_string(max)), *value);
  };
  const bool too_large = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (!value->is_number_integer() || too_large) return error();
  const auto number = value->get<int64_t>();
  if (number < min || number > max) return error();
  return std::optional(number);
}

moe::Result<std::optional<double>> Fields::number(const char* key, double min, double max) {
  const Json* value = take(key);
  if (value == nullptr) return std::optional<double>();
  const bool right = value->is_number() && value->get<double>() >= min && value->get<double>() <= max;
  if (!right) return wrong(name(key), range("a number", plain(min), plain(max)), *value);
  return std::optional(value->get<double>());
}

moe::Result<std::optional<bool>> Fields::flag(const char* key) {
  const Json* value = take(key);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) return wrong(name(key), "true or false", *value);
  return std::optional(value->get<bool>());
}

moe::Result<std::optional<std::string>> Fields::text(const char* key) {
  const Json* value = take(key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return wrong(name(key), "a string", *value);
  return std::optional(value->get<std::string>());
}

std::vector<std::string> Fields::left() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_.items()) {
    if (!value.is_null() && !taken_.contains(key)) keys.push_back(key);
  }
  return keys;
}

}  // namespace httpd
