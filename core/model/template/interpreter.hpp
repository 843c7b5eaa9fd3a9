// Runs a Program: one Interpreter a render.
#pragma once

#include <ctime>
#include <deque>
#include <functional>

#include "core/model/template/ast.hpp"
#include "core/model/template/template.hpp"

namespace patchbay::jinja {

// Variables of one block; reads go on to the parents. A template has few names, so a scan beats a map.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<uint32_t, Value>> variables;
  bool pinned = false;  // a macro sees it, so it lives to the end of the render

  void set(uint32_t name, Value value);
  [[nodiscard]] const Value* find(uint32_t name) const;
};

enum class Flow { kNext, kBreak, kContinue };

class Interpreter {
 public:
  Interpreter(const Program& program, const TemplateBudget& budget, const std::optional<std::tm>& now)
      : program_(program), budget_(budget), now_(now), meter_{0, budget.max_memory_bytes} {}
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;
  ~Interpreter();

  // The template's text. Errors name the line.
  Result<std::string> run(const nlohmann::ordered_json& context);

  // Budgets (interpreter.cpp). Whatever takes time pays steps; whatever makes text checks its size while it grows.
  Status step(size_t n = 1);
  Status pay_bytes(size_t bytes) { return step(bytes / 64); }
  [[nodiscard]] Status check_bytes(size_t bytes) const;

  // New values, paid and metered.
  Result<Value> text(std::string s, bool markup = false);
  Result<Value> list(std::vector<Value> items, Flavor flavor = Flavor::kList);
  Result<Value> dict(Dict d);
  Result<Value> from_json(const nlohmann::ordered_json& json, size_t depth = 0);
  // Keeps an object that can be part of a cycle until the render ends; its clear() then cuts it.
  Status keep(std::shared_ptr<Object> object);

  // Look-up (lookup.cpp). What is not there is undefined, not an error.
  Result<Value> attribute(const Value& of, std::string_view name);
  Result<Value> item(const Value& of, const Value& key);
  Result<Value> slice(const Value& of, const Value& start, const Value& stop, const Value& step_by);
  // What a loop over the value sees. A generator is used up by it.
  Result<std::shared_ptr<const List>> iterate(const Value& value);

  // Calls (calls.cpp).
  Result<Value> call(const Value& callee, Args& args);
  Result<Value> call_macro(const Stmt& macro, Scope* closure, Args& args);
  Result<Value> apply_filter(std::string_view name, const Value& value, Args& args);
  Result<bool> apply_test(std::string_view name, const Value& value, Args& args);

  // Statements (execute.cpp).
  Result<Value> loop_again(const Stmt& loop, Scope* outer, const Value& items, size_t level);

  [[nodiscard]] const std::optional<std::tm>& now() const { return now_; }
  [[nodiscard]] const std::string& name_of(uint32_t id) const { return program_.names[id]; }

 private:
  class InScope;
  class Deeper;

  Status too_deep() const;
  Status write(std::string_view text);
  Result<std::string> capture(const std::function<Status()>& body);
  Status pin(Scope* scope);
  Status set_special_parameters(const Stmt& macro, Args& args);

  Result<Flow> exec(const Body& body);
  Result<Flow> exec(const Stmt& s);
  Result<Flow> exec_one(const Stmt& s);
  Result<Flow> exec_if(const Stmt& s);
  Result<Flow> exec_with(const Stmt& s);
  Status exec_output(const Stmt& s);
  Status exec_set_block(const Stmt& s);
  Status exec_filter_block(const Stmt& s);
  Status exec_macro(const Stmt& s);
  Status exec_call_block(const Stmt& s);
  Status exec_for(const Stmt& s, const Value& items, size_t level);
  Result<std::shared_ptr<const List>> filtered(const Stmt& s, std::shared_ptr<const List> items);
  Status assign(const Target& target, Value value);

  Result<Value> eval(const Expr& e);
  Result<Value> eval_one(const Expr& e);
  Result<Value> eval_name(const Expr& e);
  Result<Value> eval_dict(const Expr& e);
  Result<Value> eval_item(const Expr& e);
  Result<Value> eval_call(const Expr& e);
  Result<Value> eval_filter(const Expr& e, Value input);
  Result<Value> eval_filters(const Expr& e, Value input);
  Result<Value> eval_test(const Expr& e);
  Result<Value> eval_concat(const Expr& e);
  Result<Value> eval_compare(const Expr& e);
  Result<Value> eval_if(const Expr& e);
  Result<std::vector<Value>> eval_parts(const Expr& e);
  Result<Args> eval_args(const ArgExprs& args);

  const Program& program_;
  const TemplateBudget budget_;
  const std::optional<std::tm> now_;
  Meter meter_;  // declared before everything that holds values: it must outlive them
  size_t n_steps_ = 0;
  size_t depth_ = 0;
  size_t written_bytes_ = 0;  // in the output and in all captures under way
  int error_line_ = 0;        // where the first error arose
  Scope* scope_ = nullptr;
  std::string* out_ = nullptr;
  std::vector<std::unique_ptr<Scope>> pinned_;
  std::vector<std::shared_ptr<Object>> kept_;
};

// A variable scope for as long as it lives.
class Interpreter::InScope {
 public:
  InScope(Interpreter& in, Scope* parent) : in_(in), saved_(in.scope_), scope_(std::make_unique<Scope>()) {
    scope_->parent = parent;
    in_.scope_ = scope_.get();
  }
  InScope(const InScope&) = delete;
  InScope& operator=(const InScope&) = delete;
  ~InScope() {
    in_.scope_ = saved_;
    if (scope_->pinned) in_.pinned_.push_back(std::move(scope_));
  }
  [[nodiscard]] Scope& scope() { return *scope_; }

 private:
  Interpreter& in_;
  Scope* saved_;
  std::unique_ptr<Scope> scope_;
};

}  // namespace patchbay::jinja
