#include "core/model/architecture/expression.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <compare>
#include <optional>

#include "core/model/architecture/expression_number.hpp"
#include "core/model/architecture/expression_parser.hpp"

namespace patchbay {
namespace expression {
namespace {

using moe::Result;
using moe::Status;
using nlohmann::json;

// What a node evaluates to. Maps and lists of config.json are looked into where they lie and copied only when a list
// itself is wanted.
struct Operand {
  Value value;
  const json* in_config = nullptr;  // a list or a map
  int missing = -1;                 // the node whose key is not there

  [[nodiscard]] bool is_missing() const { return missing >= 0; }
  [[nodiscard]] bool is_null() const { return in_config == nullptr && !is_missing() && value.is_null(); }
  [[nodiscard]] bool is_map() const { return in_config != nullptr && in_config->is_object(); }
};

std::string describe(const Value& value) {
  if (const auto* s = value.as<std::string>()) {
    std::string shown;
    for (const char c : s->substr(0, 40)) shown += (c >= 0x20 && c < 0x7f) ? c : '?';
    return fmt::format("'{}'", shown);
  }
  if (const auto* b = value.as<bool>()) return *b ? "true" : "false";
  if (const auto* i = value.as<int64_t>()) return std::to_string(*i);
  if (const auto* d = value.as<double>()) return fmt::format("{}", *d);
  return std::string(type_name(value));
}
std::string describe(const Operand& operand) {
  if (operand.in_config == nullptr) return describe(operand.value);
  return operand.is_map() ? "a map" : "a list";
}

bool equal(const Value& a, const Value& b) {
  const auto x = to_number(a);
  const auto y = to_number(b);
  if (x && y) return compare(*x, *y) == 0;
  const auto* l = a.as<Value::List>();
  const auto* m = b.as<Value::List>();
  if (l != nullptr && m != nullptr) return std::equal(l->begin(), l->end(), m->begin(), m->end(), equal);
  return a == b;
}

class Evaluator {
 public:
  Evaluator(const Ast& ast, const json& config, const std::map<std::string, Value>& variables)
      : ast_(ast), config_(config), variables_(variables) {}

  Result<Value> run() { return plain(ast_.root); }

 private:
  const Node& node(int index) const { return ast_.nodes[static_cast<size_t>(index)]; }

  Status charge(const Node& at, int64_t steps) {
    steps_ += steps;
    if (steps_ > kMaxSteps) return error_at(at.column, fmt::format("at most {} steps", kMaxSteps), "more");
    return {};
  }

  // -- values of children
  // ------------------------------------------------------------------------------------------------------------

  [[nodiscard]] std::string path(int index) const {
    const Node& n = node(index);
    if (n.op == Op::kName) return n.text;
    if (n.op == Op::kMember) return path(n.children[0]) + "." + n.text;
    if (n.op == Op::kIndex) return path(n.children[0]) + "[...]";
    return "(...)";
  }

  // A value that is there and no map; lists are copied.
  Result<Value> plain(int index) {
    MOE_ASSIGN(Operand operand, present(index));
    if (operand.in_config == nullptr) return std::move(operand.value);
    if (operand.is_map()) return error_at(node(index).column, "a value", "a map");
    return copy(node(index), *operand.in_config, 0);
  }
  Result<Operand> present(int index) {
    MOE_ASSIGN(Operand operand, evaluate(index));
    if (operand.is_missing()) {
      return error_at(node(operand.missing).column, fmt::format("key '{}' in config.json", path(operand.missing)),
                      "none");
    }
    return operand;
  }
  Result<Number> number(int index) {
    MOE_ASSIGN(const Operand operand, present(index));
    const auto n = operand.in_config == nullptr ? to_number(operand.value) : std::nullopt;
    if (!n) return error_at(node(index).column, "a number", describe(operand));
    return *n;
  }
  Result<bool> boolean(int index) {
    MOE_ASSIGN(const Operand operand, present(index));
    const auto* b = operand.in_config == nullptr ? operand.value.as<bool>() : nullptr;
    if (b == nullptr) return error_at(node(index).column, "true or false", describe(operand));
    return *b;
  }

  // -- looking up
  // --------------------------------------------------------------------------------------------------------------------

