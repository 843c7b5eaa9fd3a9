// Expressions.
#include <fmt/format.h>

#include "core/model/template/builtins.hpp"
#include "core/model/template/interpreter.hpp"
#include "core/model/template/operators.hpp"
#include "core/model/template/print.hpp"

namespace patchbay::jinja {

Result<Value> Interpreter::eval(const Expr& e) {
  ++depth_;
  Status status = depth_ > budget_.max_depth ? too_deep() : step();
  auto value = status.ok() ? eval_one(e) : Result<Value>(status.error());
  --depth_;
  if (!value.ok() && error_line_ == 0) error_line_ = e.line;
  return value;
}

Result<Value> Interpreter::eval_one(const Expr& e) {
  switch (e.kind) {
    case ExprKind::kConst:
      return e.value;
    case ExprKind::kName:
      return eval_name(e);
    case ExprKind::kTuple:
    case ExprKind::kList: {
      MOE_ASSIGN(std::vector<Value> items, eval_parts(e));
      return list(std::move(items), e.kind == ExprKind::kTuple ? Flavor::kTuple : Flavor::kList);
    }
    case ExprKind::kDict:
      return eval_dict(e);
    case ExprKind::kAttribute: {
      MOE_ASSIGN(const Value of, eval(*e.parts[0]));
      return attribute(of, e.text);
    }
    case ExprKind::kItem:
      return eval_item(e);
    case ExprKind::kSlice:
      return moe::internal("slice outside a subscript");
    case ExprKind::kCall:
      return eval_call(e);
    case ExprKind::kFilter: {
      MOE_ASSIGN(Value input, eval(*e.parts[0]));
      return eval_filter(e, std::move(input));
    }
    case ExprKind::kTest:
      return eval_test(e);
    case ExprKind::kConcat:
      return eval_concat(e);
    case ExprKind::kCompare:
      return eval_compare(e);
    case ExprKind::kIf:
      return eval_if(e);
    default:
      break;
  }
  MOE_ASSIGN(Value left, eval(*e.parts[0]));
  switch (e.kind) {
    case ExprKind::kNot:
      return Value(!left.truthy());
    case ExprKind::kNegate:
      return negate(left);
    case ExprKind::kPlus:
      return plus(left);
    case ExprKind::kAnd:
      return left.truthy() ? eval(*e.parts[1]) : Result<Value>(std::move(left));
    case ExprKind::kOr:
      return left.truthy() ? Result<Value>(std::move(left)) : eval(*e.parts[1]);
    default:
      break;
  }
  MOE_ASSIGN(const Value right, eval(*e.parts[1]));
  return binary(*this, e.op, left, right);
}

Result<Value> Interpreter::eval_name(const Expr& e) {
  if (const Value* value = scope_->find(e.name)) return *value;
  if (Value global = find_global(name_of(e.name)); !global.is_undefined()) return global;
  return Value(Undefined{std::make_shared<const std::string>(fmt::format("'{}' is undefined", name_of(e.name)))});
}

Result<std::vector<Value>> Interpreter::eval_parts(const Expr& e) {
  std::vector<Value> out;
  out.reserve(e.parts.size());
  for (const ExprPtr& part : e.parts) {
    MOE_ASSIGN(Value value, eval(*part));
    out.push_back(std::move(value));
  }
  return out;
}

Result<Value> Interpreter::eval_dict(const Expr& e) {
  MOE_ASSIGN(std::vector<Value> parts, eval_parts(e));
  Dict out;
  for (size_t i = 0; i < parts.size(); i += 2) {
    MOE_TRY(hashable(parts[i]));
    MOE_TRY(step(parts[i].weight()));
    out.set(std::move(parts[i]), std::move(parts[i + 1]));
  }
  return dict(std::move(out));
}

Result<Value> Interpreter::eval_item(const Expr& e) {
  MOE_ASSIGN(const Value of, eval(*e.parts[0]));
  const Expr& index = *e.parts[1];
  if (index.kind != ExprKind::kSlice) {
    MOE_ASSIGN(const Value key, eval(index));
    return item(of, key);
  }
  Value bounds[3] = {Value(None{}), Value(None{}), Value(None{})};
  for (size_t i = 0; i < 3; ++i) {
    if (index.parts[i + 1] == nullptr) continue;
    MOE_ASSIGN(bounds[i], eval(*index.parts[i + 1]));
  }
  return slice(of, bounds[0], bounds[1], bounds[2]);
}

Result<Args> Interpreter::eval_args(const ArgExprs& exprs) {
  Args args;
  for (const ExprPtr& e : exprs.positional) {
    MOE_ASSIGN(Value value, eval(*e));
    args.positional.push_back(std::move(value));
  }
  for (const auto& [name, e] : exprs.named) {
    MOE_ASSIGN(Value value, eval(*e));
    args.named.emplace_back(name, std::move(value));
  }
  if (exprs.star != nullptr) {
    MOE_ASSIGN(const Value more, eval(*exprs.star));
    MOE_ASSIGN(const auto items, iterate(more));
    MOE_TRY(step(items->items.size()));
    args.positional.insert(args.positional.end(), items->items.begin(), items->items.end());
  }
  if (exprs.double_star != nullptr) {
    MOE_ASSIGN(const Value more, eval(*exprs.double_star));
    if (more.dict() == nullptr)
      return moe::invalid(fmt::format("argument after **: expected a mapping, got {}", more.type_name()));
    MOE_TRY(step(more.dict()->entries.size()));
    for (const auto& [key, value] : more.dict()->entries) {
      if (key.str() == nullptr) return moe::invalid("keywords must be strings");
      args.named.emplace_back(key.str()->text, value);
    }
  }
  return args;
}

Result<Value> Interpreter::eval_call(const Expr& e) {
  MOE_ASSIGN(const Value callee, eval(*e.parts[0]));
  MOE_ASSIGN(Args args, eval_args(e.args));
  return call(callee, args);
}

// One filter over an input that is evaluated already.
Result<Value> Interpreter::eval_filter(const Expr& e, Value input) {
  MOE_ASSIGN(Args args, eval_args(e.args));
  return apply_filter(e.text, input, args);
}

// The chain of a filter block or a filtered set block, whose innermost filter has no operand.
Result<Value> Interpreter::eval_filters(const Expr& e, Value input) {
  if (e.parts[0] != nullptr) {
    MOE_ASSIGN(input, eval_filters(*e.parts[0], std::move(input)));
  }
  return eval_filter(e, std::move(input));
}

Result<Value> Interpreter::eval_test(const Expr& e) {
  MOE_ASSIGN(const Value value, eval(*e.parts[0]));
  MOE_ASSIGN(Args args, eval_args(e.args));
  MOE_ASSIGN(const bool holds, apply_test(e.text, value, args));
  return Value(holds);
}

Result<Value> Interpreter::eval_concat(const Expr& e) {
  std::string out;
  for (const ExprPtr& part : e.parts) {
    MOE_ASSIGN(const Value value, eval(*part));
    MOE_TRY(append_text(*this, out, value));
  }
  return text(std::move(out));
}

Result<Value> Interpreter::eval_compare(const Expr& e) {
  MOE_ASSIGN(Value left, eval(*e.parts[0]));
  for (size_t i = 0; i < e.ops.size(); ++i) {
    MOE_ASSIGN(Value right, eval(*e.parts[i + 1]));
    MOE_ASSIGN(const bool holds, compare(*this, e.ops[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Result<Value> Interpreter::eval_if(const Expr& e) {
  MOE_ASSIGN(const Value condition, eval(*e.parts[1]));
  if (condition.truthy()) return eval(*e.parts[0]);
  if (e.parts[2] != nullptr) return eval(*e.parts[2]);
  return Value(Undefined{std::make_shared<const std::string>(
      "the inline if-expression evaluated to false and no else section was defined.")});
}

}  // namespace patchbay::jinja
