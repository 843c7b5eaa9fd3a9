// Arithmetic.
#include "core/model/template/operators.hpp"

#include <fmt/format.h>

#include <cmath>

#include "core/model/template/builtins.hpp"
#include "core/model/template/format.hpp"
#include "core/model/template/print.hpp"

namespace patchbay::jinja {
namespace {

constexpr std::string_view kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

moe::Error overflow() { return moe::invalid("integer: expected a result within 64 bits, got a larger one"); }
moe::Error by_zero() { return moe::invalid("division by zero"); }

moe::Error unsupported(Op op, const Value& a, const Value& b) {
  if (a.is_undefined()) return undefined_error(a);
  if (b.is_undefined()) return undefined_error(b);
  return moe::invalid(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'",
                                  kSymbols[static_cast<size_t>(op)], a.type_name(), b.type_name()));
}

// Rounds down, as Python does.
int64_t floor_div(int64_t a, int64_t b) { return a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0); }

Result<Value> integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return moe::invalid("0.0 cannot be raised to a negative power");
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  for (int64_t square = base;;) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, square, &result)) return overflow();
    exponent >>= 1;
    if (exponent == 0) return Value(result);
    if (__builtin_mul_overflow(square, square, &square)) return overflow();
  }
}

Result<Value> on_integers(Op op, int64_t a, int64_t b) {
  int64_t r = 0;
  switch (op) {
    case Op::kAdd:
      return __builtin_add_overflow(a, b, &r) ? Result<Value>(overflow()) : Value(r);
    case Op::kSub:
      return __builtin_sub_overflow(a, b, &r) ? Result<Value>(overflow()) : Value(r);
    case Op::kMul:
      return __builtin_mul_overflow(a, b, &r) ? Result<Value>(overflow()) : Value(r);
    case Op::kPow:
      return integer_power(a, b);
    default:
      break;
  }
  if (b == 0) return by_zero();
  if (op == Op::kDiv) return Value(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
  if (b == -1) return op == Op::kMod ? Result<Value>(Value(int64_t{0})) : on_integers(Op::kSub, 0, a);
  if (op == Op::kFloorDiv) return Value(floor_div(a, b));
  return Value(a - floor_div(a, b) * b);
}

double python_mod(double a, double b) {
  const double r = std::fmod(a, b);
  if (r == 0) return std::copysign(0.0, b);
  return (r < 0) != (b < 0) ? r + b : r;
}

Result<Value> on_reals(Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value(a + b);
    case Op::kSub:
      return Value(a - b);
    case Op::kMul:
      return Value(a * b);
    case Op::kPow: {
      if (a == 0 && b < 0) return moe::invalid("0.0 cannot be raised to a negative power");
      const double r = std::pow(a, b);
      if (std::isnan(r) && !std::isnan(a) && !std::isnan(b))
        return moe::invalid("power: expected a real result, got a complex one");
      if (std::isinf(r) && std::isfinite(a) && std::isfinite(b)) return moe::invalid("power: result out of range");
      return Value(r);
    }
    default:
      break;
  }
  if (b == 0) return by_zero();
  if (op == Op::kDiv) return Value(a / b);
  if (op == Op::kMod) return Value(python_mod(a, b));
  const double quotient = (a - python_mod(a, b)) / b;
  return Value(std::floor(quotient + 0.5));  // the division is exact but for rounding
}

Result<Value> repeat_text(Interpreter& in, const Str& s, int64_t times) {
  const size_t n = times <= 0 || s.text.empty() ? 0 : static_cast<size_t>(times);
  size_t bytes = 0;
  if (__builtin_mul_overflow(n, s.text.size(), &bytes)) bytes = SIZE_MAX / 2;
  MOE_TRY(in.check_bytes(bytes));
  MOE_TRY(in.step(bytes / 64));
  std::string out;
  out.reserve(bytes);
  for (size_t i = 0; i < n; ++i) out += s.text;
  return in.text(std::move(out), s.markup);
}

Result<Value> repeat_list(Interpreter& in, const List& list, int64_t times) {
  const size_t n = times <= 0 || list.items.empty() ? 0 : static_cast<size_t>(times);
  size_t count = 0;
  if (__builtin_mul_overflow(n, list.items.size(), &count)) count = SIZE_MAX / 64;
  MOE_TRY(in.step(count));
  MOE_TRY(in.check_bytes(count * sizeof(Value)));
  std::vector<Value> out;
  out.reserve(count);
  for (size_t i = 0; i < n; ++i) out.insert(out.end(), list.items.begin(), list.items.end());
  return in.list(std::move(out), list.flavor);
}

bool is_plain(const List& l) { return l.flavor == Flavor::kList || l.flavor == Flavor::kTuple; }

Result<Value> repeat(Interpreter& in, const Value& what, int64_t times) {
  if (what.str() != nullptr) return repeat_text(in, *what.str(), times);
  return repeat_list(in, *what.list(), times);
}

bool can_repeat(const Value& v) { return v.str() != nullptr || (v.list() != nullptr && is_plain(*v.list())); }

Result<Value> add_text(Interpreter& in, const Str& a, const Str& b) {
  const bool markup = a.markup || b.markup;
  MOE_TRY(in.check_bytes(a.text.size() + b.text.size()));
  if (!markup) return in.text(a.text + b.text);
  // What is marked safe escapes the plain text that it meets.
  return in.text((a.markup ? a.text : escape_html(a.text)) + (b.markup ? b.text : escape_html(b.text)), true);
}

Result<Value> add_lists(Interpreter& in, const List& a, const List& b) {
  MOE_TRY(in.step((a.items.size() + b.items.size()) / 8));
  MOE_TRY(in.check_bytes((a.items.size() + b.items.size()) * sizeof(Value)));
  std::vector<Value> out = a.items;
  out.insert(out.end(), b.items.begin(), b.items.end());
  return in.list(std::move(out), a.flavor);
}

}  // namespace

Result<Value> binary(Interpreter& in, Op op, const Value& a, const Value& b) {
  if (const auto x = a.as_int(), y = b.as_int(); x && y) return on_integers(op, *x, *y);
  if (const auto x = a.as_number(), y = b.as_number(); x && y) return on_reals(op, *x, *y);
  if (op == Op::kAdd && a.str() != nullptr && b.str() != nullptr) return add_text(in, *a.str(), *b.str());
  if (op == Op::kAdd && a.str() != nullptr && !b.is_undefined()) {
    return moe::invalid(fmt::format("can only concatenate str (not \"{}\") to str", b.type_name()));
  }
  if (op == Op::kAdd && a.list() != nullptr && b.list() != nullptr && is_plain(*a.list()) &&
      a.list()->flavor == b.list()->flavor) {
    return add_lists(in, *a.list(), *b.list());
  }
  if (op == Op::kMul && can_repeat(a) && b.as_int()) return repeat(in, a, *b.as_int());
  if (op == Op::kMul && can_repeat(b) && a.as_int()) return repeat(in, b, *a.as_int());
  if (op == Op::kMod && a.str() != nullptr) return format_percent(in, *a.str(), b);
  return unsupported(op, a, b);
}

Result<Value> negate(const Value& a) {
  if (const auto i = a.as_int()) return on_integers(Op::kSub, 0, *i);
  if (a.real() != nullptr) return Value(-*a.real());
  return wrong_type("unary -", "a number", a);
}

Result<Value> plus(const Value& a) {
  if (const auto i = a.as_int()) return Value(*i);
  if (a.real() != nullptr) return a;
  return wrong_type("unary +", "a number", a);
}

}  // namespace patchbay::jinja
