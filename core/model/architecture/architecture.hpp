// Architecture files: configs/architectures/<name>.toml says how what a checkpoint says about itself becomes a
// ModelSpec. The grammar is documented in configs/architectures/README.md.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/config/toml_file.hpp"
#include "core/model/architecture/model_spec.hpp"

namespace patchbay {

// What a checkpoint says about its model, before an architecture file reads it.
struct ModelDescription {
  // The table of an architecture file that is for checkpoints of this format ("gguf"). Empty: the file itself, whose
  // expressions are over config.json as Hugging Face writes it.
  std::string format;
  std::vector<std::string> names;  // architectures that it names; the first that a file matches counts
  nlohmann::json values;           // an object: what the expressions see
  std::string source;              // where it was read, for messages
};

class ArchitectureLibrary {
 public:
  // All *.toml files of the folders; a file in an earlier folder hides one of the same name in a later one. A folder
  // that is missing is skipped; a file that cannot be read is an error.
  static moe::Result<ArchitectureLibrary> open(const std::vector<std::filesystem::path>& folders);

  // The spec of a checkpoint. `wanted` (a file's name, or empty) overrides the architecture that it names. `context`
  // (0: the model's own) is the longest sequence: some rotary scalings choose by it. MOE_UNIMPLEMENTED: no file is for
  // this architecture.
  [[nodiscard]] moe::Result<ModelSpec> describe(const ModelDescription& description, const std::string& wanted = "",
                                                int64_t context = 0) const;
  // The same for a config.json.
  [[nodiscard]] moe::Result<ModelSpec> describe(const nlohmann::json& config, const std::string& wanted = "",
                                                int64_t context = 0) const;

  // The spec of a checkpoint in that format ("gguf", or "" for Hugging Face's) of the model with this config.json: for
  // writing one.
  [[nodiscard]] moe::Result<ModelSpec> describe_for(const std::string& format, const nlohmann::json& config) const;

  [[nodiscard]] std::vector<std::string> names() const;

 private:
  struct File {
    std::string name;
    std::map<std::string, std::vector<std::string>>
        matches;        // by format ("": config.json): the names that are this architecture
    TomlNode document;  // its base merged in
  };
  [[nodiscard]] moe::Result<const File*> find(const ModelDescription& description, const std::string& wanted) const;
  static moe::Result<ModelSpec> read(const File& file, const std::string& format, const nlohmann::json& config,
                                     int64_t context);
  [[nodiscard]] moe::Error unknown(const ModelDescription& description) const;

  std::vector<File> files_;
  std::vector<std::filesystem::path> folders_;
};

// The description that a config.json gives.
ModelDescription describe_config(const nlohmann::json& config);

// The spec that one (merged) architecture document gives for a config. For tests and fuzzing.
moe::Result<ModelSpec> build_model_spec(const TomlNode& document, const nlohmann::json& config, int64_t context);

}  // namespace patchbay
