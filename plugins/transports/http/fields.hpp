// The fields of a JSON object, each read once with its type; what was not read is left over.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "json.hpp"

namespace httpd {

class Fields {
 public:
  // `subject` names the object in errors; empty: the body itself. Both must outlive this.
  Fields(const Json& object, std::string subject) : object_(object), subject_(std::move(subject)) {}

  // The value; null where it is absent or null.
  const Json* take(const char* key);
  // Nothing where it is absent or null. MOE_INVALID_ARGUMENT: another type, or out of range.
  moe::Result<std::optional<int64_t>> integer(const char* key, int64_t min, int64_t max);
  moe::Result<std::optional<double>> number(const char* key, double min, double max);
  moe::Result<std::optional<bool>> flag(const char* key);
  moe::Result<std::optional<std::string>> text(const char* key);

  // Keys that nobody took and whose value is not null.
  [[nodiscard]] std::vector<std::string> left() const;
  // "a.b" for the key b of the object a.
  [[nodiscard]] std::string name(const std::string& key) const { return subject_.empty() ? key : subject_ + "." + key; }

 private:
  const Json& object_;
  const std::string subject_;
  std::set<std::string> taken_;
};

// "field: expected X, got Y", where Y is the value if it is short, else its type.
moe::Error wrong(const std::string& field, const std::string& expected, const Json& got);

}  // namespace httpd
