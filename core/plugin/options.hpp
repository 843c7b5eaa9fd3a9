// Values for a plugin's options: checked against its table, whoever gives them (TOML, --set, a request).
#pragma once

#include <deque>
#include <string>
#include <variant>
#include <vector>

#include "moe/abi/plugin.h"
#include "moe/sdk/result.hpp"

namespace patchbay {

using OptionScalar = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<double>>;

// One given option and where it was given, for messages ("patchbay.toml: line 3, column 5"; may be empty).
struct GivenOption {
  std::string key;
  OptionScalar value;
  std::string where;

  // The same value, wherever it is written.
  bool operator==(const GivenOption& o) const { return key == o.key && value == o.value; }
};

// A complete set of values in the table's order; owns what the values point to.
class OptionValues {
 public:
  [[nodiscard]] const moe_option_value* data() const { return values_.data(); }
  [[nodiscard]] uint32_t size() const { return static_cast<uint32_t>(values_.size()); }
  [[nodiscard]] const std::vector<moe_option_value>& values() const { return values_; }

  OptionValues() = default;
  OptionValues(OptionValues&&) = default;
  OptionValues& operator=(OptionValues&&) = default;
  OptionValues(const OptionValues&) = delete;
  OptionValues& operator=(const OptionValues&) = delete;

 private:
  friend moe::Result<OptionValues> check_options(const moe_component&, const std::vector<GivenOption>&, std::string_view);
  moe::Status set(const moe_option& option, const OptionScalar& value, moe_option_value& out);
  std::deque<std::string> strings_;  // deques: addresses stay while they grow
  std::deque<std::vector<int64_t>> ints_;
  std::deque<std::vector<double>> floats_;
  std::vector<moe_option_value> values_;
};

// Applies defaults and checks every given value. Errors: "where: subject.key: expected ..., got ...", with the nearest known key.
moe::Result<OptionValues> check_options(const moe_component& component, const std::vector<GivenOption>& given,
                                        std::string_view subject);

// A text as an option of this type, as it would stand in TOML.
moe::Result<OptionScalar> parse_option(const moe_option& option, std::string_view text);

// Whether the table itself is sound: every row has a key, a doc, a type, and a default that its own range allows.
moe::Status check_option_table(const moe_component& component);

const char* option_type_name(int32_t type);
std::string to_text(const OptionScalar& value);

}  // namespace patchbay
