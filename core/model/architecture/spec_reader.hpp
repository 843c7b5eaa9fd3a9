// Evaluates the values of one architecture document against a config.json, and remembers the first thing that went wrong.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/config/toml_file.hpp"
#include "core/model/architecture/expression.hpp"
#include "core/model/architecture/model_spec.hpp"

namespace patchbay {

// One table of the document. Every string in it is an expression; numbers and booleans stand for themselves. As in TableReader, the keys that
// are asked for are the keys that exist.
class SpecReader {
 public:
  SpecReader(const TomlNode* table, std::string subject, const nlohmann::json& config, const std::map<std::string, Value>& variables)
      : table_(table), subject_(std::move(subject)), config_(&config), variables_(&variables) {}

  // Null or missing gives `otherwise`; without an `otherwise` it is an error.
  int64_t integer(std::string_view key, std::optional<int64_t> otherwise, int64_t min, int64_t max);
  double number(std::string_view key, std::optional<double> otherwise);
  bool flag(std::string_view key, bool otherwise);
  std::string text(std::string_view key, std::optional<std::string> otherwise);
  std::vector<double> numbers(std::string_view key);
  // A value of any type; none where it is null or missing.
  std::optional<Value> value(std::string_view key);
  // The table as a plugin and its options: "plugin" and every other key; nulls are left out.
  PartSpec part();

  // A key that may be there without being read.
  void ignore(std::string_view key) { known_.emplace_back(key); }

  [[nodiscard]] moe::Status finish() const;

 private:
  std::optional<Value> evaluate(const TomlNode& node, std::string_view key);
  void fail(const TomlNode* at, std::string_view key, std::string message);
  void fail_type(std::string_view key, std::string_view expected, const Value& got);

  const TomlNode* table_;
  std::string subject_;
  const nlohmann::json* config_;
  const std::map<std::string, Value>* variables_;
  std::vector<std::string> known_;
  std::optional<moe::Error> error_;
};

}  // namespace patchbay
