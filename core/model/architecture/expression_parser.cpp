#include "core/model/architecture/expression_parser.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <optional>

namespace patchbay::expression {
namespace {

using moe::Result;
using moe::Status;

enum class TokenKind { kEnd, kNumber, kString, kName, kSymbol };

struct Token {
  TokenKind kind = TokenKind::kEnd;
  size_t column = 1;
  std::string_view text;  // as written
  Value value;            // of a number or a string
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name(char c) { return is_name_start(c) || is_digit(c); }

std::string quoted(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 40)) out += (c >= 0x20 && c < 0x7f) ? c : '?';
  return fmt::format("'{}'", out);
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  Result<Token> next() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
    Token token;
    token.column = at_ + 1;
    if (at_ == text_.size()) return token;
    const char c = text_[at_];
    if (is_digit(c)) return number(token);
    if (c == '\'') return string(token);
    if (is_name_start(c)) {
      const size_t begin = at_;
      while (at_ < text_.size() && is_name(text_[at_])) ++at_;
      token.kind = TokenKind::kName;
      token.text = text_.substr(begin, at_ - begin);
      return token;
    }
    return symbol(token);
  }

 private:
  Result<Token> number(Token token) {
    const char* begin = text_.data() + at_;
    const char* end = text_.data() + text_.size();
    int64_t integer = 0;
    double real = 0;
    const auto as_integer = std::from_chars(begin, end, integer);
    const auto as_real = std::from_chars(begin, end, real);
    token.kind = TokenKind::kNumber;
    token.text = text_.substr(at_, static_cast<size_t>(as_real.ptr - begin));
    const auto bad = as_real.ptr == as_integer.ptr ? as_integer.ec : as_real.ec;
    if (bad != std::errc()) return error_at(token.column, "a number in range", quoted(token.text));
    token.value = as_real.ptr == as_integer.ptr ? Value(integer) : Value(real);
    at_ += token.text.size();
    if (at_ < text_.size() && is_name(text_[at_])) {
      return error_at(at_ + 1, "an operator after the number", quoted(text_.substr(at_, 1)));
    }
    return token;
  }

  Result<Token> string(Token token) {
    std::string content;
    const size_t begin = at_++;
    while (at_ < text_.size() && text_[at_] != '\'') {
      if (text_[at_] == '\\') {
        ++at_;
        if (at_ == text_.size() || (text_[at_] != '\\' && text_[at_] != '\'')) {
          return error_at(at_ + 1, "' or \\ after \\", at_ == text_.size() ? "the end" : quoted(text_.substr(at_, 1)));
        }
      }
      content += text_[at_++];
    }
    if (at_ == text_.size()) return error_at(token.column, "a closing ' for this string", "none");
    ++at_;
    token.kind = TokenKind::kString;
    token.text = text_.substr(begin, at_ - begin);
    token.value = Value(std::move(content));
    return token;
  }

  Result<Token> symbol(Token token) {
    static constexpr std::string_view kSymbols[] = {"??", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/",
                                                    "%",  "<",  ">",  "(",  ")",  "[",  "]", ",", "."};
    for (const auto s : kSymbols) {
      if (!text_.substr(at_).starts_with(s)) continue;
      token.kind = TokenKind::kSymbol;
      token.text = text_.substr(at_, s.size());
      at_ += s.size();
      return token;
    }
    return error_at(token.column, "an expression", quoted(text_.substr(at_, 1)));
  }

  std::string_view text_;
  size_t at_ = 0;
};

// Binary operators, loosest first. Comparisons do not chain; ?? groups from the right, the others from the left.
struct Binary {
  std::string_view symbol;
  Op op;
  int level;
};
constexpr int kNotLevel = 3;
constexpr int kCompareLevel = 4;
constexpr int kCoalesceLevel = 5;
constexpr int kLastLevel = 7;
constexpr Binary kBinary[] = {{"or", Op::kOr, 1},          {"and", Op::kAnd, 2},      {"==", Op::kEqual, 4},
                              {"!=", Op::kNotEqual, 4},    {"<=", Op::kLessEqual, 4}, {">=", Op::kGreaterEqual, 4},
                              {"<", Op::kLess, 4},         {">", Op::kGreater, 4},    {"in", Op::kIn, 4},
                              {"not", Op::kNotIn, 4},      {"??", Op::kCoalesce, 5},  {"+", Op::kAdd, 6},
                              {"-", Op::kSubtract, 6},     {"*", Op::kMultiply, 7},   {"/", Op::kDivide, 7},
                              {"//", Op::kFloorDivide, 7}, {"%", Op::kModulo, 7}};

