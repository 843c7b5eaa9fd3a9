// What templates can call by name: filters, tests, globals, methods; and how such a function reads its arguments.
#pragma once

#include <initializer_list>

#include "core/model/template/interpreter.hpp"

namespace patchbay::jinja {

using FilterFn = Result<Value> (*)(Interpreter& in, const Value& input, Args& args);
using TestFn = Result<bool> (*)(Interpreter& in, const Value& input, Args& args);
using MethodFn = Result<Value> (*)(Interpreter& in, const Value& self, Args& args);

// A row of a table, and the end of it by name.
template <typename Fn>
struct Named {
  std::string_view name;
  Fn function;
};

template <typename Fn, size_t n>
Fn find_named(const Named<Fn> (&table)[n], std::string_view name) {
  for (const Named<Fn>& row : table) {
    if (row.name == name) return row.function;
  }
  return nullptr;
}

// Null if there is none.
FilterFn find_filter(std::string_view name);
TestFn find_test(std::string_view name);
MethodFn find_string_method(std::string_view name);
MethodFn find_dict_method(std::string_view name);
MethodFn find_list_method(std::string_view name);
// A new function object; undefined if there is none.
Value find_global(std::string_view name);

// The tables, by file.
FilterFn find_text_filter(std::string_view name);
FilterFn find_sequence_filter(std::string_view name);
FilterFn find_value_filter(std::string_view name);

// Arguments by position or name, as a Python signature takes them.
class Params {
 public:
  // Binds to `names`, of which the first n_required must be given.
  static Result<Params> bind(std::string_view function, const Args& args, std::initializer_list<std::string_view> names,
                             size_t n_required = 0);

  // Null if the caller left it out.
  [[nodiscard]] const Value* get(size_t i) const { return values_[i] ? &*values_[i] : nullptr; }
  // The same, also null if None was given.
  [[nodiscard]] const Value* given(size_t i) const {
    return values_[i] && !values_[i]->is_none() ? &*values_[i] : nullptr;
  }
  [[nodiscard]] bool truthy(size_t i, bool otherwise) const { return values_[i] ? values_[i]->truthy() : otherwise; }
  [[nodiscard]] Result<int64_t> integer(size_t i, int64_t otherwise) const;
  [[nodiscard]] Result<std::string> text(size_t i, std::string_view otherwise) const;

 private:
  std::string function_;
  std::vector<std::string> names_;
  std::vector<std::optional<Value>> values_;
};

// What a value of an unfit type gets: "upper: expected a string, got int".
moe::Error wrong_type(std::string_view function, std::string_view wanted, const Value& got);
// The reason why the value is undefined, as an error.
moe::Error undefined_error(const Value& value);
Value undefined(std::string why);

}  // namespace patchbay::jinja
