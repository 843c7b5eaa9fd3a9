#include "core/config/table_reader.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/plugin/nearest.hpp"

namespace patchbay {

std::string TableReader::path(std::string_view key) const {
  if (key.empty()) return subject_;
  return subject_.empty() ? std::string(key) : fmt::format("{}.{}", subject_, key);
}

void TableReader::fail(const TomlNode& at, std::string_view expected, std::string_view key) {
  if (error_) return;
  std::string got = at.type_name();
  if (const auto* s = std::get_if<std::string>(&at.value)) got = fmt::format("\"{}\"", *s);
  if (const auto* i = std::get_if<int64_t>(&at.value)) got = fmt::format("{}", *i);
  if (const auto* f = std::get_if<double>(&at.value)) got = fmt::format("{}", *f);
  error_ = moe::invalid(fmt::format("{}: {}: expected {}, got {}", at.where(), path(key), expected, got));
}

const TomlNode* TableReader::node(std::string_view key) {
  known_.emplace_back(key);
  return node_->find(key);
}

std::string TableReader::text(std::string_view key, std::string otherwise) {
  const TomlNode* n = node(key);
  if (n == nullptr) return otherwise;
  if (const auto* s = std::get_if<std::string>(&n->value)) return *s;
  fail(*n, "a string", key);
  return otherwise;
}

int64_t TableReader::integer(std::string_view key, int64_t otherwise, int64_t min, int64_t max) {
  const TomlNode* n = node(key);
  if (n == nullptr) return otherwise;
  const auto* i = std::get_if<int64_t>(&n->value);
  if (i != nullptr && *i >= min && *i <= max) return *i;
  fail(*n, max == std::numeric_limits<int64_t>::max() ? fmt::format("an integer of at least {}", min) : fmt::format("an integer in [{}, {}]", min, max),
       key);
  return otherwise;
}

double TableReader::number(std::string_view key, double otherwise) {
  const TomlNode* n = node(key);
  if (n == nullptr) return otherwise;
  if (const auto* f = std::get_if<double>(&n->value)) return *f;
  if (const auto* i = std::get_if<int64_t>(&n->value)) return static_cast<double>(*i);
  fail(*n, "a number", key);
  return otherwise;
}

bool TableReader::flag(std::string_view key, bool otherwise) {
  const TomlNode* n = node(key);
  if (n == nullptr) return otherwise;
  if (const auto* b = std::get_if<bool>(&n->value)) return *b;
  fail(*n, "true or false", key);
  return otherwise;
}

std::vector<std::string> TableReader::texts(std::string_view key) {
  const TomlNode* n = node(key);
  if (n == nullptr) return {};
  if (const auto* s = std::get_if<std::string>(&n->value)) return {*s};
  std::vector<std::string> found;
  const auto* items = n->array();
  if (items == nullptr) {
    fail(*n, "a string or an array of strings", key);
    return {};
  }
  for (const auto& item : *items) {
    if (const auto* s = std::get_if<std::string>(&item.value)) {
      found.push_back(*s);
    } else {
      fail(item, "a string", key);
    }
  }
  return found;
}

std::string TableReader::choice(std::string_view key, std::string otherwise, const std::vector<std::string>& choices) {
  const std::string value = text(key, otherwise);
  if (std::find(choices.begin(), choices.end(), value) != choices.end() || value == otherwise) return value;
  const TomlNode* n = node_->find(key);
  fail(*n, fmt::format("one of {}{}", fmt::join(choices, " | "), did_you_mean(value, choices)), key);
  return otherwise;
}

const TomlNode* TableReader::table(std::string_view key) {
  const TomlNode* n = node(key);
  if (n == nullptr || n->table() != nullptr) return n;
  fail(*n, "a table", key);
  return nullptr;
}

std::vector<const TomlNode*> TableReader::tables(std::string_view key) {
  const TomlNode* n = node(key);
  if (n == nullptr) return {};
  if (n->table() != nullptr) return {n};
  std::vector<const TomlNode*> found;
  const auto* items = n->array();
  if (items == nullptr) {
    fail(*n, "a table or an array of tables", key);
    return {};
  }
  for (const auto& item : *items) {
    if (item.table() == nullptr) {
      fail(item, "a table", key);
      return {};
    }
    found.push_back(&item);
  }
  return found;
}

std::vector<std::pair<std::string, const TomlNode*>> TableReader::rest() {
  std::vector<std::pair<std::string, const TomlNode*>> found;
  if (node_->table() == nullptr) return found;
  for (const auto& [key, child] : *node_->table()) {
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    found.emplace_back(key, &child);
  }
  for (const auto& [key, child] : found) known_.push_back(key);
  return found;
}

moe::Status TableReader::finish() const {
  if (error_) return *error_;
  for (const auto& [key, child] : *node_->table()) {
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    return moe::invalid(fmt::format("{}: {}: expected one of {}, got \"{}\"{}", child.where(), subject_.empty() ? "configuration" : subject_,
                                    fmt::join(known_, ", "), key, did_you_mean(key, known_)));
  }
  return {};
}

}  // namespace patchbay
