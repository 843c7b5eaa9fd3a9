// TOML as a tree that remembers where each value stood. The only place that knows the TOML library.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

struct TomlNode;
using TomlArray = std::vector<TomlNode>;
using TomlTable = std::vector<std::pair<std::string, TomlNode>>;  // in order of the keys

struct TomlNode {
  std::variant<bool, int64_t, double, std::string, TomlArray, TomlTable> value = TomlTable{};
  std::string source;  // the file, or "--set key=value"
  uint32_t line = 0;   // 0: no place inside the source
  uint32_t column = 0;

  // "file: line 3, column 5"
  [[nodiscard]] std::string where() const;
  [[nodiscard]] const TomlTable* table() const { return std::get_if<TomlTable>(&value); }
  [[nodiscard]] const TomlArray* array() const { return std::get_if<TomlArray>(&value); }
  // A member of a table; null if this is none or has no such key.
  [[nodiscard]] const TomlNode* find(std::string_view key) const;
  [[nodiscard]] TomlNode* find(std::string_view key);
  // "a table", "an integer", ...
  [[nodiscard]] const char* type_name() const;
};

// The document as a table. Errors: "source: line L, column C: ...". Dates and times are refused: nothing here has one.
moe::Result<TomlNode> parse_toml(std::string_view text, const std::string& source);
moe::Result<TomlNode> parse_toml_file(const std::filesystem::path& path);

// One `--set key=value`: the key may be dotted, the value is TOML; a value that is no TOML is taken as a string.
moe::Result<TomlNode> parse_override(std::string_view assignment);

// Lays `over` on `base`: tables merge key by key, everything else is replaced.
void merge(TomlNode& base, const TomlNode& over);

}  // namespace patchbay
