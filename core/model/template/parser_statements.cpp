// Statements.
#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/parser.hpp"

namespace patchbay::jinja {
namespace {

int depth_of(const Body& body) {
  int depth = 0;
  for (const auto& s : body) depth = std::max(depth, s->depth);
  return depth;
}

}  // namespace

Result<Program> Parser::run() {
  MOE_TRY(body_until(program_.body, {}));
  return std::move(program_);
}

// Statements up to a block that begins with one of `ends`, whose word is left to read; without `ends`, up to the end.
Status Parser::body_until(Body& body, std::initializer_list<std::string_view> ends) {
  if (++depth_ > kMaxTreeDepth) {
    return moe::exhausted(
        fmt::format("line {}: expected at most {} levels of nesting, got more", now().line, kMaxTreeDepth));
  }
  while (true) {
    if (sees(TokenKind::kEnd)) {
      if (ends.size() > 0) return unexpected(fmt::format("'{{% {} %}}'", *(ends.end() - 1)));
      break;
    }
    if (sees(TokenKind::kBlockBegin)) {
      take();
      if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return sees_name(end); })) break;
      MOE_TRY(statement(body));
      MOE_TRY(end_block());
    } else if (sees(TokenKind::kVariableBegin)) {
      take();
      MOE_ASSIGN(std::unique_ptr<Stmt> s, output_statement());
      MOE_TRY(expect(TokenKind::kVariableEnd, "'}}'"));
      body.push_back(std::move(s));
    } else {
      auto s = std::make_unique<Stmt>();
      s->kind = StmtKind::kText;
      s->line = now().line;
      s->text = take().text;
      body.push_back(std::move(s));
    }
  }
  --depth_;
  return {};
}

Result<std::unique_ptr<Stmt>> Parser::output_statement() {
  auto s = std::make_unique<Stmt>();
  s->kind = StmtKind::kOutput;
  s->line = now().line;
  MOE_ASSIGN(s->expr, tuple());
  return s;
}

// {% print a, b %}: both, one after the other.
Result<std::unique_ptr<Stmt>> Parser::print_statement() {
  auto s = std::make_unique<Stmt>();
  s->kind = StmtKind::kOutput;
  s->line = now().line;
  std::vector<ExprPtr> parts;
  do {
    MOE_ASSIGN(ExprPtr part, expression());
    parts.push_back(std::move(part));
  } while (skip_op(","));
  MOE_ASSIGN(s->expr, make(ExprKind::kConcat, s->line, std::move(parts)));
  return s;
}

// One block, after its "{%" and up to its last "%}".
Status Parser::statement(Body& body) {
  if (!sees(TokenKind::kName)) return unexpected("a tag's name");
  const Token word = take();
  MOE_ASSIGN(std::unique_ptr<Stmt> s, statement_of(word.text, word.line));
  s->depth = 1 + std::max(depth_of(s->body), depth_of(s->otherwise));
  for (const auto& branch : s->branches) s->depth = std::max(s->depth, 1 + depth_of(branch.second));
  body.push_back(std::move(s));
  return {};
}

Result<std::unique_ptr<Stmt>> Parser::statement_of(const std::string& word, int line) {
  if (word == "print") return print_statement();
  auto s = std::make_unique<Stmt>();
  s->line = line;
  Status status;
  if (word == "set") {
    status = set_statement(*s);
  } else if (word == "if") {
    status = if_statement(*s);
  } else if (word == "for") {
    status = for_statement(*s);
  } else if (word == "with") {
    status = with_statement(*s);
  } else if (word == "macro") {
    status = macro_statement(*s);
  } else if (word == "call") {
    status = call_statement(*s);
  } else if (word == "filter") {
    status = filter_statement(*s);
  } else if (word == "generation") {
    status = block_statement(*s, "endgeneration");
  } else if ((word == "break" || word == "continue") && n_loops_ > 0) {
    s->kind = word == "break" ? StmtKind::kBreak : StmtKind::kContinue;
  } else {
    return moe::invalid(fmt::format("line {}: expected a tag that is known and may stand here, got '{}'", line, word));
  }
  if (!status.ok()) return status.error();
  return s;
}

Result<uint32_t> Parser::assignable_name() {
  static constexpr std::string_view kConstants[] = {"true", "false", "none", "True", "False", "None"};
  if (!sees(TokenKind::kName) || std::count(std::begin(kConstants), std::end(kConstants), now().text) > 0) {
    return unexpected("a name to assign to");
  }
  return program_.intern(take().text);
}

Result<Target> Parser::one_target() {
  Target out;
  if (sees_op("(")) {
    if (depth_ > kMaxTreeDepth) return unexpected("fewer parentheses");
    ++depth_;
    take();
    MOE_ASSIGN(out, target());
    MOE_TRY(expect_op(")"));
    --depth_;
    return out;
  }
  MOE_ASSIGN(out.name, assignable_name());
  return out;
}

