// Option tables and the values that come back from the host.
#pragma once

#include <span>
#include <string_view>

#include "moe/abi/option.h"

namespace moe {

inline constexpr double kUnbounded[2] = {1.0, 0.0};  // min > max

// Rows of an option table:
//   static constexpr moe_option kOptions[] = {moe::int_option("k", "2", 1, 1024, "Experts a token goes to."), ...};
constexpr moe_option option_row(const char* key, int32_t type, const char* default_text, const char* doc, uint32_t flags) {
  moe_option o{};
  o.struct_size = sizeof(moe_option);
  o.key = key;
  o.type = type;
  o.default_text = default_text;
  o.doc = doc;
  o.flags = flags | (default_text == nullptr ? static_cast<uint32_t>(MOE_OPTION_REQUIRED) : 0U);
  o.min = kUnbounded[0];
  o.max = kUnbounded[1];
  return o;
}
constexpr moe_option int_option(const char* key, const char* default_text, int64_t min, int64_t max, const char* doc,
                                uint32_t flags = 0, const char* unit = nullptr) {
  moe_option o = option_row(key, MOE_OPTION_INT, default_text, doc, flags);
  o.min = static_cast<double>(min);
  o.max = static_cast<double>(max);
  o.unit = unit;
  return o;
}
constexpr moe_option float_option(const char* key, const char* default_text, double min, double max, const char* doc,
                                  uint32_t flags = 0, const char* unit = nullptr) {
  moe_option o = option_row(key, MOE_OPTION_FLOAT, default_text, doc, flags);
  o.min = min;
  o.max = max;
  o.unit = unit;
  return o;
}
constexpr moe_option bool_option(const char* key, const char* default_text, const char* doc, uint32_t flags = 0) {
  return option_row(key, MOE_OPTION_BOOL, default_text, doc, flags);
}
constexpr moe_option string_option(const char* key, const char* default_text, const char* doc, uint32_t flags = 0) {
  return option_row(key, MOE_OPTION_STRING, default_text, doc, flags);
}
// `choices` ends with nullptr.
constexpr moe_option choice_option(const char* key, const char* default_text, const char* const* choices, const char* doc,
                                   uint32_t flags = 0) {
  moe_option o = option_row(key, MOE_OPTION_STRING, default_text, doc, flags);
  o.choices = choices;
  return o;
}
constexpr moe_option int_list_option(const char* key, const char* default_text, const char* doc, uint32_t flags = 0) {
  return option_row(key, MOE_OPTION_INT_LIST, default_text, doc, flags);
}
constexpr moe_option float_list_option(const char* key, const char* default_text, const char* doc, uint32_t flags = 0) {
  return option_row(key, MOE_OPTION_FLOAT_LIST, default_text, doc, flags);
}

// The checked values of a component's options. The host gives every option of the table, so a key that the table has is there; a key
// that it does not have is a bug of the plugin and reads as zero, empty or false.
class Options {
 public:
  Options(const moe_option_value* values, uint32_t n_values) : values_(values, n_values) {}

  [[nodiscard]] int64_t integer(std::string_view key) const { return find(key).value.i; }
  [[nodiscard]] double number(std::string_view key) const { return find(key).value.f; }
  [[nodiscard]] bool flag(std::string_view key) const { return find(key).value.i != 0; }
  [[nodiscard]] std::string_view text(std::string_view key) const {
    const char* s = find(key).value.s;
    return s == nullptr ? std::string_view() : std::string_view(s);
  }
  [[nodiscard]] std::span<const int64_t> integers(std::string_view key) const {
    const auto& v = find(key);
    return {v.value.ints, v.value.ints == nullptr ? 0 : v.n};
  }
  [[nodiscard]] std::span<const double> numbers(std::string_view key) const {
    const auto& v = find(key);
    return {v.value.floats, v.value.floats == nullptr ? 0 : v.n};
  }
  // Whether the configuration or the request gave it, as opposed to the default.
  [[nodiscard]] bool is_set(std::string_view key) const { return find(key).is_set != 0; }
  // The index of a choice in its table; 0 if it is none of them.
  [[nodiscard]] int choice(std::string_view key, const char* const* choices) const {
    const std::string_view value = text(key);
    for (int i = 0; choices[i] != nullptr; ++i) {
      if (value == choices[i]) return i;
    }
    return 0;
  }

 private:
  [[nodiscard]] const moe_option_value& find(std::string_view key) const {
    static constexpr moe_option_value kNone{};
    for (const auto& v : values_) {
      if (key == v.key) return v;
    }
    return kNone;
  }
  std::span<const moe_option_value> values_;
};

}  // namespace moe
