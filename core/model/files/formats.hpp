// The readers behind ModelFiles::open, one a format. Used by model_files.cpp alone.
#pragma once

#include "core/model/files/model_files.hpp"

namespace patchbay {

moe::Result<std::unique_ptr<ModelFiles>> open_hugging_face_files(const std::filesystem::path& directory);
moe::Result<std::unique_ptr<ModelFiles>> open_gguf_files(const std::filesystem::path& file);

}  // namespace patchbay
