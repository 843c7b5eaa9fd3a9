// The shape of a well-known model: what its config.json says, and how a GGUF file says the same.
// configs/shapes/<name>.toml.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/model/checkpoint/gguf_writer.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

struct ModelShape {
  std::string name;
  std::string doc;
  nlohmann::json config;      // config.json
  GgufWriter::Metadata gguf;  // empty: the file has no table [gguf]
};

// `like` is the name of a file in one of the folders, or a path: to such a file, to a config.json, or to a directory
// with one. Errors name the file; MOE_NOT_FOUND lists the names that there are.
moe::Result<ModelShape> load_shape(const std::string& like, const std::vector<std::filesystem::path>& folders);

// The names of the shapes in the folders.
std::vector<std::string> shape_names(const std::vector<std::filesystem::path>& folders);

}  // namespace patchbay