struct Function {
  std::string_view name;
  size_t min_arguments;
  size_t max_arguments;
};
constexpr size_t kAny = 64;
constexpr Function kFunctions[] = {{"len", 1, 1},   {"min", 1, kAny}, {"max", 1, kAny}, {"abs", 1, 1},  {"int", 1, 1},
                                   {"float", 1, 1}, {"sqrt", 1, 1},   {"floor", 1, 1},  {"ceil", 1, 1}, {"log", 1, 1},
                                   {"round", 1, 1}, {"has", 1, 1},    {"each", 2, 2}};

constexpr std::string_view kKeywords[] = {"and", "or", "not", "in", "if", "else", "true", "false", "null"};
bool is_keyword(std::string_view name) {
  return std::find(std::begin(kKeywords), std::end(kKeywords), name) != std::end(kKeywords);
}

// Recursive descent; every way to recurse passes through conditional() or unary(), which count the nesting.
class Parser {
 public:
  explicit Parser(std::string_view text) : lexer_(text) {}

  Result<Ast> run() {
    MOE_TRY(advance());
    MOE_ASSIGN(ast_.root, conditional());
    if (token_.kind != TokenKind::kEnd) return unexpected("an operator or the end");
    return std::move(ast_);
  }

 private:
  Status advance() {
    MOE_ASSIGN(token_, lexer_.next());
    return {};
  }
  [[nodiscard]] bool is(std::string_view text) const {
    return (token_.kind == TokenKind::kSymbol || token_.kind == TokenKind::kName) && token_.text == text;
  }
  [[nodiscard]] moe::Error unexpected(std::string_view expected) const {
    return error_at(token_.column, expected, token_.kind == TokenKind::kEnd ? "the end" : quoted(token_.text));
  }
  Status expect(std::string_view text) {
    if (!is(text)) return unexpected(quoted(text));
    return advance();
  }
  struct Nesting {
    explicit Nesting(int* n) : level(n) { ++*level; }
    ~Nesting() { --*level; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    int* level;
  };

  Result<int> add(Node node) {
    for (const int child : node.children) {
      node.depth = std::max(node.depth, ast_.nodes[static_cast<size_t>(child)].depth + 1);
    }
    // Twice, because a level of nesting may hold an operator and a conditional.
    if (node.depth > 2 * kMaxDepth) return too_deep(node.column);
    ast_.nodes.push_back(std::move(node));
    return static_cast<int>(ast_.nodes.size()) - 1;
  }
  Result<int> add(Op op, size_t column, std::vector<int> children, std::string_view text = {}) {
    Node node;
    node.op = op;
    node.column = column;
    node.children = std::move(children);
    node.text = text;
    return add(std::move(node));
  }
  static moe::Error too_deep(size_t column) {
    return error_at(column, fmt::format("at most {} levels of nesting", kMaxDepth), "more");
  }

  // value if condition else value
  Result<int> conditional() {
    const Nesting nesting(&nesting_);
    if (nesting_ > kMaxDepth) return too_deep(token_.column);
    MOE_ASSIGN(const int value, binary(1));
    if (!is("if")) return value;
    const size_t column = token_.column;
    MOE_TRY(advance());
    MOE_ASSIGN(const int condition, binary(1));
    MOE_TRY(expect("else"));
    MOE_ASSIGN(const int otherwise, conditional());
    return add(Op::kConditional, column, {condition, value, otherwise});
  }

  [[nodiscard]] const Binary* operator_at(int level) const {
    if (token_.kind != TokenKind::kSymbol && token_.kind != TokenKind::kName) return nullptr;
    for (const auto& b : kBinary) {
      if (b.level == level && b.symbol == token_.text) return &b;
    }
    return nullptr;
  }

  Result<int> binary(int level) {
    if (level > kLastLevel) return unary();
    if (level == kNotLevel && is("not")) return negation(Op::kNot, kNotLevel);
    MOE_ASSIGN(int left, binary(level + 1));
    while (const Binary* found = operator_at(level)) {
      const size_t column = token_.column;
      MOE_TRY(advance());
      if (found->op == Op::kNotIn) MOE_TRY(expect("in"));
      MOE_ASSIGN(const int right, level == kCoalesceLevel ? coalesce_right() : binary(level + 1));
      MOE_ASSIGN(left, add(found->op, column, {left, right}));
      if (level == kCompareLevel) break;
    }
    return left;
  }
  Result<int> coalesce_right() {
    const Nesting nesting(&nesting_);
    if (nesting_ > kMaxDepth) return too_deep(token_.column);
    return binary(kCoalesceLevel);
  }

