// Each part of a tokenizer.json to its steps. Errors name the part; MOE_UNIMPLEMENTED where its type is not known here.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "core/model/tokenizer/decoder.hpp"
#include "core/model/tokenizer/impl.hpp"
#include "core/model/tokenizer/normalizer.hpp"
#include "core/model/tokenizer/pre_tokenizer.hpp"

namespace patchbay {

moe::Result<std::vector<NormalizerStep>> read_normalizer(const nlohmann::json& part);
moe::Result<std::vector<PreTokenizerStep>> read_pre_tokenizer(const nlohmann::json& part);
moe::Result<std::vector<DecoderStep>> read_decoder(const nlohmann::json& part);
// Ids of the template must be in the table.
moe::Result<PostProcessor> read_post_processor(const nlohmann::json& part, const TokenTable& table);

// The parts of a (nested) "Sequence", whose list is under `list_key`, or the part itself; with their types.
// MOE_INVALID_ARGUMENT: no type, or nested over 8 levels.
struct TypedPart {
  std::string type;
  const nlohmann::json* part;
};
moe::Result<std::vector<TypedPart>> flatten_sequence(const nlohmann::json& part, const char* list_key);

// {"String": s} or {"Regex": r}.
moe::Result<TextPattern> read_pattern(const nlohmann::json& part);

}  // namespace patchbay
