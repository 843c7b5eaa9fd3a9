// Expressions.
#include "core/model/template/parser.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/model/template/builtins.hpp"

namespace patchbay::jinja {
namespace {

// Counts one level of nesting for as long as it lives.
struct Nested {
  explicit Nested(int& depth) : depth_(depth) { ++depth_; }
  ~Nested() { --depth_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;
  int& depth_;
};

moe::Error too_deep(int line) {
  return moe::exhausted(fmt::format("line {}: expected at most {} levels of nesting, got more", line, kMaxTreeDepth));
}

void cover(int& depth, const ExprPtr& child) {
  if (child != nullptr) depth = std::max(depth, child->depth + 1);
}

std::vector<ExprPtr> list_of(ExprPtr a) {
  std::vector<ExprPtr> out;
  out.push_back(std::move(a));
  return out;
}

std::vector<ExprPtr> list_of(ExprPtr a, ExprPtr b) {
  std::vector<ExprPtr> out = list_of(std::move(a));
  out.push_back(std::move(b));
  return out;
}

}  // namespace

Token Parser::take() {
  Token token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool Parser::skip_op(std::string_view text) {
  if (!sees_op(text)) return false;
  take();
  return true;
}

bool Parser::skip_name(std::string_view text) {
  if (!sees_name(text)) return false;
  take();
  return true;
}

moe::Error Parser::unexpected(std::string_view wanted) const {
  return moe::invalid(fmt::format("line {}: expected {}, got {}", now().line, wanted, describe(now())));
}

Status Parser::expect_op(std::string_view text) {
  if (!skip_op(text)) return unexpected(fmt::format("'{}'", text));
  return {};
}

Status Parser::expect_name(std::string_view text) {
  if (!skip_name(text)) return unexpected(fmt::format("'{}'", text));
  return {};
}

Status Parser::expect(TokenKind kind, std::string_view what) {
  if (!sees(kind)) return unexpected(what);
  take();
  return {};
}

// The depth of a node over its children, refused if too large.
Result<ExprPtr> Parser::finish(ExprPtr node) const {
  for (const ExprPtr& part : node->parts) cover(node->depth, part);
  for (const ExprPtr& arg : node->args.positional) cover(node->depth, arg);
  for (const auto& arg : node->args.named) cover(node->depth, arg.second);
  cover(node->depth, node->args.star);
  cover(node->depth, node->args.double_star);
  if (node->depth > kMaxTreeDepth) return too_deep(node->line);
  return node;
}

Result<ExprPtr> Parser::make(ExprKind kind, int line, std::vector<ExprPtr> parts) const {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  node->parts = std::move(parts);
  return finish(std::move(node));
}

Result<ExprPtr> Parser::expression(bool with_if) {
  const Nested nested(depth_);
  if (depth_ > kMaxTreeDepth) return too_deep(now().line);
  return with_if ? conditional() : either();
}

Result<ExprPtr> Parser::conditional() {
  int line = now().line;
  MOE_ASSIGN(ExprPtr node, either());
  while (skip_name("if")) {
    const Nested condition(n_conditions_);
    MOE_ASSIGN(ExprPtr test, either());
    ExprPtr otherwise;
    if (skip_name("else")) {
      MOE_ASSIGN(otherwise, expression());
    }
    std::vector<ExprPtr> parts = list_of(std::move(node), std::move(test));
    parts.push_back(std::move(otherwise));
    MOE_ASSIGN(node, make(ExprKind::kIf, line, std::move(parts)));
    line = now().line;
  }
  return node;
}

Result<ExprPtr> Parser::either() {
  MOE_ASSIGN(ExprPtr node, both());
  while (sees_name("or")) {
    const int line = take().line;
    MOE_ASSIGN(ExprPtr right, both());
    MOE_ASSIGN(node, make(ExprKind::kOr, line, list_of(std::move(node), std::move(right))));
  }
  return node;
}

Result<ExprPtr> Parser::both() {
  MOE_ASSIGN(ExprPtr node, negation());
  while (sees_name("and")) {
    const int line = take().line;
    MOE_ASSIGN(ExprPtr right, negation());
    MOE_ASSIGN(node, make(ExprKind::kAnd, line, list_of(std::move(node), std::move(right))));
  }
  return node;
}

Result<ExprPtr> Parser::negation() {
  if (!sees_name("not")) return comparison();
  const Nested nested(depth_);
  const int line = take().line;
  if (depth_ > kMaxTreeDepth) return too_deep(line);
  MOE_ASSIGN(ExprPtr node, negation());
  return make(ExprKind::kNot, line, list_of(std::move(node)));
}

Result<ExprPtr> Parser::comparison() {
  static constexpr std::pair<std::string_view, Op> kOps[] = {{"==", Op::kEq}, {"!=", Op::kNe}, {"<", Op::kLt},
                                                             {"<=", Op::kLe}, {">", Op::kGt},  {">=", Op::kGe}};
  const int line = now().line;
  MOE_ASSIGN(ExprPtr first, sum());
  std::vector<ExprPtr> parts = list_of(std::move(first));
  std::vector<Op> ops;
  while (true) {
    const auto found = std::find_if(std::begin(kOps), std::end(kOps), [&](const auto& o) { return sees_op(o.first); });
    if (found != std::end(kOps)) {
      ops.push_back(found->second);
    } else if (sees_name("in")) {
      ops.push_back(Op::kIn);
    } else if (sees_name("not") && ahead().kind == TokenKind::kName && ahead().text == "in") {
      take();
      ops.push_back(Op::kNotIn);
    } else {
      break;
    }
    take();
    MOE_ASSIGN(ExprPtr next, sum());
    parts.push_back(std::move(next));
  }
  if (ops.empty()) return std::move(parts[0]);
  MOE_ASSIGN(ExprPtr node, make(ExprKind::kCompare, line, std::move(parts)));
  node->ops = std::move(ops);
  return node;
}

Result<ExprPtr> Parser::binary(Rule operand, std::initializer_list<std::pair<std::string_view, Op>> operators) {
  int line = now().line;
  MOE_ASSIGN(ExprPtr node, (this->*operand)());
  while (true) {
    const auto* found =
        std::find_if(operators.begin(), operators.end(), [&](const auto& o) { return sees_op(o.first); });
    if (found == operators.end()) return node;
    take();
    MOE_ASSIGN(ExprPtr right, (this->*operand)());
    MOE_ASSIGN(node, make(ExprKind::kBinary, line, list_of(std::move(node), std::move(right))));
    node->op = found->second;
    line = now().line;
  }
}

Result<ExprPtr> Parser::sum() { return binary(&Parser::concatenation, {{"+", Op::kAdd}, {"-", Op::kSub}}); }

Result<ExprPtr> Parser::concatenation() {
  const int line = now().line;
  MOE_ASSIGN(ExprPtr first, product());
  if (!sees_op("~")) return first;
  std::vector<ExprPtr> parts = list_of(std::move(first));
  while (skip_op("~")) {
    MOE_ASSIGN(ExprPtr next, product());
    parts.push_back(std::move(next));
  }
  return make(ExprKind::kConcat, line, std::move(parts));
}

Result<ExprPtr> Parser::product() {
  return binary(&Parser::power, {{"*", Op::kMul}, {"/", Op::kDiv}, {"//", Op::kFloorDiv}, {"%", Op::kMod}});
}

Result<ExprPtr> Parser::power() { return binary(&Parser::unary, {{"**", Op::kPow}}); }

Result<ExprPtr> Parser::unary(bool with_filter) {
  const Nested nested(depth_);
  const int line = now().line;
  if (depth_ > kMaxTreeDepth) return too_deep(line);
  ExprPtr node;
  if (sees_op("-") || sees_op("+")) {
    const ExprKind kind = take().text == "-" ? ExprKind::kNegate : ExprKind::kPlus;
    MOE_ASSIGN(ExprPtr operand, unary(false));
    MOE_ASSIGN(node, make(kind, line, list_of(std::move(operand))));
  } else {
    MOE_ASSIGN(node, primary());
  }
  MOE_ASSIGN(node, postfix(std::move(node)));
  if (!with_filter) return node;
  return filters_and_tests(std::move(node));
}

Result<ExprPtr> Parser::constant(Value value) {
  MOE_ASSIGN(ExprPtr node, make(ExprKind::kConst, now().line));
  node->value = std::move(value);
  return node;
}

Result<ExprPtr> Parser::primary() {
  if (sees(TokenKind::kName)) return name_or_constant();
  if (sees(TokenKind::kString)) return strings();
  if (sees(TokenKind::kInteger) || sees(TokenKind::kFloat)) return number();
  if (sees_op("(")) return parenthesized();
  if (sees_op("[")) return list_literal();
  if (sees_op("{")) return dict_literal();
  return unexpected("an expression");
}

Result<ExprPtr> Parser::name_or_constant() {
  const std::string& word = now().text;
  ExprPtr node;
  if (word == "true" || word == "True" || word == "false" || word == "False") {
    MOE_ASSIGN(node, constant(Value(word[0] == 't' || word[0] == 'T')));
  } else if (word == "none" || word == "None") {
    MOE_ASSIGN(node, constant(Value(None{})));
  } else {
    MOE_ASSIGN(node, make(ExprKind::kName, now().line));
    node->name = program_.intern(word);
    for (Stmt* macro : macros_) {
      macro->uses_varargs |= word == "varargs";
      macro->uses_kwargs |= word == "kwargs";
      macro->uses_caller |= word == "caller";
    }
  }
  take();
  return node;
}

Result<ExprPtr> Parser::strings() {
  std::string text;
  const int line = now().line;
  while (sees(TokenKind::kString)) text += take().text;
  MOE_ASSIGN(ExprPtr node, constant(Value::text(std::move(text))));
  node->line = line;
  return node;
}

Result<ExprPtr> Parser::number() {
  const std::string text = now().text;
  if (sees(TokenKind::kFloat)) {
    double value = 0;
    const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
    if (read.ec == std::errc::result_out_of_range) return unexpected("a number within range");
    MOE_ASSIGN(ExprPtr node, constant(Value(value)));
    take();
    return node;
  }
  const bool prefixed = text.size() > 1 && text[0] == '0' && text[1] > '9';
  const char mark = prefixed ? text[1] : ' ';
  const int base = mark == 'x' || mark == 'X'   ? 16
                   : mark == 'o' || mark == 'O' ? 8
                   : mark == 'b' || mark == 'B' ? 2
                                                : 10;
  int64_t value = 0;
  const auto read = std::from_chars(text.data() + (prefixed ? 2 : 0), text.data() + text.size(), value, base);
  if (read.ec != std::errc{}) return unexpected("an integer within 64 bits");
  MOE_ASSIGN(ExprPtr node, constant(Value(value)));
  take();
  return node;
}

Result<ExprPtr> Parser::parenthesized() {
  const int line = take().line;
  if (skip_op(")")) return make(ExprKind::kTuple, line);
  MOE_ASSIGN(ExprPtr node, tuple());
  MOE_TRY(expect_op(")"));
  return node;
}

bool Parser::ends_tuple() const {
  return sees(TokenKind::kVariableEnd) || sees(TokenKind::kBlockEnd) || sees_op(")") || sees_name("recursive");
}

// One expression, or several with commas between.
Result<ExprPtr> Parser::tuple(bool with_if) {
  const int line = now().line;
  MOE_ASSIGN(ExprPtr first, expression(with_if));
  if (!sees_op(",")) return first;
  std::vector<ExprPtr> parts = list_of(std::move(first));
  while (skip_op(",")) {
    if (ends_tuple()) break;
    MOE_ASSIGN(ExprPtr next, expression(with_if));
    parts.push_back(std::move(next));
  }
  return make(ExprKind::kTuple, line, std::move(parts));
}

Result<ExprPtr> Parser::list_literal() {
  const int line = take().line;
  std::vector<ExprPtr> parts;
  while (!sees_op("]")) {
    if (!parts.empty()) MOE_TRY(expect_op(","));
    if (sees_op("]")) break;
    MOE_ASSIGN(ExprPtr item, expression());
    parts.push_back(std::move(item));
  }
  take();
  return make(ExprKind::kList, line, std::move(parts));
}

Result<ExprPtr> Parser::dict_literal() {
  const int line = take().line;
  std::vector<ExprPtr> parts;
  while (!sees_op("}")) {
    if (!parts.empty()) MOE_TRY(expect_op(","));
    if (sees_op("}")) break;
    MOE_ASSIGN(ExprPtr key, expression());
    MOE_TRY(expect_op(":"));
    MOE_ASSIGN(ExprPtr value, expression());
    parts.push_back(std::move(key));
    parts.push_back(std::move(value));
  }
  take();
  return make(ExprKind::kDict, line, std::move(parts));
}

Result<ExprPtr> Parser::postfix(ExprPtr node) {
  while (true) {
    if (sees_op(".")) {
      MOE_ASSIGN(node, attribute(std::move(node)));
    } else if (sees_op("[")) {
      MOE_ASSIGN(node, subscript(std::move(node)));
    } else if (sees_op("(")) {
      MOE_ASSIGN(node, call(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<ExprPtr> Parser::attribute(ExprPtr node) {
  const int line = take().line;
  if (sees(TokenKind::kInteger)) {
    MOE_ASSIGN(ExprPtr index, number());
    return make(ExprKind::kItem, line, list_of(std::move(node), std::move(index)));
  }
  if (!sees(TokenKind::kName)) return unexpected("a name or a number after '.'");
  MOE_ASSIGN(ExprPtr out, make(ExprKind::kAttribute, line, list_of(std::move(node))));
  out->text = take().text;
  return out;
}

Result<ExprPtr> Parser::subscript(ExprPtr node) {
  const int line = take().line;
  std::vector<ExprPtr> indices;
  while (!sees_op("]")) {
    if (!indices.empty()) MOE_TRY(expect_op(","));
    MOE_ASSIGN(ExprPtr index, subscript_index());
    indices.push_back(std::move(index));
  }
  if (indices.empty()) return unexpected("a subscript");
  take();
  ExprPtr index = std::move(indices[0]);
  if (indices.size() > 1) {
    indices[0] = std::move(index);
    const bool slices =
        std::any_of(indices.begin(), indices.end(), [](const auto& i) { return i->kind == ExprKind::kSlice; });
    if (slices) return moe::invalid(fmt::format("line {}: expected one slice in a subscript, got several parts", line));
    MOE_ASSIGN(index, make(ExprKind::kTuple, line, std::move(indices)));
  }
  return make(ExprKind::kItem, line, list_of(std::move(node), std::move(index)));
}

Result<ExprPtr> Parser::subscript_index() {
  const int line = now().line;
  std::vector<ExprPtr> parts(4);
  if (!sees_op(":")) {
    MOE_ASSIGN(ExprPtr start, expression());
    if (!sees_op(":")) return start;
    parts[1] = std::move(start);
  }
  for (size_t i = 2; i < 4 && skip_op(":"); ++i) {
    if (sees_op(":") || sees_op("]") || sees_op(",")) continue;
    MOE_ASSIGN(parts[i], expression());
  }
  return make(ExprKind::kSlice, line, std::move(parts));
}

Result<ExprPtr> Parser::filters_and_tests(ExprPtr node) {
  while (true) {
    if (skip_op("|")) {
      MOE_ASSIGN(node, filter(std::move(node)));
    } else if (skip_name("is")) {
      MOE_ASSIGN(node, test(std::move(node)));
    } else if (sees_op("(")) {
      MOE_ASSIGN(node, call(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<std::string> Parser::dotted_name() {
  if (!sees(TokenKind::kName)) return unexpected("a name");
  std::string name = take().text;
  while (skip_op(".")) {
    if (!sees(TokenKind::kName)) return unexpected("a name");
    name += fmt::format(".{}", take().text);
  }
  return name;
}

// After the '|'. `node` is null in a filter block.
Result<ExprPtr> Parser::filter(ExprPtr node) {
  const int line = now().line;
  MOE_ASSIGN(std::string name, dotted_name());
  if (n_conditions_ == 0 && find_filter(name) == nullptr) {
    return moe::invalid(fmt::format("line {}: no filter named '{}'", line, name));
  }
  ArgExprs args;
  if (sees_op("(")) {
    MOE_ASSIGN(args, arguments());
  }
  auto out = std::make_unique<Expr>();
  out->kind = ExprKind::kFilter;
  out->line = line;
  out->text = std::move(name);
  out->parts = list_of(std::move(node));
  out->args = std::move(args);
  return finish(std::move(out));
}

// After the 'is'.
Result<ExprPtr> Parser::test(ExprPtr node) {
  const int line = now().line;
  const bool negated = skip_name("not");
  MOE_ASSIGN(std::string name, dotted_name());
  if (n_conditions_ == 0 && find_test(name) == nullptr) {
    return moe::invalid(fmt::format("line {}: no test named '{}'", line, name));
  }
  auto out = std::make_unique<Expr>();
  out->kind = ExprKind::kTest;
  out->line = line;
  out->text = std::move(name);
  out->parts = list_of(std::move(node));
  const bool operand = sees(TokenKind::kString) || sees(TokenKind::kInteger) || sees(TokenKind::kFloat) ||
                       sees_op("[") || sees_op("{") ||
                       (sees(TokenKind::kName) && !sees_name("else") && !sees_name("or") && !sees_name("and"));
  if (sees_op("(")) {
    MOE_ASSIGN(out->args, arguments());
  } else if (operand) {
    if (sees_name("is")) return unexpected("one test, not a chain of 'is'");
    MOE_ASSIGN(ExprPtr argument, primary());
    MOE_ASSIGN(argument, postfix(std::move(argument)));
    out->args.positional.push_back(std::move(argument));
  }
  MOE_ASSIGN(ExprPtr result, finish(std::move(out)));
  if (!negated) return result;
  return make(ExprKind::kNot, line, list_of(std::move(result)));
}

Result<ExprPtr> Parser::call(ExprPtr node) {
  auto out = std::make_unique<Expr>();
  out->kind = ExprKind::kCall;
  out->line = now().line;
  out->parts = list_of(std::move(node));
  MOE_ASSIGN(out->args, arguments());
  return finish(std::move(out));
}

Result<ArgExprs> Parser::arguments() {
  ArgExprs args;
  MOE_TRY(expect_op("("));
  for (bool first = true; !sees_op(")"); first = false) {
    if (!first) {
      MOE_TRY(expect_op(","));
      if (sees_op(")")) break;
    }
    if (args.double_star != nullptr) return unexpected("')' after **");
    if (skip_op("**")) {
      MOE_ASSIGN(args.double_star, expression());
    } else if (skip_op("*")) {
      if (args.star != nullptr) return unexpected("one * argument");
      MOE_ASSIGN(args.star, expression());
    } else if (sees(TokenKind::kName) && ahead().kind == TokenKind::kOperator && ahead().text == "=") {
      std::string name = take().text;
      take();
      MOE_ASSIGN(ExprPtr value, expression());
      args.named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!args.named.empty() || args.star != nullptr) return unexpected("positional arguments before named ones");
      MOE_ASSIGN(ExprPtr value, expression());
      args.positional.push_back(std::move(value));
    }
  }
  take();
  return args;
}

}  // namespace patchbay::jinja
