// A vocabulary as tiktoken writes it, with the special tokens of tokenizer_config.json. Used by hugging_face_files.cpp
// alone.
#pragma once

#include <filesystem>
#include <memory>

#include "core/model/tokenizer/tokenizer.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// The tokenizer of a directory that has tiktoken.model: a token a line, in base64, with its rank, which is its id.
// Files say nothing of how text is split; that follows from the class that tokenizer_config.json names. Errors begin
// with the file's path. MOE_UNIMPLEMENTED: another class.
moe::Result<std::unique_ptr<Tokenizer>> tiktoken_tokenizer(const std::filesystem::path& directory);

}  // namespace patchbay
