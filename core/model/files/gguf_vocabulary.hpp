// The vocabulary of a GGUF file (tokenizer.ggml.*). Used by gguf_files.cpp alone.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/model/checkpoint/gguf.hpp"
#include "core/model/tokenizer/tokenizer.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// Null where the file has no vocabulary. MOE_UNIMPLEMENTED: of a kind that there is no tokenizer for.
moe::Result<std::unique_ptr<Tokenizer>> gguf_tokenizer(const GgufFile& file);

// The text of the token that `key` names ("tokenizer.ggml.bos_token_id"); empty if there is none.
moe::Result<std::string> gguf_token_text(const GgufFile& file, std::string_view key);

// The id that `key` names, or none.
moe::Result<std::optional<int32_t>> gguf_token_id(const GgufFile& file, std::string_view key);

}  // namespace patchbay
