// Reading a TOML table strictly: the keys that are asked for are the keys that exist; any other is an error with the nearest name.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/toml_file.hpp"

namespace patchbay {

class TableReader {
 public:
  // `subject` names the table in messages ("model"); "" is the document. A node that is no table is an error at finish().
  TableReader(const TomlNode& node, std::string subject) : node_(&node), subject_(std::move(subject)) {
    if (node.table() == nullptr) fail(node, "a table");
  }

  // The value, or `otherwise` if the key is missing. A wrong type or range is remembered and reported by finish(): the first one wins.
  std::string text(std::string_view key, std::string otherwise = "");
  int64_t integer(std::string_view key, int64_t otherwise, int64_t min = 0, int64_t max = std::numeric_limits<int64_t>::max());
  double number(std::string_view key, double otherwise);
  bool flag(std::string_view key, bool otherwise);
  std::vector<std::string> texts(std::string_view key);
  // One of the choices.
  std::string choice(std::string_view key, std::string otherwise, const std::vector<std::string>& choices);
  // Any node, for what has a structure of its own; null if missing.
  const TomlNode* node(std::string_view key);
  // A sub-table or null; an array of tables, or a single table as an array of one.
  const TomlNode* table(std::string_view key);
  std::vector<const TomlNode*> tables(std::string_view key);
  // All members whose keys nobody asked for: for tables that take free keys (a plugin's options). Marks them as known.
  std::vector<std::pair<std::string, const TomlNode*>> rest();

  [[nodiscard]] bool has(std::string_view key) const { return node_->find(key) != nullptr; }
  [[nodiscard]] std::string where() const { return node_->where(); }
  // The first error, or an unknown key's.
  [[nodiscard]] moe::Status finish() const;

 private:
  void fail(const TomlNode& at, std::string_view expected, std::string_view key = "");
  [[nodiscard]] std::string path(std::string_view key) const;

  const TomlNode* node_;
  std::string subject_;
  std::vector<std::string> known_;
  std::optional<moe::Error> error_;
};

}  // namespace patchbay
