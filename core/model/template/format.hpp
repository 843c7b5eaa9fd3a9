// Python's two ways to format text.
#pragma once

#include "core/model/template/interpreter.hpp"

namespace patchbay::jinja {

// "..." % args.
Result<Value> format_percent(Interpreter& in, const Str& format, const Value& args);
// "...".format(args). Fields may be indexed and named, and have a conversion and a format specification; attributes of
// arguments are out of bounds in the sandbox.
Result<Value> format_braces(Interpreter& in, const Str& format, const Args& args);

}  // namespace patchbay::jinja
