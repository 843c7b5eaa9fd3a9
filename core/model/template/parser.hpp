// Tokens to a Program.
#pragma once

#include <string_view>

#include "core/model/template/ast.hpp"
#include "core/model/template/lexer.hpp"

namespace patchbay::jinja {

// Recursive descent over Jinja2's grammar, as deep as kMaxTreeDepth. Errors are "line L: expected X, got Y".
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Result<Program> run();

 private:
  using Rule = Result<ExprPtr> (Parser::*)();

  // Tokens.
  [[nodiscard]] const Token& now() const { return tokens_[at_]; }
  [[nodiscard]] const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  [[nodiscard]] bool sees(TokenKind kind) const { return now().kind == kind; }
  [[nodiscard]] bool sees_op(std::string_view text) const { return sees(TokenKind::kOperator) && now().text == text; }
  [[nodiscard]] bool sees_name(std::string_view text) const { return sees(TokenKind::kName) && now().text == text; }
  Token take();
  bool skip_op(std::string_view text);
  bool skip_name(std::string_view text);
  Status expect_op(std::string_view text);
  Status expect_name(std::string_view text);
  Status expect(TokenKind kind, std::string_view what);
  [[nodiscard]] moe::Error unexpected(std::string_view wanted) const;

  // Expressions (parser.cpp).
  [[nodiscard]] Result<ExprPtr> make(ExprKind kind, int line, std::vector<ExprPtr> parts = {}) const;
  Result<ExprPtr> finish(ExprPtr node) const;
  Result<ExprPtr> expression(bool with_if = true);
  Result<ExprPtr> conditional();
  Result<ExprPtr> either();
  Result<ExprPtr> both();
  Result<ExprPtr> negation();
  Result<ExprPtr> comparison();
  Result<ExprPtr> sum();
  Result<ExprPtr> concatenation();
  Result<ExprPtr> product();
  Result<ExprPtr> power();
  Result<ExprPtr> unary() { return unary(true); }
  Result<ExprPtr> unary(bool with_filter);
  Result<ExprPtr> primary();
  Result<ExprPtr> constant(Value value);
  Result<ExprPtr> number();
  Result<ExprPtr> name_or_constant();
  Result<ExprPtr> strings();
  Result<ExprPtr> parenthesized();
  Result<ExprPtr> list_literal();
  Result<ExprPtr> dict_literal();
  Result<ExprPtr> tuple(bool with_if = true);
  [[nodiscard]] bool ends_tuple() const;
  Result<ExprPtr> postfix(ExprPtr node);
  Result<ExprPtr> attribute(ExprPtr node);
  Result<ExprPtr> subscript(ExprPtr node);
  Result<ExprPtr> subscript_index();
  Result<ExprPtr> filters_and_tests(ExprPtr node);
  Result<ExprPtr> filter(ExprPtr node);
  Result<ExprPtr> test(ExprPtr node);
  Result<ExprPtr> call(ExprPtr node);
  Result<ArgExprs> arguments();
  Result<ExprPtr> binary(Rule operand, std::initializer_list<std::pair<std::string_view, Op>> operators);
  Result<std::string> dotted_name();

  // Statements (parser_statements.cpp).
  Status body_until(Body& body, std::initializer_list<std::string_view> ends);
  Status statement(Body& body);
  Result<std::unique_ptr<Stmt>> statement_of(const std::string& word, int line);
  Result<std::unique_ptr<Stmt>> output_statement();
  Result<std::unique_ptr<Stmt>> print_statement();
  Status set_statement(Stmt& s);
  Status if_statement(Stmt& s);
  Status for_statement(Stmt& s);
  Status with_statement(Stmt& s);
  Status macro_statement(Stmt& s);
  Status call_statement(Stmt& s);
  Status filter_statement(Stmt& s);
  Status block_statement(Stmt& s, std::string_view end);
  Status callable_body(Stmt& s, std::string_view end);
  Status signature(Stmt& s);
  Status end_block() { return expect(TokenKind::kBlockEnd, "'%}'"); }
  Result<Target> target();
  Result<Target> one_target();
  Result<uint32_t> assignable_name();

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int n_loops_ = 0;            // around here, within this macro: where break may stand
  int n_conditions_ = 0;       // around here: what never runs may name filters that do not exist
  std::vector<Stmt*> macros_;  // around here
  Program program_;
};

}  // namespace patchbay::jinja
