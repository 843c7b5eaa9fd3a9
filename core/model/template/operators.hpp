// Operators with Python's meaning.
#pragma once

#include "core/model/template/interpreter.hpp"

namespace patchbay::jinja {

// a + b and the other arithmetic operators.
Result<Value> binary(Interpreter& in, Op op, const Value& a, const Value& b);
Result<Value> negate(const Value& a);
Result<Value> plus(const Value& a);
// a == b and the other comparisons, `in` included.
Result<bool> compare(Interpreter& in, Op op, const Value& a, const Value& b);
// a < b, or an error for types that have no order.
Result<bool> less(Interpreter& in, const Value& a, const Value& b);
// Whether `item` is in `container`.
Result<bool> contains(Interpreter& in, const Value& container, const Value& item);

}  // namespace patchbay::jinja