  Result<Value> scalar(const Node& at, const json& j) {
    if (j.is_boolean()) return Value(j.get<bool>());
    if (j.is_number_unsigned() && j.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      return error_at(at.column, "an integer below 2^63", std::to_string(j.get<uint64_t>()));
    }
    if (j.is_number_integer()) return Value(j.get<int64_t>());
    if (j.is_number_float()) {
      if (!std::isfinite(j.get<double>()))
        return error_at(at.column, "a finite number", fmt::format("{}", j.get<double>()));
      return Value(j.get<double>());
    }
    if (j.is_string()) {
      const auto& s = j.get_ref<const std::string&>();
      MOE_TRY(charge(at, static_cast<int64_t>(s.size() / 16)));
      return Value(s);
    }
    return Value();
  }
  Result<Operand> found(const Node& at, const json& j) {
    Operand operand;
    if (j.is_structured()) {
      operand.in_config = &j;
    } else {
      MOE_ASSIGN(operand.value, scalar(at, j));
    }
    return operand;
  }
  Result<Value> copy(const Node& at, const json& j, int depth) {
    if (j.is_object()) return error_at(at.column, "a list of values", "a list that holds a map");
    if (!j.is_array()) return scalar(at, j);
    if (depth == kMaxDepth)
      return error_at(at.column, fmt::format("a list at most {} deep", kMaxDepth), "a deeper one");
    MOE_TRY(charge(at, static_cast<int64_t>(std::min<size_t>(j.size(), kMaxSteps + 1))));
    Value::List list;
    list.reserve(j.size());
    for (const auto& element : j) {
      MOE_ASSIGN(Value value, copy(at, element, depth + 1));
      list.push_back(std::move(value));
    }
    return Value(std::move(list));
  }
  // A variable's value costs what a value of config.json costs, and is checked like one.
  Status check_copy(const Node& at, const Value& value) {
    if (const auto* s = value.as<std::string>()) return charge(at, static_cast<int64_t>(s->size() / 16));
    if (const auto* d = value.as<double>(); d != nullptr && !std::isfinite(*d)) {
      return error_at(at.column, "a finite number", fmt::format("{}", *d));
    }
    const auto* list = value.as<Value::List>();
    if (list == nullptr) return {};
    MOE_TRY(charge(at, static_cast<int64_t>(std::min<size_t>(list->size(), kMaxSteps + 1))));
    for (const auto& element : *list) MOE_TRY(check_copy(at, element));
    return {};
  }

  Result<Operand> name(int index) {
    const Node& n = node(index);
    Operand operand;
    if (const auto it = variables_.find(n.text); it != variables_.end()) {
      MOE_TRY(check_copy(n, it->second));
      operand.value = it->second;
      return operand;
    }
    return key(index, config_, n.text);
  }
  Result<Operand> key(int index, const json& map, const std::string& text) {
    const auto it = map.is_object() ? map.find(text) : map.end();
    if (it != map.end()) return found(node(index), *it);
    Operand operand;
    operand.missing = index;
    return operand;
  }
  Result<Operand> member(int index) {
    const Node& n = node(index);
    MOE_ASSIGN(Operand base, evaluate(n.children[0]));
    if (base.is_missing()) return base;
    if (base.is_null()) base.missing = index;
    if (base.is_missing()) return base;
    if (!base.is_map()) return error_at(n.column, fmt::format("a map before '.{}'", n.text), describe(base));
    return key(index, *base.in_config, n.text);
  }
  Result<Operand> at_index(int index) {
    const Node& n = node(index);
    MOE_ASSIGN(Operand base, evaluate(n.children[0]));
    if (base.is_missing()) return base;
    MOE_ASSIGN(const Value where, plain(n.children[1]));
    if (base.is_null()) base.missing = index;
    if (base.is_missing()) return base;
    if (base.is_map()) {
      const auto* text = where.as<std::string>();
      if (text == nullptr) return error_at(n.column, "a string as key of this map", describe(where));
      return key(index, *base.in_config, *text);
    }
    const auto* list = base.value.as<Value::List>();
    if (base.in_config == nullptr && list == nullptr)
      return error_at(n.column, "a list or a map before '['", describe(base));
    const auto* i = where.as<int64_t>();
    if (i == nullptr) return error_at(n.column, "an integer as index of this list", describe(where));
    const auto size = static_cast<int64_t>(base.in_config != nullptr ? base.in_config->size() : list->size());
    if (*i < -size || *i >= size) {
      return error_at(n.column, fmt::format("an index of this list of {}", size), std::to_string(*i));
    }
    const auto at = static_cast<size_t>(*i < 0 ? *i + size : *i);
    if (base.in_config != nullptr) return found(n, (*base.in_config)[at]);
    Operand operand;
    operand.value = (*list)[at];
    return operand;
  }

  // -- operators
  // ---------------------------------------------------------------------------------------------------------------------

