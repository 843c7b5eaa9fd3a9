// What a cell's result belongs to: its configuration, what is measured, and the files that go in.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/experiment/plan.hpp"
#include "core/plugin/sha256.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// SHA-256 over the names, sizes and contents of a model's files, in hexadecimal. Of a file above 16 MiB the first and
// the last 4 MiB count, and its size: weights that were trained anew differ everywhere.
moe::Result<std::string> identity_of(const std::filesystem::path& model);

// A cell's key: a result under the same key is the same measurement. `files`: identity_of the model and of what is
// measured with. Where the files lie does not count.
std::string key_of(const Experiment& experiment, const Cell& cell, const nlohmann::json& files);

}  // namespace patchbay
