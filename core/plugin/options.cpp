#include "core/plugin/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <set>

#include "core/plugin/nearest.hpp"
#include "moe/sdk/growth.hpp"

namespace patchbay {
namespace {

using moe::invalid;

bool bounded(const moe_option& o) { return o.min <= o.max; }

std::string range_text(const moe_option& o) {
  if (!bounded(o)) return "";
  if (std::isinf(o.max) && std::isinf(o.min)) return "";
  if (std::isinf(o.max)) return fmt::format(" of at least {}", o.min);
  if (std::isinf(o.min)) return fmt::format(" of at most {}", o.max);
  return fmt::format(" in [{}, {}]", o.min, o.max);
}

moe::Status check_number(const moe_option& o, double v) {
  if (!std::isfinite(v)) return invalid(fmt::format("expected a finite number, got {}", v));
  if (bounded(o) && !(v >= o.min && v <= o.max)) return invalid(fmt::format("expected a number{}, got {}", range_text(o), v));
  return {};
}

moe::Status check_choice(const moe_option& o, const std::string& v) {
  if (o.choices == nullptr) return {};
  std::vector<std::string> all;
  for (const char* const* c = o.choices; *c != nullptr; ++c) {
    if (v == *c) return {};
    all.emplace_back(*c);
  }
  return invalid(fmt::format("expected one of {}, got \"{}\"{}", fmt::join(all, " | "), v, did_you_mean(v, all)));
}

const char* value_type_name(const OptionScalar& v) {
  constexpr const char* kNames[] = {"a boolean", "an integer", "a number", "a string", "a list of integers", "a list of numbers"};
  return kNames[v.index()];
}

std::string_view trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t')) s.remove_suffix(1);
  return s;
}

template <typename T>
bool parse_number(std::string_view s, T& out) {
  const auto r = std::from_chars(s.data(), s.data() + s.size(), out);
  return r.ec == std::errc() && r.ptr == s.data() + s.size();
}

template <typename T>
bool parse_list(std::string_view text, std::vector<T>& out) {
  if (trim(text).empty()) return true;
  while (true) {
    const size_t comma = text.find(',');
    T v{};
    if (!parse_number(trim(text.substr(0, comma)), v)) return false;
    out.push_back(v);
    if (comma == std::string_view::npos) return true;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

const char* option_type_name(int32_t type) {
  constexpr const char* kNames[] = {"?", "bool", "int", "float", "string", "int list", "float list"};
  return type >= 1 && type <= 6 ? kNames[type] : kNames[0];
}

std::string to_text(const OptionScalar& value) {
  return std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
}

moe::Result<OptionScalar> parse_option(const moe_option& o, std::string_view text) {
  text = trim(text);
  const auto wrong = [&] { return invalid(fmt::format("expected {}, got \"{}\"", option_type_name(o.type), text)); };
  switch (o.type) {
    case MOE_OPTION_BOOL:
      if (text == "true") return OptionScalar(true);
      if (text == "false") return OptionScalar(false);
      return wrong();
    case MOE_OPTION_INT: {
      int64_t v = 0;
      if (!parse_number(text, v)) return wrong();
      return OptionScalar(v);
    }
    case MOE_OPTION_FLOAT: {
      double v = 0;
      if (!parse_number(text, v)) return wrong();
      return OptionScalar(v);
    }
    case MOE_OPTION_INT_LIST: {
      std::vector<int64_t> v;
      if (!parse_list(text, v)) return wrong();
      return OptionScalar(std::move(v));
    }
    case MOE_OPTION_FLOAT_LIST: {
      std::vector<double> v;
      if (!parse_list(text, v)) return wrong();
      return OptionScalar(std::move(v));
    }
    default: return OptionScalar(std::string(text));
  }
}

moe::Status OptionValues::set(const moe_option& o, const OptionScalar& given, moe_option_value& out) {
  const auto wrong_type = [&] { return invalid(fmt::format("expected {}{}, got {}", option_type_name(o.type), range_text(o), value_type_name(given))); };
  const auto* as_int = std::get_if<int64_t>(&given);
  const auto* as_float = std::get_if<double>(&given);
  switch (o.type) {
    case MOE_OPTION_BOOL:
      if (!std::holds_alternative<bool>(given)) return wrong_type();
      out.value.i = std::get<bool>(given) ? 1 : 0;
      return {};
    case MOE_OPTION_INT:
      if (as_int == nullptr) return wrong_type();
      MOE_TRY(check_number(o, static_cast<double>(*as_int)));
      out.value.i = *as_int;
      return {};
    case MOE_OPTION_FLOAT: {
      if (as_int == nullptr && as_float == nullptr) return wrong_type();
      const double v = as_int != nullptr ? static_cast<double>(*as_int) : *as_float;
      MOE_TRY(check_number(o, v));
      out.value.f = v;
      return {};
    }
    case MOE_OPTION_STRING:
      if (!std::holds_alternative<std::string>(given)) return wrong_type();
      MOE_TRY(check_choice(o, std::get<std::string>(given)));
      out.value.s = strings_.emplace_back(std::get<std::string>(given)).c_str();
      return {};
    case MOE_OPTION_INT_LIST: {
      if (!std::holds_alternative<std::vector<int64_t>>(given)) return wrong_type();
      for (const int64_t v : std::get<std::vector<int64_t>>(given)) MOE_TRY(check_number(o, static_cast<double>(v)));
      const auto& kept = ints_.emplace_back(std::get<std::vector<int64_t>>(given));
      out.value.ints = kept.data();
      out.n = static_cast<uint32_t>(kept.size());
      return {};
    }
    default: {
      auto& kept = floats_.emplace_back();
      if (const auto* ints = std::get_if<std::vector<int64_t>>(&given)) {
        kept.assign(ints->begin(), ints->end());
      } else if (const auto* floats = std::get_if<std::vector<double>>(&given)) {
        kept = *floats;
      } else {
        return wrong_type();
      }
      for (const double v : kept) MOE_TRY(check_number(o, v));
      out.value.floats = kept.data();
      out.n = static_cast<uint32_t>(kept.size());
      return {};
    }
  }
}

moe::Result<OptionValues> check_options(const moe_component& component, const std::vector<GivenOption>& given, std::string_view subject) {
  std::vector<std::string> keys;
  for (uint32_t i = 0; i < component.n_options; ++i) keys.emplace_back(moe::nth(component.options, i).key);
  const auto at = [](const GivenOption& g, moe::Error e) { return g.where.empty() ? e : e.in(g.where); };
  for (const auto& g : given) {
    if (std::find(keys.begin(), keys.end(), g.key) != keys.end()) continue;
    return at(g, invalid(fmt::format("{}: expected an option of \"{}\" ({}), got \"{}\"{}", subject, component.name,
                                     keys.empty() ? "it has none" : fmt::format("{}", fmt::join(keys, ", ")), g.key,
                                     did_you_mean(g.key, keys))));
  }
  OptionValues result;
  for (uint32_t i = 0; i < component.n_options; ++i) {
    const moe_option& o = moe::nth(component.options, i);
    moe_option_value v{};
    v.key = o.key;
    v.type = o.type;
    v.n = 1;
    const GivenOption* chosen = nullptr;
    for (const auto& g : given) {
      if (g.key == o.key) chosen = &g;  // the last one wins: an override comes after what it overrides
    }
    if (chosen != nullptr) {
      v.is_set = 1;
      if (auto s = result.set(o, chosen->value, v); !s.ok()) return at(*chosen, s.error().in(fmt::format("{}.{}", subject, o.key)));
    } else if (o.default_text == nullptr) {
      return invalid(fmt::format("{}.{}: expected a value ({}), got none: {}", subject, o.key, option_type_name(o.type), o.doc));
    } else {
      MOE_ASSIGN(const OptionScalar value, parse_option(o, o.default_text));
      MOE_TRY(result.set(o, value, v));
    }
    result.values_.push_back(v);
  }
  return result;
}

moe::Status check_option_table(const moe_component& component) {
  if (component.n_options > 0 && component.options == nullptr) return invalid("options: expected a table, got null");
  std::set<std::string> seen;
  for (uint32_t i = 0; i < component.n_options; ++i) {
    const moe_option& o = moe::nth(component.options, i);
    if (o.struct_size < moe::kFirstSize<moe_option>) return invalid(fmt::format("option {}: expected at least {} bytes, got {}", i, moe::kFirstSize<moe_option>, o.struct_size));
    if (o.key == nullptr || o.doc == nullptr) return invalid(fmt::format("option {}: expected a key and a doc, got none", i));
    if (o.must_understand != 0) return moe::unimplemented(fmt::format("option {}: asks for something that this host does not know", o.key));
    if (o.type < MOE_OPTION_BOOL || o.type > MOE_OPTION_FLOAT_LIST) return invalid(fmt::format("option {}: unknown type {}", o.key, o.type));
    if (!seen.insert(o.key).second) return invalid(fmt::format("option {}: expected once, got twice", o.key));
    if (((o.flags & MOE_OPTION_REQUIRED) != 0) != (o.default_text == nullptr)) {
      return invalid(fmt::format("option {}: expected either a default or REQUIRED", o.key));
    }
    if (o.default_text == nullptr) continue;
    auto value = parse_option(o, o.default_text);
    if (!value.ok()) return value.error().in(fmt::format("option {}: default", o.key));
    moe::Status fits;
    if (const auto* n = std::get_if<int64_t>(&*value)) fits = check_number(o, static_cast<double>(*n));
    if (const auto* n = std::get_if<double>(&*value)) fits = check_number(o, *n);
    if (const auto* s = std::get_if<std::string>(&*value)) fits = check_choice(o, *s);
    if (!fits.ok()) return fits.error().in(fmt::format("option {}: default", o.key));
  }
  return {};
}

}  // namespace patchbay
