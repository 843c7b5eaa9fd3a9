// Architecture files: configs/architectures/<name>.toml says how a config.json becomes a ModelSpec. The grammar is documented in
// configs/architectures/README.md.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/config/toml_file.hpp"
#include "core/model/architecture/model_spec.hpp"

namespace patchbay {

class ArchitectureLibrary {
 public:
  // All *.toml files of the folders; a file in an earlier folder hides one of the same name in a later one. A folder that is missing is
  // skipped; a file that cannot be read is an error.
  static moe::Result<ArchitectureLibrary> open(const std::vector<std::filesystem::path>& folders);

  // The spec of a checkpoint with this config.json. `wanted` (a name, or empty) overrides what "architectures" says. `context` (0: the
  // model's own) is the longest sequence: some rotary scalings choose by it.
  [[nodiscard]] moe::Result<ModelSpec> describe(const nlohmann::json& config, const std::string& wanted = "", int64_t context = 0) const;

  [[nodiscard]] std::vector<std::string> names() const;

 private:
  struct File {
    std::string name;
    std::vector<std::string> matches;
    TomlNode document;  // its base merged in
  };
  std::vector<File> files_;
  std::vector<std::filesystem::path> folders_;
};

// The spec that one (merged) architecture document gives for a config. For tests and fuzzing.
moe::Result<ModelSpec> build_model_spec(const TomlNode& document, const nlohmann::json& config, int64_t context);

}  // namespace patchbay
