// Shapes of well-known models, for `model make-random` and `bench --like`.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "core/config/settings.hpp"
#include "core/engine/random_model.hpp"
#include "core/plugin/registry.hpp"

namespace patchbay {

// Where shapes are looked for: share/patchbay/shapes.
std::vector<std::filesystem::path> shape_folders();

// The outline of a model of that shape whose tensors are named as `format` ("gguf", or "" for Hugging Face's) names
// them.
moe::Result<ModelOutline> outline_of_shape(const Settings& settings, const ModelShape& shape, const std::string& format,
                                           std::shared_ptr<PluginRegistry> registry, Host& host);

}  // namespace patchbay
