// results.jsonl: one finished cell a line, kept across runs.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "moe/sdk/result.hpp"

namespace patchbay {

class ResultsFile {
 public:
  // Opens or makes it. A last line without its end, which a run left that was cut off, is taken away. Errors: the file
  // cannot be written, or a line is no result: "FILE: line N: ...".
  static moe::Result<ResultsFile> open(std::filesystem::path file);

  // By key; a later line counts instead of an earlier one. A cell that failed is not there.
  [[nodiscard]] const nlohmann::json* find(const std::string& key) const;
  // Appends {"key": ...} in one write, on disk when this returns.
  moe::Status add(const nlohmann::json& result);

 private:
  explicit ResultsFile(std::filesystem::path file) : file_(std::move(file)) {}
  std::filesystem::path file_;
  std::map<std::string, nlohmann::json> by_key_;
};

}  // namespace patchbay
