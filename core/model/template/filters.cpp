// Filters over single values: numbers, defaults, JSON.
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "core/model/template/builtins.hpp"
#include "core/model/template/objects.hpp"
#include "core/model/template/operators.hpp"
#include "core/model/template/print.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

Result<Value> abs_filter(Interpreter&, const Value& input, Args&) {
  if (const auto i = input.as_int()) return *i < 0 ? negate(input) : Result<Value>(Value(*i));
  if (input.real() != nullptr) return Value(std::fabs(*input.real()));
  return wrong_type("abs", "a number", input);
}

Result<Value> attr_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("attr", args, {"name"}, 1));
  MOE_ASSIGN(const std::string name, p.text(0, ""));
  if (input.dict() == nullptr) return in.attribute(input, name);
  // Attributes only, not keys.
  MOE_ASSIGN(const Value empty, in.dict({}));
  return in.attribute(empty, name);
}

Result<Value> default_filter(Interpreter&, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("default", args, {"default_value", "boolean"}));
  const bool replace = input.is_undefined() || (p.truthy(1, false) && !input.truthy());
  if (!replace) return input;
  return p.get(0) != nullptr ? *p.get(0) : Value::text("");
}

// Text without the underscores that Python allows between digits; nothing if they stand elsewhere.
std::optional<std::string> number_text(std::string_view raw) {
  const std::string_view s = strip(raw);
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    const bool inside = i > 0 && i + 1 < s.size() && s[i - 1] != '_' && s[i + 1] != '_';
    if (s[i] == '_' && !inside) return std::nullopt;
    if (s[i] != '_') out += s[i];
  }
  if (!out.empty() && out[0] == '+') out.erase(0, 1);
  if (out.empty() || out[0] == '+' || (out.size() > 1 && out[0] == '-' && out[1] == '+')) return std::nullopt;
  return out;
}

std::optional<double> parse_real(std::string_view raw) {
  const auto text = number_text(raw);
  if (!text) return std::nullopt;
  double d = 0;
  const auto r = std::from_chars(text->data(), text->data() + text->size(), d);
  const bool whole = r.ptr == text->data() + text->size() && text->find('(') == std::string::npos;
  if (!whole) return std::nullopt;
  if (r.ec == std::errc::result_out_of_range) return std::strtod(text->c_str(), nullptr);
  return r.ec == std::errc{} ? std::optional<double>(d) : std::nullopt;
}

Result<Value> float_filter(Interpreter&, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("float", args, {"default"}));
  if (input.is_undefined()) return undefined_error(input);
  if (const auto d = input.as_number()) return Value(*d);
  if (input.str() != nullptr) {
    if (const auto d = parse_real(input.str()->text)) return Value(*d);
  }
  return p.get(0) != nullptr ? *p.get(0) : Value(0.0);
}

// The integer part, unless it is beyond 64 bits; nothing for NaN and infinities.
Result<std::optional<int64_t>> truncated(double d) {
  if (!std::isfinite(d)) return std::optional<int64_t>();
  if (std::fabs(d) >= 9.2233720368547758e18)
    return moe::invalid("int: expected a result within 64 bits, got a larger one");
  return std::optional<int64_t>(static_cast<int64_t>(d));
}

Result<std::optional<int64_t>> parse_integer(std::string_view raw, int base) {
  auto text = number_text(raw);
  if (!text) return std::optional<int64_t>();
  const bool negative = (*text)[0] == '-';
  std::string_view digits = std::string_view(*text).substr(negative ? 1 : 0);
  const std::string_view prefix = digits.substr(0, 2);
  const int own = prefix == "0x" || prefix == "0X"   ? 16
                  : prefix == "0o" || prefix == "0O" ? 8
                  : prefix == "0b" || prefix == "0B" ? 2
                                                     : 0;
  if (own != 0 && (base == own || base == 0)) {
    digits.remove_prefix(2);
    base = own;
  }
  if (base == 0) base = 10;
  const std::string signed_digits = fmt::format("{}{}", negative ? "-" : "", digits);
  int64_t i = 0;
  const auto r = std::from_chars(signed_digits.data(), signed_digits.data() + signed_digits.size(), i, base);
  const bool whole = !digits.empty() && r.ptr == signed_digits.data() + signed_digits.size() && digits[0] != '-';
  if (whole && r.ec == std::errc::result_out_of_range)
    return moe::invalid("int: expected a number within 64 bits, got a larger one");
  return whole && r.ec == std::errc{} ? std::optional<int64_t>(i) : std::nullopt;
}

