// Result<T>: a value or an Error. What can be expected to fail returns one; nothing throws for it.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "moe/abi/status.h"

namespace moe {

// What went wrong: a code (never MOE_OK) and one line worded "subject: expected X, got Y".
struct Error {
  moe_status code = MOE_UNKNOWN;
  std::string message;

  // The same error, seen from the caller: "file.toml: line 3: ...".
  [[nodiscard]] Error in(std::string_view subject) const {
    return {code, std::string(subject) + ": " + message};
  }
};

inline Error invalid(std::string message) { return {MOE_INVALID_ARGUMENT, std::move(message)}; }
inline Error not_found(std::string message) { return {MOE_NOT_FOUND, std::move(message)}; }
inline Error data_loss(std::string message) { return {MOE_DATA_LOSS, std::move(message)}; }
inline Error exhausted(std::string message) { return {MOE_RESOURCE_EXHAUSTED, std::move(message)}; }
inline Error precondition(std::string message) { return {MOE_FAILED_PRECONDITION, std::move(message)}; }
inline Error unimplemented(std::string message) { return {MOE_UNIMPLEMENTED, std::move(message)}; }
inline Error internal(std::string message) { return {MOE_INTERNAL, std::move(message)}; }

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Only after ok().
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Only after !ok().
  [[nodiscard]] const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit by design

  [[nodiscard]] bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

// Writes `text` into a message buffer of the other side, cut to fit.
inline void write_message(moe_message* out, std::string_view text) noexcept {
  if (out == nullptr || out->text == nullptr || out->capacity == 0) return;
  const size_t n = std::min<size_t>(text.size(), out->capacity - 1);
  std::memcpy(out->text, text.data(), n);
  out->text[n] = '\0';
}

}  // namespace moe

// Returns the error of a Result from the enclosing function; otherwise goes on.
#define MOE_TRY(expr)                                       \
  do {                                                      \
    if (auto moe_try_ = (expr); !moe_try_.ok()) return moe_try_.error(); \
  } while (false)

// MOE_ASSIGN(auto x, f()): x is the value of f(), or the enclosing function returns f()'s error.
#define MOE_CONCAT_(a, b) a##b
#define MOE_CONCAT(a, b) MOE_CONCAT_(a, b)
#define MOE_ASSIGN(declaration, expr) MOE_ASSIGN_(MOE_CONCAT(moe_assign_, __LINE__), declaration, expr)
#define MOE_ASSIGN_(temporary, declaration, expr) \
  auto temporary = (expr);                        \
  if (!temporary.ok()) return temporary.error();  \
  declaration = std::move(temporary).value()