  Result<Value> arithmetic(const Node& n) {
    MOE_ASSIGN(const Number a, number(n.children[0]));
    if (n.op == Op::kNegate) return negate(a, n.column);
    MOE_ASSIGN(const Number b, number(n.children[1]));
    return calculate(n.op, a, b, n.column);
  }

  Result<Value> equality(const Node& n) {
    MOE_ASSIGN(const Operand a, present(n.children[0]));
    MOE_ASSIGN(const Operand b, present(n.children[1]));
    bool same = false;
    if (a.is_map() && b.is_map()) return error_at(n.column, "values to compare", "two maps");
    if (!a.is_map() && !b.is_map()) {  // a map equals nothing that an expression can write, null among it
      MOE_ASSIGN(const Value x, plain_of(n, a));
      MOE_ASSIGN(const Value y, plain_of(n, b));
      same = equal(x, y);
    }
    return Value(same == (n.op == Op::kEqual));
  }
  Result<Value> plain_of(const Node& n, const Operand& operand) {
    if (operand.in_config == nullptr) return operand.value;
    return copy(n, *operand.in_config, 0);
  }

  Result<Value> ordering(const Node& n) {
    MOE_ASSIGN(const Value a, plain(n.children[0]));
    MOE_ASSIGN(const Value b, plain(n.children[1]));
    const auto x = to_number(a);
    const auto y = to_number(b);
    const auto* s = a.as<std::string>();
    const auto* t = b.as<std::string>();
    int sign = 0;
    if (x && y) {
      sign = compare(*x, *y);
    } else if (s != nullptr && t != nullptr) {
      const int c = s->compare(*t);
      sign = c < 0 ? -1 : static_cast<int>(c > 0);
    } else {
      return error_at(n.column, "two numbers or two strings", fmt::format("{} and {}", describe(a), describe(b)));
    }
    if (n.op == Op::kLess) return Value(sign < 0);
    if (n.op == Op::kLessEqual) return Value(sign <= 0);
    if (n.op == Op::kGreater) return Value(sign > 0);
    return Value(sign >= 0);
  }

  Result<Value> membership(const Node& n) {
    MOE_ASSIGN(const Value what, plain(n.children[0]));
    MOE_ASSIGN(const Operand where, present(n.children[1]));
    const auto* text = what.as<std::string>();
    bool in = false;
    if (where.is_map()) {
      if (text == nullptr) return error_at(n.column, "a string to look for in a map", describe(what));
      in = where.in_config->contains(*text);
    } else {
      MOE_ASSIGN(const Value value, plain_of(n, where));
      const auto* list = value.as<Value::List>();
      const auto* whole = value.as<std::string>();
      if (list != nullptr) {
        in = std::any_of(list->begin(), list->end(), [&](const Value& v) { return equal(v, what); });
      } else if (whole != nullptr && text != nullptr) {
        in = whole->find(*text) != std::string::npos;
      } else {
        return error_at(n.column, "a list, a map or two strings with 'in'",
                        fmt::format("{} and {}", describe(what), describe(value)));
      }
    }
    return Value(in == (n.op == Op::kIn));
  }

  Result<Value> logic(const Node& n) {
    MOE_ASSIGN(const bool a, boolean(n.children[0]));
    if (n.op == Op::kNot) return Value(!a);
    if (a == (n.op == Op::kOr)) return Value(a);
    MOE_ASSIGN(const bool b, boolean(n.children[1]));
    return Value(b);
  }

  Result<Value> list(const Node& n) {
    Value::List values;
    values.reserve(n.children.size());
    for (const int child : n.children) {
      MOE_ASSIGN(Value value, plain(child));
      values.push_back(std::move(value));
    }
    return Value(std::move(values));
  }

  // -- functions
  // ---------------------------------------------------------------------------------------------------------------------

