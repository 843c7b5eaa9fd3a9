// A model as it lies on disk, in whichever format: what it says about its architecture, its tensors, its tokenizer, its
// chat template.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/model/architecture/architecture.hpp"
#include "core/model/checkpoint/checkpoint.hpp"
#include "core/model/template/chat.hpp"
#include "core/model/tokenizer/tokenizer.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// Parts are read when they are asked for, so that one that is missing or wrong is in nobody's way who does not want it.
// Errors begin with the file's path. [main-thread]
class ModelFiles {
 public:
  // A directory in Hugging Face's layout, a .gguf file (any part of a split one), or a directory without config.json
  // that holds one model as .gguf. MOE_NOT_FOUND: nothing there; MOE_INVALID_ARGUMENT: neither of these.
  static moe::Result<std::unique_ptr<ModelFiles>> open(const std::filesystem::path& path);

  ModelFiles() = default;
  virtual ~ModelFiles() = default;
  ModelFiles(const ModelFiles&) = delete;
  ModelFiles& operator=(const ModelFiles&) = delete;

  // "Hugging Face" or "GGUF": for people.
  [[nodiscard]] virtual std::string format() const = 0;
  [[nodiscard]] virtual moe::Result<ModelDescription> describe() const = 0;
  // The same object every time.
  [[nodiscard]] virtual moe::Result<std::shared_ptr<const Checkpoint>> checkpoint() = 0;
  // Null: the model has none.
  [[nodiscard]] virtual moe::Result<std::unique_ptr<Tokenizer>> tokenizer() const = 0;
  [[nodiscard]] virtual moe::Result<std::unique_ptr<ChatFormat>> chat_format() const = 0;
  // The ids that end a text; empty if the model does not say.
  [[nodiscard]] virtual moe::Result<std::vector<int32_t>> stop_ids() const = 0;
};

}  // namespace patchbay