// A name, or several with commas between.
Result<Target> Parser::target() {
  MOE_ASSIGN(Target first, one_target());
  if (!sees_op(",")) return first;
  Target out;
  out.parts.push_back(std::move(first));
  while (skip_op(",")) {
    if (!sees(TokenKind::kName) && !sees_op("(")) break;
    if (sees_name("in")) break;
    MOE_ASSIGN(Target next, one_target());
    out.parts.push_back(std::move(next));
  }
  return out;
}

Status Parser::set_statement(Stmt& s) {
  s.kind = StmtKind::kSet;
  if (sees(TokenKind::kName) && ahead().kind == TokenKind::kOperator && ahead().text == ".") {
    MOE_ASSIGN(s.target.name, assignable_name());
    take();
    if (!sees(TokenKind::kName)) return unexpected("an attribute's name");
    s.target.attribute = take().text;
  } else {
    MOE_ASSIGN(s.target, target());
  }
  if (skip_op("=")) {
    MOE_ASSIGN(s.expr, tuple());
    return {};
  }
  s.kind = StmtKind::kSetBlock;
  while (skip_op("|")) {
    MOE_ASSIGN(s.expr, filter(std::move(s.expr)));
  }
  return block_statement(s, "endset");
}

// "%}", a body and its end; leaves `kind` alone if it is a set or filter block's.
Status Parser::block_statement(Stmt& s, std::string_view end) {
  if (end == "endgeneration") s.kind = StmtKind::kScope;
  MOE_TRY(end_block());
  MOE_TRY(body_until(s.body, {end}));
  return expect_name(end);
}

Status Parser::if_statement(Stmt& s) {
  s.kind = StmtKind::kIf;
  ++n_conditions_;
  do {
    MOE_ASSIGN(ExprPtr condition, tuple(false));
    MOE_TRY(end_block());
    s.branches.emplace_back(std::move(condition), Body{});
    MOE_TRY(body_until(s.branches.back().second, {"elif", "else", "endif"}));
  } while (skip_name("elif"));
  if (skip_name("else")) {
    MOE_TRY(end_block());
    MOE_TRY(body_until(s.otherwise, {"endif"}));
  }
  --n_conditions_;
  return expect_name("endif");
}

Status Parser::for_statement(Stmt& s) {
  s.kind = StmtKind::kFor;
  MOE_ASSIGN(s.target, target());
  MOE_TRY(expect_name("in"));
  MOE_ASSIGN(s.expr, tuple(false));
  if (skip_name("if")) {
    MOE_ASSIGN(s.test, expression());
  }
  s.recursive = skip_name("recursive");
  MOE_TRY(end_block());
  ++n_loops_;
  MOE_TRY(body_until(s.body, {"else", "endfor"}));
  --n_loops_;
  if (skip_name("else")) {
    MOE_TRY(end_block());
    MOE_TRY(body_until(s.otherwise, {"endfor"}));
  }
  return expect_name("endfor");
}

Status Parser::with_statement(Stmt& s) {
  s.kind = StmtKind::kWith;
  while (!sees(TokenKind::kBlockEnd)) {
    if (!s.targets.empty()) MOE_TRY(expect_op(","));
    MOE_ASSIGN(Target to, one_target());
    MOE_TRY(expect_op("="));
    MOE_ASSIGN(ExprPtr value, expression());
    s.targets.push_back(std::move(to));
    s.values.push_back(std::move(value));
  }
  return block_statement(s, "endwith");
}

// "(a, b=1)".
Status Parser::signature(Stmt& s) {
  MOE_TRY(expect_op("("));
  while (!sees_op(")")) {
    if (!s.params.empty()) MOE_TRY(expect_op(","));
    MOE_ASSIGN(const uint32_t param, assignable_name());
    s.params.push_back(param);
    if (skip_op("=")) {
      MOE_ASSIGN(ExprPtr value, expression());
      s.values.push_back(std::move(value));
    } else if (!s.values.empty()) {
      return unexpected("a default after a parameter that has one");
    }
  }
  take();
  return {};
}

// The body of what can be called: a loop around it is out of reach for break.
Status Parser::callable_body(Stmt& s, std::string_view end) {
  const int loops = std::exchange(n_loops_, 0);
  macros_.push_back(&s);
  MOE_TRY(block_statement(s, end));
  macros_.pop_back();
  n_loops_ = loops;
  return {};
}

Status Parser::macro_statement(Stmt& s) {
  s.kind = StmtKind::kMacro;
  MOE_ASSIGN(s.name, assignable_name());
  MOE_TRY(signature(s));
  return callable_body(s, "endmacro");
}

Status Parser::call_statement(Stmt& s) {
  s.kind = StmtKind::kCall;
  s.name = program_.intern("caller");
  if (sees_op("(")) MOE_TRY(signature(s));
  MOE_ASSIGN(s.expr, expression());
  if (s.expr->kind != ExprKind::kCall) return unexpected("a call in the call block");
  return callable_body(s, "endcall");
}

Status Parser::filter_statement(Stmt& s) {
  s.kind = StmtKind::kFilterBlock;
  do {
    MOE_ASSIGN(s.expr, filter(std::move(s.expr)));
  } while (skip_op("|"));
  return block_statement(s, "endfilter");
}

}  // namespace patchbay::jinja
