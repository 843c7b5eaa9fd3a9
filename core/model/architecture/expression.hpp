// The expressions with which an architecture file maps a model's config.json onto settings of the engine:
//
//   head_dim = "head_dim ?? hidden_size // num_attention_heads"
//
// The grammar is documented in configs/architectures/README.md. Safe on any input: text, depth and work are bounded.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

// What an expression gives: null, a bool, an integer, a number (always finite), a string or a list of these.
struct Value {
  using List = std::vector<Value>;
  using Variant = std::variant<std::nullptr_t, bool, int64_t, double, std::string, List>;

  Variant data = nullptr;

  Value() = default;
  Value(std::nullptr_t) {}                        // NOLINT: implicit by design, so that variables read as literals
  Value(bool v) : data(v) {}                      // NOLINT
  Value(int v) : data(int64_t{v}) {}              // NOLINT
  Value(int64_t v) : data(v) {}                   // NOLINT
  Value(double v) : data(v) {}                    // NOLINT
  Value(const char* v) : data(std::string(v)) {}  // NOLINT
  Value(std::string v) : data(std::move(v)) {}    // NOLINT
  Value(List v) : data(std::move(v)) {}           // NOLINT

  template <typename T>
  [[nodiscard]] bool is() const {
    return std::holds_alternative<T>(data);
  }
  // Null if the value is of another type.
  template <typename T>
  [[nodiscard]] const T* as() const {
    return std::get_if<T>(&data);
  }
  [[nodiscard]] bool is_null() const { return is<std::nullptr_t>(); }

  // The same type and the same content; the expression's own == also takes 1 and 1.0 as equal.
  bool operator==(const Value&) const = default;
};

// "null", "a bool", "an integer", "a number", "a string" or "a list": for messages.
std::string_view type_name(const Value& value);

namespace expression {

struct Ast;

inline constexpr size_t kMaxBytes = 4096;      // of one expression's text
inline constexpr int kMaxDepth = 64;           // of nesting, and of a chain of operators
inline constexpr int64_t kMaxSteps = 1 << 20;  // operators applied and list elements copied in one evaluation

}  // namespace expression

// A parsed expression. Immutable; copies are cheap; [thread-safe].
class Expression {
 public:
  // "column C: expected X, got Y" (columns are bytes, from 1).
  static moe::Result<Expression> parse(std::string_view text);

  // The value with the keys of `config` (an object; anything else has no keys) and `variables`, which win over keys of
  // the same name. A missing key, a wrong type, an overflow, a division by zero, a result that is a map or not finite,
  // and too much work are errors: "column C: expected X, got Y".
  [[nodiscard]] moe::Result<Value> evaluate(const nlohmann::json& config,
                                            const std::map<std::string, Value>& variables = {}) const;

 private:
  explicit Expression(std::shared_ptr<const expression::Ast> ast) : ast_(std::move(ast)) {}
  std::shared_ptr<const expression::Ast> ast_;
};

}  // namespace patchbay
