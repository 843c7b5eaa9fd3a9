#include "core/model/architecture/expression_number.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace patchbay::expression {
namespace {

using moe::Result;

constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
constexpr double kTwo63 = 0x1.0p63;

Result<Value> overflow(size_t column) { return error_at(column, "an integer of 64 bits", "a larger one"); }
Result<Value> finite(double x, size_t column) {
  if (!std::isfinite(x)) return error_at(column, "a finite result", fmt::format("{}", x));
  return Value(x);
}
// `x` has no fraction.
Result<Value> integer(double x, size_t column) {
  if (!(x >= -kTwo63 && x < kTwo63)) return overflow(column);
  return Value(static_cast<int64_t>(x));
}

Result<Value> calculate_integers(Op op, int64_t a, int64_t b, size_t column) {
  int64_t result = 0;
  if (op == Op::kAdd) return __builtin_add_overflow(a, b, &result) ? overflow(column) : Result<Value>(result);
  if (op == Op::kSubtract) return __builtin_sub_overflow(a, b, &result) ? overflow(column) : Result<Value>(result);
  if (op == Op::kMultiply) return __builtin_mul_overflow(a, b, &result) ? overflow(column) : Result<Value>(result);
  if (b == -1) {  // the one divisor whose quotient can overflow, and whose remainder then traps
    if (op == Op::kModulo) return Value(int64_t{0});
    return a == kMin ? overflow(column) : Result<Value>(-a);
  }
  const int64_t remainder = a % b;
  const bool down = remainder != 0 && (remainder < 0) != (b < 0);
  if (op == Op::kFloorDivide) return Value(a / b - (down ? 1 : 0));
  return Value(remainder + (down ? b : 0));
}

}  // namespace

std::optional<Number> to_number(const Value& value) {
  if (const auto* i = value.as<int64_t>()) return Number{true, *i, 0};
  if (const auto* d = value.as<double>()) return Number{false, 0, *d};
  return std::nullopt;
}

int compare(const Number& a, const Number& b) {
  if (a.is_integer && b.is_integer) return a.i < b.i ? -1 : static_cast<int>(a.i > b.i);
  if (!a.is_integer && !b.is_integer) return a.d < b.d ? -1 : static_cast<int>(a.d > b.d);
  if (!a.is_integer) return -compare(b, a);
  if (b.d >= kTwo63) return -1;
  if (b.d < -kTwo63) return 1;
  const double whole = std::floor(b.d);
  const auto floor = static_cast<int64_t>(whole);
  if (a.i != floor) return a.i < floor ? -1 : 1;
  return b.d > whole ? -1 : 0;
}

moe::Result<Value> calculate(Op op, const Number& a, const Number& b, size_t column) {
  const bool divides = op == Op::kDivide || op == Op::kFloorDivide || op == Op::kModulo;
  if (divides && b.real() == 0) return error_at(column, "a divisor other than 0", "0");
  if (a.is_integer && b.is_integer && op != Op::kDivide) return calculate_integers(op, a.i, b.i, column);
  const double x = a.real();
  const double y = b.real();
  if (op == Op::kAdd) return finite(x + y, column);
  if (op == Op::kSubtract) return finite(x - y, column);
  if (op == Op::kMultiply) return finite(x * y, column);
  if (op == Op::kDivide) return finite(x / y, column);
  if (op == Op::kFloorDivide) return finite(std::floor(x / y), column);
  const double remainder = std::fmod(x, y);
  return finite(remainder != 0 && (remainder < 0) != (y < 0) ? remainder + y : remainder, column);
}

moe::Result<Value> negate(const Number& a, size_t column) {
  if (!a.is_integer) return Value(-a.d);
  return a.i == kMin ? overflow(column) : Result<Value>(-a.i);
}

moe::Result<Value> apply(std::string_view function, const Number& a, size_t column) {
  if (function == "abs")
    return a.real() < 0 ? negate(a, column) : Result<Value>(a.is_integer ? Value(a.i) : Value(a.d));
  if (function == "float") return Value(a.real());
  if (function == "sqrt") {
    if (a.real() < 0) return error_at(column, "a number from 0 for sqrt", fmt::format("{}", a.real()));
    return Value(std::sqrt(a.real()));
  }
  if (function == "log") {
    if (!(a.real() > 0)) return error_at(column, "a number above 0 for log", fmt::format("{}", a.real()));
    return Value(std::log(a.real()));
  }
  if (a.is_integer) return Value(a.i);
  if (function == "floor") return integer(std::floor(a.d), column);
  if (function == "ceil") return integer(std::ceil(a.d), column);
  if (function == "round") return integer(std::nearbyint(a.d), column);
  return integer(std::trunc(a.d), column);
}

}  // namespace patchbay::expression
