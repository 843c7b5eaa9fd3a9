// A format's table in an architecture file ([gguf]): how a checkpoint of that format, which has other keys and other
// tensor names, is read as the file describes it.
//
//   match    the architecture's names in that format
//   when     an expression; the file is for checkpoints where it is true (left out: all)
//   config   keys of config.json (tables may nest), each an expression over the checkpoint's own values; null leaves
//   the key out tensors  takes the place of the file's [tensors] others   (model, attention, rope, ffn, router, expert)
//   are laid over the file's tables of that name
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/config/toml_file.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// Whether the table's `when` holds. Errors name the place in the file.
moe::Result<bool> format_applies(const TomlNode& table, const nlohmann::json& values);

// The document as checkpoints of that format are read, without the table itself.
moe::Result<TomlNode> document_for_format(const TomlNode& document, const std::string& format);

// The config.json that the table's `config` makes of the checkpoint's values.
moe::Result<nlohmann::json> config_for_format(const TomlNode& table, const std::string& format,
                                              const nlohmann::json& values);

}  // namespace patchbay
