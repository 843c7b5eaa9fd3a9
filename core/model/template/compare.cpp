// Comparisons.
#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/builtins.hpp"
#include "core/model/template/operators.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

moe::Error no_order(const Value& a, const Value& b) {
  if (a.is_undefined()) return undefined_error(a);
  if (b.is_undefined()) return undefined_error(b);
  return moe::invalid(
      fmt::format("'<' not supported between instances of '{}' and '{}'", a.type_name(), b.type_name()));
}

// Walking two values costs what the smaller weighs.
Status pay_for(Interpreter& in, const Value& a, const Value& b) {
  return in.step(std::min(a.weight(), b.weight()) - 1);
}

bool less_numbers(const Value& a, const Value& b) {
  const auto x = a.as_int();
  const auto y = b.as_int();
  if (x && y) return *x < *y;
  const long double p = x ? static_cast<long double>(*x) : static_cast<long double>(*a.real());
  const long double q = y ? static_cast<long double>(*y) : static_cast<long double>(*b.real());
  return p < q;
}

bool ordered_list(const List* l) { return l != nullptr && (l->flavor == Flavor::kList || l->flavor == Flavor::kTuple); }

Result<bool> ordered(Interpreter& in, Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::kGt:
      return less(in, b, a);
    case Op::kLt:
      return less(in, a, b);
    default:
      break;
  }
  const Value& low = op == Op::kLe ? a : b;
  const Value& high = op == Op::kLe ? b : a;
  MOE_ASSIGN(const bool below, less(in, low, high));
  return below || equal(low, high);
}

}  // namespace

Result<bool> less(Interpreter& in, const Value& a, const Value& b) {
  if (a.as_number() && b.as_number()) return less_numbers(a, b);
  MOE_TRY(pay_for(in, a, b));
  if (a.str() != nullptr && b.str() != nullptr) return a.str()->text < b.str()->text;  // UTF-8 sorts as code points do
  const List* x = a.list();
  const List* y = b.list();
  if (!ordered_list(x) || !ordered_list(y) || x->flavor != y->flavor) return no_order(a, b);
  for (size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i) {
    if (!equal(x->items[i], y->items[i])) return less(in, x->items[i], y->items[i]);
  }
  return x->items.size() < y->items.size();
}

Result<bool> contains(Interpreter& in, const Value& container, const Value& item) {
  if (const Str* s = container.str()) {
    if (item.str() == nullptr)
      return moe::invalid(fmt::format("'in <string>' requires string as left operand, not {}", item.type_name()));
    MOE_TRY(in.pay_bytes(s->text.size()));
    return find_text(s->text, item.str()->text) != std::string_view::npos;
  }
  if (const Dict* d = container.dict()) {
    MOE_TRY(hashable(item));
    MOE_TRY(in.step(item.weight()));
    return d->find(item) != nullptr;
  }
  if (container.is_undefined()) return false;
  if (container.list() == nullptr) {
    return moe::invalid(fmt::format("argument of type '{}' is not iterable", container.type_name()));
  }
  MOE_ASSIGN(const auto items, in.iterate(container));
  for (const Value& candidate : items->items) {
    MOE_TRY(in.step(std::min(candidate.weight(), item.weight())));
    if (equal(candidate, item)) return true;
  }
  return false;
}

Result<bool> compare(Interpreter& in, Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::kEq:
    case Op::kNe:
      MOE_TRY(pay_for(in, a, b));
      return equal(a, b) == (op == Op::kEq);
    case Op::kIn:
      return contains(in, b, a);
    case Op::kNotIn: {
      MOE_ASSIGN(const bool inside, contains(in, b, a));
      return !inside;
    }
    default:
      return ordered(in, op, a, b);
  }
}

}  // namespace patchbay::jinja
