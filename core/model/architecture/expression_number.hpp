// Checked arithmetic on integers and numbers. Used by expression.cpp alone.
#pragma once

#include <optional>
#include <string_view>

#include "core/model/architecture/expression_parser.hpp"

namespace patchbay::expression {

// An integer (`i`) or a finite double (`d`).
struct Number {
  bool is_integer = true;
  int64_t i = 0;
  double d = 0;

  [[nodiscard]] double real() const { return is_integer ? static_cast<double>(i) : d; }
};

// Nothing if the value is neither an integer nor a number. A bool is neither.
std::optional<Number> to_number(const Value& value);

// -1, 0 or 1, exactly: an integer is not rounded to be compared with a double.
int compare(const Number& a, const Number& b);

// a op b for + - * / // %. Integers give integers (but for /), anything with a double a double; // and % round towards
// minus infinity, as in Python. Overflow, a zero divisor and a result that is not finite are errors at `column`.
moe::Result<Value> calculate(Op op, const Number& a, const Number& b, size_t column);
moe::Result<Value> negate(const Number& a, size_t column);

// abs, int (towards zero), float, sqrt, floor, ceil, log (natural), round (to integer, halves to even).
moe::Result<Value> apply(std::string_view function, const Number& a, size_t column);

}  // namespace patchbay::expression
