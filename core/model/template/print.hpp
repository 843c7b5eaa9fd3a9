// Values as text: str(), repr() and json.dumps() of Python.
#pragma once

#include "core/model/template/interpreter.hpp"

namespace patchbay::jinja {

// str(): what {{ }} prints. Undefined prints nothing.
Result<std::string> to_text(Interpreter& in, const Value& value);
Status append_text(Interpreter& in, std::string& out, const Value& value);
// repr(): how a value shows inside a list.
Result<std::string> to_repr(Interpreter& in, const Value& value);

// repr() of a float: the shortest digits that read back the same.
std::string float_repr(double d);

struct JsonStyle {
  std::optional<std::string> indent;  // of one level; none: everything on one line
  std::string between_items = ", ";
  std::string after_key = ": ";
  bool sort_keys = false;
  bool ensure_ascii = false;
};
Result<std::string> to_json(Interpreter& in, const Value& value, const JsonStyle& style);

// & < > ' " as entities.
std::string escape_html(std::string_view text);

}  // namespace patchbay::jinja
