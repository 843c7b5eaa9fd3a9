// From text to tree. Used by expression.cpp alone.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/model/architecture/expression.hpp"

namespace patchbay::expression {

enum class Op {
  kLiteral,  // literal
  kList,     // children: elements
  kName,     // text: a variable or a key of config.json
  kMember,   // children: map; text: key
  kIndex,    // children: list or map, index or key
  kCall,     // text: function; children: arguments
  kNegate,
  kNot,
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
  kAnd,
  kOr,
  kCoalesce,     // children: value, what it is if that is missing or null
  kConditional,  // children: condition, value if true, value if false
};

struct Node {
  Op op = Op::kLiteral;
  size_t column = 1;  // of the operator or the first character
  int depth = 1;      // of the tree below, at most kMaxDepth * 2: evaluating may recurse
  Value literal;
  std::string text;
  std::vector<int> children;  // indices into Ast::nodes
};

// The nodes lie flat, so that making and destroying a tree never recurses.
struct Ast {
  std::vector<Node> nodes;
  int root = 0;
};

moe::Result<Ast> parse(std::string_view text);

// "column C: expected X, got Y".
moe::Error error_at(size_t column, std::string_view expected, std::string_view got);

}  // namespace patchbay::expression
