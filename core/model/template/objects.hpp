// The values that do something: namespaces, macros, the loop, methods and functions.
#pragma once

#include "core/model/template/interpreter.hpp"

namespace patchbay::jinja {

// namespace(): the one thing whose attributes a template may set.
struct Namespace final : Object {
  std::vector<std::pair<std::string, Value>> attributes;

  [[nodiscard]] std::string_view type_name() const override { return "jinja2.utils.Namespace"; }
  Result<Value> attribute(Interpreter& in, std::string_view name) override;
  Status set(Interpreter& in, const std::string& name, Value value);
  void clear() override { attributes.clear(); }
};

// A macro, or the body of a call block. The scope it was made in is pinned.
struct Macro final : Object {
  Macro(const Stmt& s, Scope* scope, std::string macro_name)
      : definition(s), closure(scope), name(std::move(macro_name)) {}

  [[nodiscard]] std::string_view type_name() const override { return "Macro"; }
  [[nodiscard]] bool callable() const override { return true; }
  Result<Value> call(Interpreter& in, Args& args) override { return in.call_macro(definition, closure, args); }
  Result<Value> attribute(Interpreter& in, std::string_view attribute_name) override;

  const Stmt& definition;
  Scope* closure;
  std::string name;
};

// The variable `loop`.
struct Loop final : Object, std::enable_shared_from_this<Loop> {
  Loop(const Stmt& s, Scope* scope, std::shared_ptr<const List> list, size_t nesting)
      : definition(s), outer(scope), items(std::move(list)), level(nesting) {}

  [[nodiscard]] std::string_view type_name() const override { return "LoopContext"; }
  [[nodiscard]] bool callable() const override { return true; }
  Result<Value> call(Interpreter& in, Args& args) override;  // recursive loops
  Result<Value> attribute(Interpreter& in, std::string_view name) override;
  [[nodiscard]] size_t depth() const override { return items->depth + 1; }
  void clear() override { last_seen.reset(); }

  const Stmt& definition;
  Scope* outer;
  std::shared_ptr<const List> items;
  size_t level;
  size_t index0 = 0;
  std::optional<Value> last_seen;  // by loop.changed()
};

// A function of a value: "x".upper, loop.cycle.
struct Method final : Object {
  using Body = Result<Value> (*)(Interpreter& in, const Value& self, Args& args);
  Method(Value of, Body function) : self(std::move(of)), body(function) {}

  [[nodiscard]] std::string_view type_name() const override { return "builtin_function_or_method"; }
  [[nodiscard]] bool callable() const override { return true; }
  Result<Value> call(Interpreter& in, Args& args) override { return body(in, self, args); }
  [[nodiscard]] size_t depth() const override { return self.depth() + 1; }

  Value self;
  Body body;
};

// A global function: range, dict, ...
struct Function final : Object {
  using Body = Result<Value> (*)(Interpreter& in, Args& args);
  explicit Function(Body function) : body(function) {}

  [[nodiscard]] std::string_view type_name() const override { return "function"; }
  [[nodiscard]] bool callable() const override { return true; }
  Result<Value> call(Interpreter& in, Args& args) override { return body(in, args); }

  Body body;
};

// cycler(a, b, ...): next(), current, reset().
struct Cycler final : Object {
  [[nodiscard]] std::string_view type_name() const override { return "Cycler"; }
  Result<Value> attribute(Interpreter& in, std::string_view name) override;
  [[nodiscard]] size_t depth() const override { return items->depth + 1; }

  std::shared_ptr<const List> items;
  size_t at = 0;
  std::weak_ptr<Object> self;
};

// joiner(sep): nothing when called first, `separator` after that.
struct Joiner final : Object {
  [[nodiscard]] std::string_view type_name() const override { return "Joiner"; }
  [[nodiscard]] bool callable() const override { return true; }
  Result<Value> call(Interpreter& in, Args& args) override;
  [[nodiscard]] size_t depth() const override { return separator.depth() + 1; }

  Value separator;
  bool used = false;
};

}  // namespace patchbay::jinja
