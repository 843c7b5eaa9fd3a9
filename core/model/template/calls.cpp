// Calls: macros, the loop, arguments.
#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/builtins.hpp"
#include "core/model/template/objects.hpp"

namespace patchbay::jinja {

Result<Value> Object::call(Interpreter&, Args&) {
  return moe::invalid(fmt::format("'{}' object is not callable", type_name()));
}

Result<Value> Object::attribute(Interpreter&, std::string_view name) {
  return undefined(fmt::format("'{} object' has no attribute '{}'", type_name(), name));
}

Result<Value> Interpreter::call(const Value& callee, Args& args) {
  if (callee.is_undefined()) return undefined_error(callee);
  Object* const object = callee.object();
  if (object == nullptr) return moe::invalid(fmt::format("'{}' object is not callable", callee.type_name()));
  return object->call(*this, args);
}

namespace {

Status set_parameters(Interpreter& in, const Stmt& macro, Scope& scope, Args& args, std::vector<bool>& is_set) {
  const size_t n_positional = std::min(args.positional.size(), macro.params.size());
  for (size_t i = 0; i < n_positional; ++i) {
    scope.set(macro.params[i], args.positional[i]);
    is_set[i] = true;
  }
  for (auto it = args.named.begin(); it != args.named.end();) {
    const auto param =
        std::find_if(macro.params.begin(), macro.params.end(), [&](uint32_t p) { return in.name_of(p) == it->first; });
    if (param == macro.params.end()) {
      ++it;
      continue;
    }
    const auto i = static_cast<size_t>(param - macro.params.begin());
    if (is_set[i]) return moe::invalid(fmt::format("macro: expected one value for '{}', got two", it->first));
    scope.set(*param, std::move(it->second));
    is_set[i] = true;
    it = args.named.erase(it);
  }
  return {};
}

}  // namespace

// caller, varargs and kwargs reach macros that read them; for others they are errors.
Status Interpreter::set_special_parameters(const Stmt& macro, Args& args) {
  const size_t n_params = macro.params.size();
  const std::string& name = name_of(macro.name);
  const auto given =
      std::find_if(args.named.begin(), args.named.end(), [](const auto& a) { return a.first == "caller"; });
  const bool called_back = given != args.named.end();
  if (macro.uses_caller) {
    scope_->set(program_.ids.at("caller"), called_back ? std::move(given->second) : undefined("No caller defined"));
    if (called_back) args.named.erase(given);
  }
  if (args.positional.size() > n_params && !macro.uses_varargs) {
    return moe::invalid(fmt::format("macro '{}' takes not more than {} argument(s)", name, n_params));
  }
  if (!args.named.empty() && !macro.uses_kwargs) {
    return moe::invalid(fmt::format("macro '{}' takes no keyword argument '{}'", name, args.named[0].first));
  }
  if (macro.uses_varargs) {
    const auto first = args.positional.begin() + static_cast<long>(std::min(n_params, args.positional.size()));
    MOE_ASSIGN(Value varargs, list(std::vector<Value>(first, args.positional.end()), Flavor::kTuple));
    scope_->set(program_.ids.at("varargs"), std::move(varargs));
  }
  if (macro.uses_kwargs) {
    Dict rest;
    for (auto& [key, value] : args.named) rest.set(Value::text(key), std::move(value));
    MOE_ASSIGN(Value kwargs, dict(std::move(rest)));
    scope_->set(program_.ids.at("kwargs"), std::move(kwargs));
  }
  return {};
}

Result<Value> Interpreter::call_macro(const Stmt& macro, Scope* closure, Args& args) {
  // An error ends the render, so nobody reads the depth after one.
  if (++depth_ > budget_.max_depth) return too_deep().error();
  const InScope inner(*this, closure);
  const size_t n_params = macro.params.size();
  std::vector<bool> is_set(n_params);
  MOE_TRY(set_parameters(*this, macro, *scope_, args, is_set));
  MOE_TRY(set_special_parameters(macro, args));
  const size_t first_default = n_params - macro.values.size();
  for (size_t i = 0; i < n_params; ++i) {
    if (is_set[i]) continue;
    Value value = undefined(fmt::format("parameter '{}' was not provided", name_of(macro.params[i])));
    if (i >= first_default) {
      MOE_ASSIGN(value, eval(*macro.values[i - first_default]));
    }
    scope_->set(macro.params[i], std::move(value));
  }
  MOE_ASSIGN(std::string captured, capture([&]() -> Status {
               const auto flow = exec(macro.body);
               return flow.ok() ? Status{} : Status(flow.error());
             }));
  --depth_;
  return text(std::move(captured));
}

Result<Value> Interpreter::apply_filter(std::string_view name, const Value& value, Args& args) {
  const FilterFn filter = find_filter(name);
  if (filter == nullptr) return moe::invalid(fmt::format("no filter named '{}'", name));
  return filter(*this, value, args);
}

Result<bool> Interpreter::apply_test(std::string_view name, const Value& value, Args& args) {
  const TestFn test = find_test(name);
  if (test == nullptr) return moe::invalid(fmt::format("no test named '{}'", name));
  return test(*this, value, args);
}

Result<Value> Macro::attribute(Interpreter& in, std::string_view attribute_name) {
  if (attribute_name == "name") return in.text(name);
  return Object::attribute(in, attribute_name);
}

Result<Value> Namespace::attribute(Interpreter& in, std::string_view name) {
  const auto it = std::find_if(attributes.begin(), attributes.end(), [&](const auto& a) { return a.first == name; });
  return it == attributes.end() ? Object::attribute(in, name) : Result<Value>(it->second);
}

Status Namespace::set(Interpreter& in, const std::string& name, Value value) {
  const auto it = std::find_if(attributes.begin(), attributes.end(), [&](const auto& a) { return a.first == name; });
  if (it != attributes.end()) {
    it->second = std::move(value);
    return {};
  }
  MOE_TRY(in.step(attributes.size()));
  attributes.emplace_back(name, std::move(value));
  return {};
}

namespace {

Result<Value> loop_cycle(Interpreter&, const Value& self, Args& args) {
  if (args.positional.empty()) return moe::invalid("no items for cycling given");
  const auto* loop = dynamic_cast<const Loop*>(self.object());
  return args.positional[loop->index0 % args.positional.size()];
}

Result<Value> loop_changed(Interpreter& in, const Value& self, Args& args) {
  auto* loop = dynamic_cast<Loop*>(self.object());
  MOE_ASSIGN(Value seen, in.list(std::move(args.positional), Flavor::kTuple));
  MOE_TRY(in.step(seen.weight()));
  if (loop->last_seen && equal(*loop->last_seen, seen)) return Value(false);
  if (!loop->last_seen) MOE_TRY(in.keep(loop->shared_from_this()));  // it may have been shown itself
  loop->last_seen = std::move(seen);
  return Value(true);
}

Value neighbour(const List& items, size_t index, bool exists, std::string_view which) {
  return exists ? items.items[index] : undefined(fmt::format("there is no {} item", which));
}

}  // namespace

Result<Value> Loop::attribute(Interpreter& in, std::string_view name) {
  const size_t n = items->items.size();
  const auto number = [](size_t i) { return Value(static_cast<int64_t>(i)); };
  if (name == "index") return number(index0 + 1);
  if (name == "index0") return number(index0);
  if (name == "revindex") return number(n - index0);
  if (name == "revindex0") return number(n - index0 - 1);
  if (name == "first") return Value(index0 == 0);
  if (name == "last") return Value(index0 + 1 == n);
  if (name == "length") return number(n);
  if (name == "depth") return number(level);
  if (name == "depth0") return number(level - 1);
  if (name == "previtem") return neighbour(*items, index0 - 1, index0 > 0, "previous");
  if (name == "nextitem") return neighbour(*items, index0 + 1, index0 + 1 < n, "next");
  const Value self = std::shared_ptr<Object>(shared_from_this());
  if (name == "cycle") return Value(std::shared_ptr<Object>(std::make_shared<Method>(self, loop_cycle)));
  if (name == "changed") return Value(std::shared_ptr<Object>(std::make_shared<Method>(self, loop_changed)));
  return Object::attribute(in, name);
}

Result<Value> Loop::call(Interpreter& in, Args& args) {
  if (!definition.recursive) return moe::invalid("the loop must have the 'recursive' marker to be called recursively");
  if (args.positional.size() != 1) return moe::invalid("loop: expected one argument");
  return in.loop_again(definition, outer, args.positional[0], level + 1);
}

Result<Params> Params::bind(std::string_view function, const Args& args, std::initializer_list<std::string_view> names,
                            size_t n_required) {
  Params out;
  out.function_ = function;
  out.names_.assign(names.begin(), names.end());
  out.values_.resize(names.size());
  if (args.positional.size() > names.size()) {
    return moe::invalid(
        fmt::format("{}: expected at most {} arguments, got {}", function, names.size(), args.positional.size()));
  }
  std::copy(args.positional.begin(), args.positional.end(), out.values_.begin());
  for (const auto& [name, value] : args.named) {
    const auto* const it = std::find(names.begin(), names.end(), name);
    if (it == names.end())
      return moe::invalid(fmt::format("{}: got an unexpected keyword argument '{}'", function, name));
    auto& slot = out.values_[static_cast<size_t>(it - names.begin())];
    if (slot) return moe::invalid(fmt::format("{}: expected one value for argument '{}', got two", function, name));
    slot = value;
  }
  for (size_t i = 0; i < n_required; ++i) {
    if (!out.values_[i])
      return moe::invalid(fmt::format("{}: expected argument '{}', got none", function, out.names_[i]));
  }
  return out;
}

Result<int64_t> Params::integer(size_t i, int64_t otherwise) const {
  if (!values_[i]) return otherwise;
  if (const auto n = values_[i]->as_int()) return *n;
  return moe::invalid(
      fmt::format("{}: argument '{}': expected an integer, got {}", function_, names_[i], values_[i]->type_name()));
}

Result<std::string> Params::text(size_t i, std::string_view otherwise) const {
  if (!values_[i]) return std::string(otherwise);
  if (const Str* s = values_[i]->str()) return s->text;
  return moe::invalid(
      fmt::format("{}: argument '{}': expected a string, got {}", function_, names_[i], values_[i]->type_name()));
}

moe::Error wrong_type(std::string_view function, std::string_view wanted, const Value& got) {
  if (got.is_undefined()) return undefined_error(got);
  return moe::invalid(fmt::format("{}: expected {}, got {}", function, wanted, got.type_name()));
}

moe::Error undefined_error(const Value& value) {
  const auto& why = value.undefined()->why;
  return moe::invalid(why == nullptr ? "value is undefined" : *why);
}

Value undefined(std::string why) { return Value(Undefined{std::make_shared<const std::string>(std::move(why))}); }

}  // namespace patchbay::jinja
