// A parsed template: a tree of expressions and statements over one table of names.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/model/template/value.hpp"

namespace patchbay::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<std::unique_ptr<Stmt>>;

// Deeper trees are refused when parsing, so that walking and destroying them may recurse.
inline constexpr int kMaxTreeDepth = 200;

enum class ExprKind : uint8_t {
  kConst,      // value
  kName,       // name
  kTuple,      // parts
  kList,       // parts
  kDict,       // parts: key, value, key, value, ...
  kAttribute,  // parts[0] . text
  kItem,       // parts[0] [ parts[1] ]
  kSlice,      // parts[0] [ parts[1] : parts[2] : parts[3] ], absent ones null; only as parts[1] of no other node
  kCall,       // parts[0] ( args )
  kFilter,     // parts[0] | text ( args ); parts[0] is null in a filter block
  kTest,       // parts[0] is text ( args )
  kNot,        // parts[0]
  kNegate,
  kPlus,
  kBinary,   // parts[0] op parts[1]
  kConcat,   // parts, joined as text
  kCompare,  // parts[0] ops[0] parts[1] ops[1] parts[2] ...
  kAnd,      // parts[0], parts[1]
  kOr,
  kIf,  // parts[0] if parts[1] else parts[2] (may be null)
};

enum class Op : uint8_t { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow, kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

// Arguments of a call, filter or test.
struct ArgExprs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;         // *args
  ExprPtr double_star;  // **kwargs
};

struct Expr {
  ExprKind kind;
  int line = 0;
  int depth = 1;
  Op op = Op::kAdd;
  uint32_t name = 0;
  Value value;
  std::string text;
  std::vector<ExprPtr> parts;
  std::vector<Op> ops;
  ArgExprs args;
};

// Where an assignment goes: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  uint32_t name = 0;
  std::string attribute;      // not empty: name.attribute
  std::vector<Target> parts;  // not empty: a tuple
};

enum class StmtKind : uint8_t {
  kText,         // text
  kOutput,       // expr
  kSet,          // target = expr
  kSetBlock,     // target = text of body, through expr (a filter) if any
  kIf,           // branches; otherwise
  kFor,          // target in expr if test: body; otherwise
  kWith,         // names[i] = values[i]: body
  kMacro,        // name, params, defaults (last ones), body
  kCall,         // expr is the call; params and body make caller()
  kFilterBlock,  // expr over the text of body
  kScope,        // body with a scope of its own
  kBreak,
  kContinue,
};

struct Stmt {
  StmtKind kind;
  int line = 0;
  int depth = 1;
  std::string text;
  ExprPtr expr;
  ExprPtr test;
  Target target;
  bool recursive = false;
  std::vector<std::pair<ExprPtr, Body>> branches;
  Body body;
  Body otherwise;
  uint32_t name = 0;
  std::vector<Target> targets;
  std::vector<ExprPtr> values;
  std::vector<uint32_t> params;
  bool uses_varargs = false;  // the macro's body reads varargs, kwargs, caller, so a call may pass them
  bool uses_kwargs = false;
  bool uses_caller = false;
};

struct Program {
  Body body;
  std::vector<std::string> names;  // by Expr::name
  std::unordered_map<std::string, uint32_t> ids;

  uint32_t intern(const std::string& name) {
    const auto [it, added] = ids.try_emplace(name, static_cast<uint32_t>(names.size()));
    if (added) names.push_back(name);
    return it->second;
  }
};

}  // namespace patchbay::jinja