  Result<Value> call(const Node& n) {
    if (n.text == "has") {
      MOE_ASSIGN(const Operand operand, evaluate(n.children[0]));
      return Value(!operand.is_missing() && !operand.is_null());
    }
    if (n.text == "len") return length(n);
    if (n.text == "each") return each(n);
    if (n.text == "min" || n.text == "max") return extreme(n);
    MOE_ASSIGN(const Value value, plain(n.children[0]));
    std::optional<Number> argument = to_number(value);
    if (const auto* b = value.as<bool>(); b != nullptr && (n.text == "int" || n.text == "float")) {
      argument = Number{true, *b ? 1 : 0, 0};
    }
    if (!argument) return error_at(n.column, fmt::format("a number for {}", n.text), describe(value));
    return apply(n.text, *argument, n.column);
  }
  Result<Value> length(const Node& n) {
    MOE_ASSIGN(const Operand operand, present(n.children[0]));
    if (operand.in_config != nullptr) return Value(static_cast<int64_t>(operand.in_config->size()));
    if (const auto* l = operand.value.as<Value::List>()) return Value(static_cast<int64_t>(l->size()));
    if (const auto* s = operand.value.as<std::string>()) return Value(static_cast<int64_t>(s->size()));
    return error_at(n.column, "a list, a map or a string for len", describe(operand));
  }
  // Element i of a list; anything else stands for all elements.
  Result<Value> each(const Node& n) {
    MOE_ASSIGN(const Value all, plain(n.children[0]));
    MOE_ASSIGN(const Value where, plain(n.children[1]));
    const auto* list = all.as<Value::List>();
    if (list == nullptr) return all;
    const auto* i = where.as<int64_t>();
    const auto size = static_cast<int64_t>(list->size());
    if (i == nullptr || *i < 0 || *i >= size) {
      return error_at(n.column, fmt::format("an index of this list of {}", size), describe(where));
    }
    return (*list)[static_cast<size_t>(*i)];
  }
  // Of the arguments, or of the elements of the one list given. The first of equals.
  Result<Value> extreme(const Node& n) {
    MOE_ASSIGN(Value values, n.children.size() == 1 ? plain(n.children[0]) : list(n));
    const auto* all = values.as<Value::List>();
    if (all == nullptr) return error_at(n.column, fmt::format("numbers or a list for {}", n.text), describe(values));
    if (all->empty()) return error_at(n.column, fmt::format("at least one number for {}", n.text), "an empty list");
    const Value* best = nullptr;
    for (const auto& value : *all) {
      const auto x = to_number(value);
      if (!x) return error_at(n.column, fmt::format("numbers for {}", n.text), describe(value));
      const int sign = best == nullptr ? -1 : compare(*x, *to_number(*best));
      if (best == nullptr || (n.text == "min" ? sign < 0 : sign > 0)) best = &value;
    }
    return *best;
  }

  // -- the tree
  // ----------------------------------------------------------------------------------------------------------------------

  // Recurses at most as deep as the tree, which the parser bounds.
  Result<Operand> evaluate(int index) {
    const Node& n = node(index);
    MOE_TRY(charge(n, 1));
    if (n.op == Op::kName) return name(index);
    if (n.op == Op::kMember) return member(index);
    if (n.op == Op::kIndex) return at_index(index);
    if (n.op == Op::kCoalesce) {
      MOE_ASSIGN(Operand first, evaluate(n.children[0]));
      if (first.is_missing() || first.is_null()) return evaluate(n.children[1]);
      return first;
    }
    if (n.op == Op::kConditional) {
      MOE_ASSIGN(const bool condition, boolean(n.children[0]));
      return evaluate(n.children[condition ? 1 : 2]);
    }
    Operand operand;
    MOE_ASSIGN(operand.value, computed(n));
    return operand;
  }
  Result<Value> computed(const Node& n) {
    switch (n.op) {
      case Op::kLiteral:
        return n.literal;
      case Op::kList:
        return list(n);
      case Op::kCall:
        return call(n);
      case Op::kEqual:
      case Op::kNotEqual:
        return equality(n);
      case Op::kLess:
      case Op::kLessEqual:
      case Op::kGreater:
      case Op::kGreaterEqual:
        return ordering(n);
      case Op::kIn:
      case Op::kNotIn:
        return membership(n);
      case Op::kNot:
      case Op::kAnd:
      case Op::kOr:
        return logic(n);
      default:
        return arithmetic(n);
    }
  }

  const Ast& ast_;
  const json& config_;
  const std::map<std::string, Value>& variables_;
  int64_t steps_ = 0;
};

}  // namespace
}  // namespace expression

std::string_view type_name(const Value& value) {
  static constexpr std::string_view kNames[] = {"null", "a bool", "an integer", "a number", "a string", "a list"};
  static_assert(std::size(kNames) == std::variant_size_v<Value::Variant>);
  return kNames[value.data.index()];
}

moe::Result<Expression> Expression::parse(std::string_view text) {
  MOE_ASSIGN(expression::Ast ast, expression::parse(text));
  return Expression(std::make_shared<const expression::Ast>(std::move(ast)));
}

moe::Result<Value> Expression::evaluate(const nlohmann::json& config,
                                        const std::map<std::string, Value>& variables) const {
  return expression::Evaluator(*ast_, config, variables).run();
}

}  // namespace patchbay