  // A prefix operator; what follows is of the same level, so that it may be repeated.
  Result<int> negation(Op op, int level) {
    const Nesting nesting(&nesting_);
    if (nesting_ > kMaxDepth) return too_deep(token_.column);
    const size_t column = token_.column;
    MOE_TRY(advance());
    MOE_ASSIGN(const int operand, binary(level));
    return add(op, column, {operand});
  }

  Result<int> unary() {
    if (is("-")) return negation(Op::kNegate, kLastLevel + 1);
    MOE_ASSIGN(int node, primary());
    while (is(".") || is("[")) {
      const size_t column = token_.column;
      const bool member = is(".");
      MOE_TRY(advance());
      if (member) {
        if (token_.kind != TokenKind::kName) return unexpected("a key after '.'");
        MOE_ASSIGN(node, add(Op::kMember, token_.column, {node}, token_.text));
        MOE_TRY(advance());
      } else {
        MOE_ASSIGN(const int index, conditional());
        MOE_TRY(expect("]"));
        MOE_ASSIGN(node, add(Op::kIndex, column, {node, index}));
      }
    }
    return node;
  }

  Result<int> primary() {
    if (token_.kind == TokenKind::kNumber || token_.kind == TokenKind::kString) return literal(token_.value);
    if (is("true")) return literal(true);
    if (is("false")) return literal(false);
    if (is("null")) return literal(nullptr);
    if (is("(")) {
      MOE_TRY(advance());
      MOE_ASSIGN(const int inner, conditional());
      MOE_TRY(expect(")"));
      return inner;
    }
    if (is("[")) {
      const size_t column = token_.column;
      MOE_ASSIGN(auto elements, arguments("]"));
      return add(Op::kList, column, std::move(elements));
    }
    if (token_.kind == TokenKind::kName && !is_keyword(token_.text)) return name();
    return unexpected("a value");
  }

  Result<int> literal(Value value) {
    Node node;
    node.column = token_.column;
    node.literal = std::move(value);
    MOE_TRY(advance());
    return add(std::move(node));
  }

  Result<int> name() {
    const Token token = token_;
    MOE_TRY(advance());
    if (!is("(")) return add(Op::kName, token.column, {}, token.text);
    const auto* function = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                        [&](const Function& f) { return f.name == token.text; });
    if (function == std::end(kFunctions)) {
      return error_at(token.column, fmt::format("one of the functions {}", function_names()), quoted(token.text));
    }
    MOE_ASSIGN(auto given, arguments(")"));
    if (given.size() < function->min_arguments || given.size() > function->max_arguments) {
      return error_at(token.column,
                      function->max_arguments == 1   ? fmt::format("1 argument for {}", token.text)
                      : function->max_arguments == 2 ? fmt::format("2 arguments for {}", token.text)
                                                     : fmt::format("1 to {} arguments for {}", kAny, token.text),
                      std::to_string(given.size()));
    }
    if (token.text == "has" && !is_path(given[0]))
      return error_at(token.column, "a key in has(...)", "another expression");
    return add(Op::kCall, token.column, std::move(given), token.text);
  }
  [[nodiscard]] bool is_path(int node) const {
    const Op op = ast_.nodes[static_cast<size_t>(node)].op;
    return op == Op::kName || op == Op::kMember || op == Op::kIndex;
  }
  static std::string function_names() {
    std::string names;
    for (const auto& f : kFunctions) names += (names.empty() ? "" : ", ") + std::string(f.name);
    return names;
  }

  // From the opening bracket to behind `close`; a comma before `close` is allowed.
  Result<std::vector<int>> arguments(std::string_view close) {
    std::vector<int> nodes;
    MOE_TRY(advance());
    while (!is(close)) {
      MOE_ASSIGN(const int node, conditional());
      nodes.push_back(node);
      if (!is(",")) break;
      MOE_TRY(advance());
    }
    if (!is(close)) return unexpected(fmt::format("',' or '{}'", close));
    MOE_TRY(advance());
    return nodes;
  }

  Lexer lexer_;
  Token token_;
  Ast ast_;
  int nesting_ = 0;
};

}  // namespace

moe::Error error_at(size_t column, std::string_view expected, std::string_view got) {
  return moe::invalid(fmt::format("column {}: expected {}, got {}", column, expected, got));
}

moe::Result<Ast> parse(std::string_view text) {
  if (text.size() > kMaxBytes)
    return error_at(1, fmt::format("at most {} bytes", kMaxBytes), std::to_string(text.size()));
  return Parser(text).run();
}

}  // namespace patchbay::expression
