// Statements.
#include <fmt/format.h>

#include "core/model/template/interpreter.hpp"
#include "core/model/template/objects.hpp"
#include "core/model/template/print.hpp"

namespace patchbay::jinja {

Status Interpreter::too_deep() const {
  return moe::exhausted(fmt::format("template: expected at most {} nested evaluations, got more", budget_.max_depth));
}

Status Interpreter::write(std::string_view text) {
  MOE_TRY(pay_bytes(text.size()));
  written_bytes_ += text.size();
  if (written_bytes_ > budget_.max_output_bytes) {
    return moe::exhausted(
        fmt::format("template: expected at most {} bytes of output, got more", budget_.max_output_bytes));
  }
  out_->append(text);
  return {};
}

// What `body` writes, instead of writing it.
Result<std::string> Interpreter::capture(const std::function<Status()>& body) {
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  const size_t before = written_bytes_;
  const Status status = body();
  out_ = outer;
  written_bytes_ = before;
  if (!status.ok()) return status.error();
  return text;
}

Result<Flow> Interpreter::exec(const Body& body) {
  for (const auto& s : body) {
    MOE_ASSIGN(const Flow flow, exec(*s));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Result<Flow> Interpreter::exec(const Stmt& s) {
  ++depth_;
  Status status = depth_ > budget_.max_depth ? too_deep() : step();
  auto flow = status.ok() ? exec_one(s) : Result<Flow>(status.error());
  --depth_;
  if (!flow.ok() && error_line_ == 0) error_line_ = s.line;
  return flow;
}

Result<Flow> Interpreter::exec_one(const Stmt& s) {
  Status status;
  switch (s.kind) {
    case StmtKind::kText:
      status = write(s.text);
      break;
    case StmtKind::kOutput:
      status = exec_output(s);
      break;
    case StmtKind::kSet: {
      MOE_ASSIGN(Value value, eval(*s.expr));
      status = assign(s.target, std::move(value));
      break;
    }
    case StmtKind::kSetBlock:
      status = exec_set_block(s);
      break;
    case StmtKind::kIf:
      return exec_if(s);
    case StmtKind::kFor: {
      MOE_ASSIGN(const Value items, eval(*s.expr));
      status = exec_for(s, items, 1);
      break;
    }
    case StmtKind::kWith:
      return exec_with(s);
    case StmtKind::kMacro:
      status = exec_macro(s);
      break;
    case StmtKind::kCall:
      status = exec_call_block(s);
      break;
    case StmtKind::kFilterBlock:
      status = exec_filter_block(s);
      break;
    case StmtKind::kScope: {
      const InScope inner(*this, scope_);
      return exec(s.body);
    }
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  if (!status.ok()) return status.error();
  return Flow::kNext;
}

Status Interpreter::exec_output(const Stmt& s) {
  MOE_ASSIGN(const Value value, eval(*s.expr));
  if (const Str* str = value.str()) return write(str->text);  // the usual case, without a copy
  MOE_ASSIGN(const std::string text, to_text(*this, value));
  return write(text);
}

Result<Flow> Interpreter::exec_if(const Stmt& s) {
  for (const auto& [condition, body] : s.branches) {
    MOE_ASSIGN(const Value value, eval(*condition));
    if (value.truthy()) return exec(body);
  }
  return exec(s.otherwise);
}

Result<Flow> Interpreter::exec_with(const Stmt& s) {
  std::vector<Value> values;
  for (const ExprPtr& e : s.values) {  // all seen from outside, before any is set
    MOE_ASSIGN(Value value, eval(*e));
    values.push_back(std::move(value));
  }
  const InScope inner(*this, scope_);
  for (size_t i = 0; i < values.size(); ++i) MOE_TRY(assign(s.targets[i], std::move(values[i])));
  return exec(s.body);
}

Status Interpreter::exec_set_block(const Stmt& s) {
  MOE_ASSIGN(std::string captured, capture([&]() -> Status {
               const InScope inner(*this, scope_);
               const auto flow = exec(s.body);
               return flow.ok() ? Status{} : Status(flow.error());
             }));
  MOE_ASSIGN(Value value, text(std::move(captured)));
  if (s.expr != nullptr) {
    MOE_ASSIGN(value, eval_filters(*s.expr, std::move(value)));
  }
  return assign(s.target, std::move(value));
}

Status Interpreter::exec_filter_block(const Stmt& s) {
  MOE_ASSIGN(std::string captured, capture([&]() -> Status {
               const InScope inner(*this, scope_);
               const auto flow = exec(s.body);
               return flow.ok() ? Status{} : Status(flow.error());
             }));
  MOE_ASSIGN(Value value, text(std::move(captured)));
  MOE_ASSIGN(value, eval_filters(*s.expr, std::move(value)));
  MOE_ASSIGN(const std::string out, to_text(*this, value));
  return write(out);
}

Status Interpreter::exec_macro(const Stmt& s) {
  MOE_TRY(pin(scope_));
  scope_->set(s.name, Value(std::shared_ptr<Object>(std::make_shared<Macro>(s, scope_, name_of(s.name)))));
  return {};
}

Status Interpreter::exec_call_block(const Stmt& s) {
  MOE_TRY(pin(scope_));
  MOE_ASSIGN(const Value callee, eval(*s.expr->parts[0]));
  MOE_ASSIGN(Args args, eval_args(s.expr->args));
  args.named.emplace_back("caller", Value(std::shared_ptr<Object>(std::make_shared<Macro>(s, scope_, "caller"))));
  MOE_ASSIGN(const Value value, call(callee, args));
  MOE_ASSIGN(const std::string out, to_text(*this, value));
  return write(out);
}

Status Interpreter::assign(const Target& target, Value value) {
  if (!target.attribute.empty()) {
    const Value* holder = scope_->find(target.name);
    auto* space = holder == nullptr ? nullptr : dynamic_cast<Namespace*>(holder->object());
    if (space == nullptr) return moe::invalid("cannot assign attribute on non-namespace object");
    return space->set(*this, target.attribute, std::move(value));
  }
  if (target.parts.empty()) {
    scope_->set(target.name, std::move(value));
    return {};
  }
  MOE_ASSIGN(const std::shared_ptr<const List> items, iterate(value));
  if (items->items.size() != target.parts.size()) {
    return moe::invalid(fmt::format("unpacking: expected {} values, got {}", target.parts.size(), items->items.size()));
  }
  for (size_t i = 0; i < items->items.size(); ++i) {
    MOE_TRY(step());
    MOE_TRY(assign(target.parts[i], items->items[i]));
  }
  return {};
}

// The items that pass the loop's own "if".
Result<std::shared_ptr<const List>> Interpreter::filtered(const Stmt& s, std::shared_ptr<const List> items) {
  if (s.test == nullptr) return items;
  std::vector<Value> passed;
  for (const Value& item : items->items) {
    const InScope inner(*this, scope_);
    MOE_TRY(assign(s.target, item));
    MOE_ASSIGN(const Value keep_it, eval(*s.test));
    if (keep_it.truthy()) passed.push_back(item);
  }
  MOE_ASSIGN(const Value kept, list(std::move(passed)));
  return kept.shared_list();
}

Status Interpreter::exec_for(const Stmt& s, const Value& iterable, size_t level) {
  MOE_ASSIGN(std::shared_ptr<const List> items, iterate(iterable));
  MOE_ASSIGN(items, filtered(s, std::move(items)));
  if (items->items.empty()) {
    const InScope inner(*this, scope_);
    const auto flow = exec(s.otherwise);
    return flow.ok() ? Status{} : Status(flow.error());
  }
  const auto found = program_.ids.find("loop");
  const auto loop = std::make_shared<Loop>(s, scope_, items, level);
  if (s.recursive) MOE_TRY(pin(scope_));
  for (size_t i = 0; i < items->items.size(); ++i) {
    MOE_TRY(step());
    const InScope inner(*this, scope_);
    if (found != program_.ids.end()) scope_->set(found->second, Value(std::shared_ptr<Object>(loop)));
    loop->index0 = i;
    MOE_TRY(assign(s.target, items->items[i]));
    MOE_ASSIGN(const Flow flow, exec(s.body));
    if (flow == Flow::kBreak) break;
  }
  return {};
}

// loop(items) within a recursive loop: its text.
Result<Value> Interpreter::loop_again(const Stmt& loop, Scope* outer, const Value& items, size_t level) {
  ++depth_;
  auto captured = depth_ > budget_.max_depth ? Result<std::string>(too_deep().error()) : capture([&]() -> Status {
    const InScope inner(*this, outer);
    return exec_for(loop, items, level);
  });
  --depth_;
  if (!captured.ok()) return captured.error();
  return text(std::move(captured).value());
}

}  // namespace patchbay::jinja
