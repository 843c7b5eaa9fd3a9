#include "core/model/architecture/spec_reader.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/plugin/nearest.hpp"

namespace patchbay {

void SpecReader::fail(const TomlNode* at, std::string_view key, std::string message) {
  if (error_) return;
  const std::string where = at != nullptr ? at->where() + ": " : "";
  error_ = moe::invalid(fmt::format("{}{}.{}: {}", where, subject_, key, message));
}

void SpecReader::fail_type(std::string_view key, std::string_view expected, const Value& got) {
  std::string shown(type_name(got));
  if (const auto* i = got.as<int64_t>()) shown = fmt::format("{}", *i);
  if (const auto* d = got.as<double>()) shown = fmt::format("{}", *d);
  if (const auto* s = got.as<std::string>()) shown = fmt::format("\"{}\"", *s);
  fail(table_ == nullptr ? nullptr : table_->find(key), key, fmt::format("expected {}, got {}", expected, shown));
}

std::optional<Value> SpecReader::evaluate(const TomlNode& node, std::string_view key) {
  if (const auto* b = std::get_if<bool>(&node.value)) return Value(*b);
  if (const auto* i = std::get_if<int64_t>(&node.value)) return Value(*i);
  if (const auto* f = std::get_if<double>(&node.value)) return Value(*f);
  const auto* text = std::get_if<std::string>(&node.value);
  if (text == nullptr) {
    fail(&node, key, fmt::format("expected a value or an expression, got {}", node.type_name()));
    return std::nullopt;
  }
  auto expression = Expression::parse(*text);
  auto result = expression.ok() ? expression->evaluate(*config_, *variables_) : moe::Result<Value>(expression.error());
  if (!result.ok()) {
    fail(&node, key, fmt::format("\"{}\": {}", *text, result.error().message));
    return std::nullopt;
  }
  return *result;
}

std::optional<Value> SpecReader::value(std::string_view key) {
  known_.emplace_back(key);
  const TomlNode* node = table_ == nullptr ? nullptr : table_->find(key);
  if (node == nullptr) return std::nullopt;
  auto found = evaluate(*node, key);
  if (!found || found->is_null()) return std::nullopt;
  return found;
}

int64_t SpecReader::integer(std::string_view key, std::optional<int64_t> otherwise, int64_t min, int64_t max) {
  const auto v = value(key);
  if (!v) {
    if (!otherwise) fail(table_, key, "expected an integer, got nothing");
    return otherwise.value_or(min);
  }
  const auto* i = v->as<int64_t>();
  int64_t whole = i != nullptr ? *i : 0;
  const auto* d = v->as<double>();
  const bool is_whole = i != nullptr || (d != nullptr && std::abs(*d) < 9e15 && *d == std::floor(*d));
  if (d != nullptr && is_whole) whole = static_cast<int64_t>(*d);
  if (!is_whole || whole < min || whole > max) {
    fail_type(key, fmt::format("an integer in [{}, {}]", min, max), *v);
    return min;
  }
  return whole;
}

double SpecReader::number(std::string_view key, std::optional<double> otherwise) {
  const auto v = value(key);
  if (!v) {
    if (!otherwise) fail(table_, key, "expected a number, got nothing");
    return otherwise.value_or(0);
  }
  if (const auto* d = v->as<double>()) return *d;
  if (const auto* i = v->as<int64_t>()) return static_cast<double>(*i);
  fail_type(key, "a number", *v);
  return 0;
}

bool SpecReader::flag(std::string_view key, bool otherwise) {
  const auto v = value(key);
  if (!v) return otherwise;
  if (const auto* b = v->as<bool>()) return *b;
  fail_type(key, "true or false", *v);
  return otherwise;
}

std::string SpecReader::text(std::string_view key, std::optional<std::string> otherwise) {
  const auto v = value(key);
  if (!v) {
    if (!otherwise) fail(table_, key, "expected a string, got nothing");
    return otherwise.value_or("");
  }
  if (const auto* s = v->as<std::string>()) return *s;
  fail_type(key, "a string", *v);
  return "";
}

std::vector<double> SpecReader::numbers(std::string_view key) {
  const auto v = value(key);
  if (!v) return {};
  std::vector<double> out;
  if (const auto* list = v->as<Value::List>()) {
    for (const auto& item : *list) {
      if (const auto* d = item.as<double>()) {
        out.push_back(*d);
      } else if (const auto* i = item.as<int64_t>()) {
        out.push_back(static_cast<double>(*i));
      }
    }
    if (out.size() == list->size()) return out;
  }
  fail_type(key, "a list of numbers", *v);
  return {};
}

PartSpec SpecReader::part() {
  PartSpec part;
  part.plugin = text("plugin", std::nullopt);
  if (table_ == nullptr || table_->table() == nullptr) return part;
  for (const auto& [key, node] : *table_->table()) {
    if (key == "plugin") continue;
    known_.push_back(key);
    const auto v = evaluate(node, key);
    if (!v || v->is_null()) continue;
    GivenOption option{key, false, node.where()};
    if (const auto* b = v->as<bool>()) option.value = *b;
    if (const auto* i = v->as<int64_t>()) option.value = *i;
    if (const auto* d = v->as<double>()) option.value = *d;
    if (const auto* s = v->as<std::string>()) option.value = *s;
    if (v->is<Value::List>()) fail(&node, key, "expected a single value, got a list");
    part.options.push_back(std::move(option));
  }
  return part;
}

moe::Status SpecReader::finish() const {
  if (error_) return *error_;
  if (table_ == nullptr || table_->table() == nullptr) return {};
  for (const auto& [key, child] : *table_->table()) {
    if (child.table() != nullptr || std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    return moe::invalid(fmt::format("{}: {}: expected one of {}, got \"{}\"{}", child.where(), subject_, fmt::join(known_, ", "), key,
                                    did_you_mean(key, known_)));
  }
  return {};
}

}  // namespace patchbay
