// The tests of `x is test`.
#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/builtins.hpp"
#include "core/model/template/operators.hpp"
#include "core/model/template/print.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

// A test of the value alone.
template <bool (*holds)(const Value&)>
Result<bool> plain(Interpreter&, const Value& input, Args& args) {
  MOE_TRY(Params::bind("test", args, {}));
  return holds(input);
}

bool is_defined(const Value& v) { return !v.is_undefined(); }
bool is_undefined(const Value& v) { return v.is_undefined(); }
bool is_none(const Value& v) { return v.is_none(); }
bool is_string(const Value& v) { return v.str() != nullptr; }
bool is_boolean(const Value& v) { return v.boolean() != nullptr; }
bool is_integer(const Value& v) { return v.integer() != nullptr; }
bool is_float(const Value& v) { return v.real() != nullptr; }
bool is_number(const Value& v) { return v.as_number().has_value(); }
bool is_true(const Value& v) { return v.boolean() != nullptr && *v.boolean(); }
bool is_false(const Value& v) { return v.boolean() != nullptr && !*v.boolean(); }
bool is_mapping(const Value& v) { return v.dict() != nullptr; }
bool is_callable(const Value& v) { return v.is_undefined() || (v.object() != nullptr && v.object()->callable()); }
bool is_escaped(const Value& v) { return v.str() != nullptr && v.str()->markup; }
bool is_iterable(const Value& v) {
  return v.is_undefined() || v.str() != nullptr || v.list() != nullptr || v.dict() != nullptr;
}
// What has a length and elements by number or key.
bool is_sequence(const Value& v) {
  const List* l = v.list();
  return v.is_undefined() || v.str() != nullptr || v.dict() != nullptr || (l != nullptr && l->flavor <= Flavor::kRange);
}

Result<bool> remainder_is(Interpreter& in, const Value& input, int64_t divisor, int64_t wanted) {
  MOE_ASSIGN(const Value rest, binary(in, Op::kMod, input, Value(divisor)));
  return equal(rest, Value(wanted));
}

Result<bool> is_odd(Interpreter& in, const Value& input, Args&) { return remainder_is(in, input, 2, 1); }
Result<bool> is_even(Interpreter& in, const Value& input, Args&) { return remainder_is(in, input, 2, 0); }

Result<bool> is_divisible(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("divisibleby", args, {"num"}, 1));
  MOE_ASSIGN(const Value rest, binary(in, Op::kMod, input, *p.get(0)));
  return equal(rest, Value(int64_t{0}));
}

template <Op op>
Result<bool> compared(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("comparison", args, {"other"}, 1));
  return compare(in, op, input, *p.get(0));
}

Result<bool> same_as(Interpreter&, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("sameas", args, {"other"}, 1));
  const Value& other = *p.get(0);
  if (input.list() != nullptr || input.dict() != nullptr)
    return input.list() == other.list() && input.dict() == other.dict();
  return input.type_name() == other.type_name() && equal(input, other);
}

// str(x).islower() and isupper(): some cased character, and none of the other case.
template <CharClass wanted, CharClass other>
Result<bool> has_case(Interpreter& in, const Value& input, Args&) {
  MOE_ASSIGN(const std::string text, to_text(in, input));
  bool some = false;
  for (const std::string_view c : split_chars(text)) {
    if (is_class(decode(c), other)) return false;
    some |= is_class(decode(c), wanted);
  }
  return some;
}

template <bool exists(std::string_view)>
Result<bool> names(Interpreter&, const Value& input, Args&) {
  return input.str() != nullptr && exists(input.str()->text);
}
bool filter_exists(std::string_view name) { return find_filter(name) != nullptr; }
bool test_exists(std::string_view name) { return find_test(name) != nullptr; }

constexpr Named<TestFn> kTests[] = {
    {"!=", compared<Op::kNe>},
    {"<", compared<Op::kLt>},
    {"<=", compared<Op::kLe>},
    {"==", compared<Op::kEq>},
    {">", compared<Op::kGt>},
    {">=", compared<Op::kGe>},
    {"boolean", plain<is_boolean>},
    {"callable", plain<is_callable>},
    {"defined", plain<is_defined>},
    {"divisibleby", is_divisible},
    {"eq", compared<Op::kEq>},
    {"equalto", compared<Op::kEq>},
    {"escaped", plain<is_escaped>},
    {"even", is_even},
    {"false", plain<is_false>},
    {"filter", names<filter_exists>},
    {"float", plain<is_float>},
    {"ge", compared<Op::kGe>},
    {"greaterthan", compared<Op::kGt>},
    {"gt", compared<Op::kGt>},
    {"in", compared<Op::kIn>},
    {"integer", plain<is_integer>},
    {"iterable", plain<is_iterable>},
    {"le", compared<Op::kLe>},
    {"lessthan", compared<Op::kLt>},
    {"lower", has_case<CharClass::kLower, CharClass::kUpper>},
    {"lt", compared<Op::kLt>},
    {"mapping", plain<is_mapping>},
    {"ne", compared<Op::kNe>},
    {"none", plain<is_none>},
    {"number", plain<is_number>},
    {"odd", is_odd},
    {"sameas", same_as},
    {"sequence", plain<is_sequence>},
    {"string", plain<is_string>},
    {"test", names<test_exists>},
    {"true", plain<is_true>},
    {"undefined", plain<is_undefined>},
    {"upper", has_case<CharClass::kUpper, CharClass::kLower>},
};

}  // namespace

TestFn find_test(std::string_view name) { return find_named(kTests, name); }

}  // namespace patchbay::jinja