Result<Value> int_filter(Interpreter&, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("int", args, {"default", "base"}));
  MOE_ASSIGN(const int64_t base, p.integer(1, 10));
  if (base != 0 && (base < 2 || base > 36)) return moe::invalid("int: expected a base of 0 or 2 to 36");
  if (input.is_undefined()) return undefined_error(input);
  if (const auto i = input.as_int()) return Value(*i);
  std::optional<int64_t> out;
  if (input.real() != nullptr) {
    MOE_ASSIGN(out, truncated(*input.real()));
  } else if (input.str() != nullptr) {
    MOE_ASSIGN(out, parse_integer(input.str()->text, static_cast<int>(base)));
    if (!out) {
      const auto d = parse_real(input.str()->text);
      MOE_ASSIGN(out, d ? truncated(*d) : Result<std::optional<int64_t>>(std::optional<int64_t>()));
    }
  }
  if (out) return Value(*out);
  return p.get(0) != nullptr ? *p.get(0) : Value(int64_t{0});
}

// round() of Python: to even on ties of the exact binary value.
double round_half_even(double d, int64_t precision) {
  if (!std::isfinite(d) || precision > 300) return d;
  if (precision >= 0) {
    char buffer[1024];
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), d);
    return std::strtod(buffer, nullptr);
  }
  if (precision < -308) return 0.0 * d;
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  return std::nearbyint(d / scale) * scale;
}

Result<Value> round_filter(Interpreter&, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("round", args, {"precision", "method"}));
  MOE_ASSIGN(const int64_t precision, p.integer(0, 0));
  MOE_ASSIGN(const std::string method, p.text(1, "common"));
  if (!input.as_number()) return wrong_type("round", "a number", input);
  if (method == "common") {
    if (const auto i = input.as_int(); i && precision >= 0) return Value(*i);
    const double rounded = round_half_even(*input.as_number(), precision);
    if (!input.as_int()) return Value(rounded);
    MOE_ASSIGN(const auto whole, truncated(rounded));
    return Value(*whole);
  }
  if (method != "ceil" && method != "floor") return moe::invalid("method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = *input.as_number() * scale;
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Result<Value> string_filter(Interpreter& in, const Value& input, Args&) {
  if (input.str() != nullptr) return input;
  MOE_ASSIGN(std::string text, to_text(in, input));
  return in.text(std::move(text));
}

Status read_indent(const Value& indent, JsonStyle& style) {
  style.between_items.assign(1, ',');
  if (indent.str() != nullptr) {
    style.indent = indent.str()->text;
    return {};
  }
  if (!indent.as_int()) return wrong_type("tojson", "an indent of a number or a string", indent);
  if (*indent.as_int() > 64) return moe::exhausted("tojson: expected an indent of at most 64");
  style.indent = std::string(static_cast<size_t>(std::max<int64_t>(*indent.as_int(), 0)), ' ');
  return {};
}

// As transformers defines it: json.dumps, never escaped for HTML.
Result<Value> tojson_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = p.truthy(0, false);
  style.sort_keys = p.truthy(3, false);
  if (p.given(1) != nullptr) MOE_TRY(read_indent(*p.given(1), style));
  if (p.given(2) != nullptr) {
    MOE_ASSIGN(const auto separators, in.iterate(*p.given(2)));
    const auto& s = separators->items;
    if (s.size() != 2 || s[0].str() == nullptr || s[1].str() == nullptr)
      return moe::invalid("tojson: separators: expected two strings");
    style.between_items = s[0].str()->text;
    style.after_key = s[1].str()->text;
  }
  MOE_ASSIGN(std::string text, to_json(in, input, style));
  return in.text(std::move(text));
}

Result<Value> length_filter(Interpreter&, const Value& input, Args&) {
  if (input.is_undefined()) return Value(int64_t{0});
  if (const Str* s = input.str()) return Value(static_cast<int64_t>(s->n_chars));
  if (const Dict* d = input.dict()) return Value(static_cast<int64_t>(d->entries.size()));
  if (input.list() != nullptr && !input.is_list(Flavor::kGenerator))
    return Value(static_cast<int64_t>(input.list()->items.size()));
  return moe::invalid(fmt::format("object of type '{}' has no len()", input.type_name()));
}

constexpr Named<FilterFn> kValueFilters[] = {
    {"abs", abs_filter},         {"attr", attr_filter},     {"count", length_filter},  {"d", default_filter},
    {"default", default_filter}, {"float", float_filter},   {"int", int_filter},       {"length", length_filter},
    {"round", round_filter},     {"string", string_filter}, {"tojson", tojson_filter},
};

}  // namespace

FilterFn find_value_filter(std::string_view name) { return find_named(kValueFilters, name); }

}  // namespace patchbay::jinja
