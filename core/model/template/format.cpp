#include "core/model/template/format.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/model/template/builtins.hpp"
#include "core/model/template/print.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

constexpr size_t kMaxPrecision = 512;

// One conversion, whichever syntax it came from.
struct Spec {
  std::string fill = " ";
  char align = 0;  // '<' '>' '^' '=', 0: the type's own
  char sign = '-';
  bool alternate = false;
  bool grouped = false;
  size_t width = 0;
  std::optional<size_t> precision;
  char type = 0;
};

Result<std::string> padded(Interpreter& in, const Spec& spec, std::string body, char default_align) {
  const size_t n = count_chars(body);
  if (n >= spec.width) return body;
  const size_t missing = spec.width - n;
  MOE_TRY(in.check_bytes(missing * spec.fill.size() + body.size()));
  MOE_TRY(in.pay_bytes(missing));
  const char align = spec.align != 0 ? spec.align : default_align;
  const size_t before = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  const auto fill = [&](size_t count) {
    std::string out;
    for (size_t i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  if (align != '=') return fill(before) + body + fill(missing - before);
  const size_t head = !body.empty() && (body[0] == '-' || body[0] == '+' || body[0] == ' ') ? 1 : 0;
  return body.substr(0, head) + fill(missing) + body.substr(head);
}

std::string with_sign(const Spec& spec, bool negative, std::string digits) {
  if (negative) return fmt::format("-{}", digits);
  return spec.sign == '-' ? digits : fmt::format("{}{}", spec.sign, digits);
}

std::string group_thousands(std::string digits) {
  const size_t end = std::min(digits.find_first_not_of("0123456789"), digits.size());
  for (size_t at = end; at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

std::string integer_digits(const Spec& spec, uint64_t magnitude) {
  switch (spec.type) {
    case 'x':
      return fmt::format("{}{:x}", spec.alternate ? "0x" : "", magnitude);
    case 'X':
      return fmt::format("{}{:X}", spec.alternate ? "0X" : "", magnitude);
    case 'o':
      return fmt::format("{}{:o}", spec.alternate ? "0o" : "", magnitude);
    case 'b':
      return fmt::format("{}{:b}", spec.alternate ? "0b" : "", magnitude);
    default:
      return fmt::format("{}", magnitude);
  }
}

Result<std::string> format_integer(Interpreter& in, const Spec& spec, int64_t value) {
  const uint64_t magnitude = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  std::string digits = integer_digits(spec, magnitude);
  if (spec.precision && digits.size() < *spec.precision) digits.insert(0, *spec.precision - digits.size(), '0');
  if (spec.grouped) digits = group_thousands(std::move(digits));
  return padded(in, spec, with_sign(spec, value < 0, std::move(digits)), '>');
}

Result<std::string> format_real(Interpreter& in, const Spec& spec, double value) {
  std::string digits;
  const double magnitude = std::fabs(value);
  const auto precision = static_cast<int>(spec.precision.value_or(6));
  if (!std::isfinite(value)) {
    digits = std::isnan(value) ? "nan" : "inf";
  } else if (spec.type == 0 && !spec.precision) {
    digits = float_repr(magnitude);
  } else {
    const char type = spec.type == 0 ? 'g' : spec.type == '%' ? 'f' : spec.type;
    const char pattern[] = {'%', '.', '*', type, 0};
    char buffer[1024];
    const int n =
        std::snprintf(buffer, sizeof buffer, pattern, precision, spec.type == '%' ? magnitude * 100 : magnitude);
    digits.assign(buffer, std::min(static_cast<size_t>(std::max(n, 0)), sizeof buffer - 1));
    if (spec.type == '%') digits += '%';
  }
  if (spec.grouped) digits = group_thousands(std::move(digits));
  return padded(in, spec, with_sign(spec, std::signbit(value) && !std::isnan(value), std::move(digits)), '>');
}

Result<std::string> format_text(Interpreter& in, const Spec& spec, std::string text) {
  if (spec.precision) text.resize(offset_of(text, *spec.precision));
  return padded(in, spec, std::move(text), '<');
}

bool is_integer_type(char t) { return t == 'd' || t == 'x' || t == 'X' || t == 'o' || t == 'b'; }
bool is_real_type(char t) { return t != 0 && std::string_view("eEfFgG%").find(t) != std::string_view::npos; }

// Digits at `at`, moved past; too many are an error.
Result<std::optional<size_t>> digits(std::string_view text, size_t& at) {
  std::optional<size_t> n;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    n = n.value_or(0) * 10 + static_cast<size_t>(text[at] - '0');
    if (*n > 1'000'000'000) return moe::invalid("format: expected a smaller width or precision");
  }
  return n;
}

Result<std::optional<size_t>> precision(std::string_view text, size_t& at) {
  if (at >= text.size() || text[at] != '.') return std::optional<size_t>();
  ++at;
  MOE_ASSIGN(const std::optional<size_t> n, digits(text, at));
  return std::optional<size_t>(n.value_or(0));
}

Status check_precision(const Spec& spec) {
  if (spec.precision.value_or(0) <= kMaxPrecision) return {};
  return moe::exhausted(
      fmt::format("format: expected a precision of at most {}, got {}", kMaxPrecision, *spec.precision));
}

// --- "..." % args

// Where the next argument comes from.
class PercentArgs {
 public:
  explicit PercentArgs(const Value& args) : args_(args), tuple_(args.is_list(Flavor::kTuple)) {}

  Result<Value> next() {
    const size_t n = tuple_ ? args_.list()->items.size() : 1;
    if (used_ >= n) return moe::invalid("not enough arguments for format string");
    ++used_;
    return tuple_ ? args_.list()->items[used_ - 1] : args_;
  }
  [[nodiscard]] Result<Value> named(std::string_view name) {
    if (args_.dict() == nullptr) return moe::invalid("format requires a mapping");
    used_ = 1;
    const Value* value = args_.dict()->find(name);
    if (value == nullptr) return moe::invalid(fmt::format("format: no argument '{}'", name));
    return *value;
  }
  [[nodiscard]] bool all_used() const {
    return args_.dict() != nullptr || used_ >= (tuple_ ? args_.list()->items.size() : 1);
  }

 private:
  const Value& args_;
  bool tuple_;
  size_t used_ = 0;
};

Result<std::string> convert_percent(Interpreter& in, const Spec& spec, const Value& value) {
  MOE_TRY(check_precision(spec));
  if (spec.type == 's' || spec.type == 'r') {
    MOE_ASSIGN(std::string text, spec.type == 's' ? to_text(in, value) : to_repr(in, value));
    Spec right = spec;
    if (right.align == 0) right.align = '>';
    return format_text(in, right, std::move(text));
  }
  if (spec.type == 'c' && value.str() != nullptr && value.str()->n_chars == 1)
    return padded(in, spec, value.str()->text, '>');
  if (!value.as_number()) return wrong_type(fmt::format("%{} format", spec.type), "a number", value);
  if (is_real_type(spec.type)) return format_real(in, spec, *value.as_number());
  if (value.as_int()) return format_integer(in, spec, *value.as_int());
  const double d = *value.real();
  if (spec.type != 'd' || !(std::fabs(d) < 9.2e18))
    return wrong_type(fmt::format("%{} format", spec.type), "an integer", value);
  return format_integer(in, spec, static_cast<int64_t>(d));
}

Result<Spec> percent_spec(std::string_view f, size_t& at, PercentArgs& args) {
  Spec spec;
  for (; at < f.size(); ++at) {
    if (f[at] == '-') {
      spec.align = '<';
      spec.fill.assign(1, ' ');
    } else if (f[at] == '0' && spec.align != '<') {
      spec.align = '=';
      spec.fill.assign(1, '0');
    } else if (f[at] == '+' || f[at] == ' ') {
      spec.sign = f[at] == '+' || spec.sign == '+' ? '+' : ' ';
    } else if (f[at] == '#') {
      spec.alternate = true;
    } else {
      break;
    }
  }
  if (at < f.size() && f[at] == '*') {
    ++at;
    MOE_ASSIGN(const Value width, args.next());
    if (!width.as_int() || *width.as_int() < 0) return moe::invalid("* wants int");
    spec.width = static_cast<size_t>(std::min<int64_t>(*width.as_int(), 1'000'000'000));
  } else {
    MOE_ASSIGN(const std::optional<size_t> width, digits(f, at));
    spec.width = width.value_or(0);
  }
  MOE_ASSIGN(spec.precision, precision(f, at));
  while (at < f.size() && (f[at] == 'l' || f[at] == 'h' || f[at] == 'L')) ++at;
  if (at >= f.size()) return moe::invalid("incomplete format");
  spec.type = f[at++];
  if (spec.type == 'i' || spec.type == 'u') spec.type = 'd';
  if (spec.type == 'a') spec.type = 'r';
  if (std::string_view("srcdxXoeEfFgG%").find(spec.type) == std::string_view::npos) {
    return moe::invalid(fmt::format("unsupported format character '{}'", spec.type));
  }
  if ((spec.type == 's' || spec.type == 'r' || spec.type == 'c') && spec.align == '=') {
    spec.align = '>';
    spec.fill.assign(1, ' ');
  }
  return spec;
}

}  // namespace

Result<Value> format_percent(Interpreter& in, const Str& format, const Value& values) {
  const std::string_view f = format.text;
  PercentArgs args(values);
  std::string out;
  for (size_t at = 0; at < f.size();) {
    const size_t mark = std::min(f.find('%', at), f.size());
    out += f.substr(at, mark - at);
    at = mark;
    if (at >= f.size()) break;
    ++at;
    std::optional<Value> value;
    if (at < f.size() && f[at] == '(') {
      const size_t close = f.find(')', at);
      if (close == std::string_view::npos) return moe::invalid("incomplete format key");
      MOE_ASSIGN(value, args.named(f.substr(at + 1, close - at - 1)));
      at = close + 1;
    }
    MOE_ASSIGN(const Spec spec, percent_spec(f, at, args));
    if (spec.type == '%') {
      out += '%';
      continue;
    }
    if (!value) {
      MOE_ASSIGN(value, args.next());
    }
    MOE_ASSIGN(const std::string text, convert_percent(in, spec, *value));
    MOE_TRY(in.check_bytes(out.size() + text.size()));
    out += text;
  }
  if (!args.all_used()) return moe::invalid("not all arguments converted during string formatting");
  return in.text(std::move(out), format.markup);
}

namespace {

// --- "...".format(args)

Result<Spec> brace_spec(std::string_view s) {
  Spec spec;
  size_t at = 0;
  const auto is_align = [&](size_t i) {
    return i < s.size() && std::string_view("<>^=").find(s[i]) != std::string_view::npos;
  };
  const size_t second = s.empty() ? 0 : next_char(s, 0);
  if (!s.empty() && is_align(second)) {
    spec.fill = s.substr(0, second);
    spec.align = s[second];
    at = second + 1;
  } else if (is_align(0)) {
    spec.align = s[at++];
  }
  if (at < s.size() && (s[at] == '+' || s[at] == '-' || s[at] == ' ')) spec.sign = s[at++];
  if (at < s.size() && s[at] == '#') {
    spec.alternate = true;
    ++at;
  }
  if (at < s.size() && s[at] == '0') {
    ++at;
    if (spec.align == 0) {
      spec.align = '=';
      spec.fill.assign(1, '0');
    }
  }
  MOE_ASSIGN(const std::optional<size_t> width, digits(s, at));
  spec.width = width.value_or(0);
  if (at < s.size() && s[at] == ',') {
    spec.grouped = true;
    ++at;
  }
  MOE_ASSIGN(spec.precision, precision(s, at));
  if (at < s.size()) spec.type = s[at++];
  if (at < s.size()) return moe::invalid(fmt::format("format specification: expected another form, got '{}'", s));
  return spec;
}

Result<std::string> convert_braces(Interpreter& in, const Value& value, std::string_view text) {
  MOE_ASSIGN(Spec spec, brace_spec(text));
  MOE_TRY(check_precision(spec));
  const bool number = value.as_number().has_value() && (value.boolean() == nullptr || spec.type != 0);
  if (number && is_real_type(spec.type)) return format_real(in, spec, *value.as_number());
  if (number && value.real() != nullptr && spec.type == 0) return format_real(in, spec, *value.real());
  const bool plain = spec.type == 0 || spec.type == 'd' || is_integer_type(spec.type);
  if (number && value.as_int() && plain) return format_integer(in, spec, *value.as_int());
  if ((spec.type != 0 && spec.type != 's') || (number && spec.type == 's')) {
    return moe::invalid(fmt::format("Unknown format code '{}' for object of type '{}'", spec.type, value.type_name()));
  }
  MOE_ASSIGN(std::string shown, to_text(in, value));
  return format_text(in, spec, std::move(shown));
}

Result<Value> field_value(Interpreter& in, std::string_view field, const Args& args, size_t& automatic) {
  const size_t end = std::min(field.find_first_of(".["), field.size());
  const std::string_view name = field.substr(0, end);
  Value value;
  size_t at = 0;
  MOE_ASSIGN(const std::optional<size_t> index, digits(name, at));
  if (name.empty() || (index && at == name.size())) {
    const size_t i = name.empty() ? automatic++ : *index;
    if (i >= args.positional.size()) return moe::invalid("Replacement index out of range for positional args tuple");
    value = args.positional[i];
  } else {
    const auto it = std::find_if(args.named.begin(), args.named.end(), [&](const auto& a) { return a.first == name; });
    if (it == args.named.end()) return moe::invalid(fmt::format("format: no argument '{}'", name));
    value = it->second;
  }
  if (end == field.size()) return value;
  const std::string_view rest = field.substr(end);
  if (rest[0] != '[' || rest.back() != ']' || rest.find(']') != rest.size() - 1) {
    return moe::invalid(fmt::format("format field: expected a name, an index or one [key], got '{}'", field));
  }
  const std::string_view key = rest.substr(1, rest.size() - 2);
  at = 0;
  MOE_ASSIGN(const std::optional<size_t> number, digits(key, at));
  if (number && at == key.size()) return in.item(value, Value(static_cast<int64_t>(*number)));
  return in.item(value, Value::text(std::string(key)));
}

}  // namespace

Result<Value> format_braces(Interpreter& in, const Str& format, const Args& args) {
  const std::string_view f = format.text;
  std::string out;
  size_t automatic = 0;
  for (size_t at = 0; at < f.size();) {
    const size_t brace = std::min(f.find_first_of("{}", at), f.size());
    out += f.substr(at, brace - at);
    if (brace == f.size()) break;
    if (brace + 1 < f.size() && f[brace + 1] == f[brace]) {
      out += f[brace];
      at = brace + 2;
      continue;
    }
    if (f[brace] == '}') return moe::invalid("Single '}' encountered in format string");
    const size_t close = f.find('}', brace);
    if (close == std::string_view::npos) return moe::invalid("expected '}' before end of string");
    std::string_view field = f.substr(brace + 1, close - brace - 1);
    at = close + 1;
    if (field.find('{') != std::string_view::npos) return moe::unimplemented("format: expected no nested fields");
    const size_t colon = std::min(field.find(':'), field.size());
    const std::string_view spec = colon == field.size() ? std::string_view() : field.substr(colon + 1);
    field = field.substr(0, colon);
    char conversion = 0;
    if (field.size() >= 2 && field[field.size() - 2] == '!') {
      conversion = field.back();
      field = field.substr(0, field.size() - 2);
    }
    MOE_ASSIGN(Value value, field_value(in, field, args, automatic));
    if (conversion != 0) {
      MOE_ASSIGN(std::string shown, conversion == 'r' ? to_repr(in, value) : to_text(in, value));
      MOE_ASSIGN(value, in.text(std::move(shown)));
    }
    MOE_ASSIGN(const std::string text, convert_braces(in, value, spec));
    MOE_TRY(in.check_bytes(out.size() + text.size()));
    out += text;
  }
  return in.text(std::move(out), format.markup);
}

}  // namespace patchbay::jinja
