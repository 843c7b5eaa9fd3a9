#include <fmt/format.h>

#include <limits>
#include <optional>

#include "core/model/files/formats.hpp"
#include "core/model/files/tiktoken_vocabulary.hpp"
#include "core/model/json/json.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

moe::Result<int32_t> stop_id(const nlohmann::json& value) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  if (value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(kMax)) return value.get<int32_t>();
  return moe::invalid(fmt::format("eos_token_id: expected a token id or a list of them, got {}", value.type_name()));
}

// Nothing: the file does not say.
moe::Result<std::optional<std::vector<int32_t>>> stop_ids_of(const fs::path& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return std::optional<std::vector<int32_t>>();
  MOE_ASSIGN(const nlohmann::json document, parse_json_file(file));
  if (!document.is_object()) {
    return moe::invalid(fmt::format("{}: expected an object, got {}", file.string(), document.type_name()));
  }
  const auto found = document.find("eos_token_id");
  if (found == document.end() || found->is_null()) return std::optional<std::vector<int32_t>>();
  std::vector<int32_t> ids;
  const auto add = [&](const nlohmann::json& value) -> moe::Status {
    auto id = stop_id(value);
    if (!id.ok()) return id.error().in(file.string());
    ids.push_back(*id);
    return {};
  };
  if (found->is_array()) {
    for (const auto& value : *found) MOE_TRY(add(value));
  } else {
    MOE_TRY(add(*found));
  }
  return std::optional(std::move(ids));
}

class HuggingFaceFiles final : public ModelFiles {
 public:
  explicit HuggingFaceFiles(fs::path directory) : directory_(std::move(directory)) {}

  std::string format() const override { return "Hugging Face"; }

  moe::Result<ModelDescription> describe() const override {
    const fs::path file = directory_ / "config.json";
    MOE_ASSIGN(const nlohmann::json config, parse_json_file(file));
    ModelDescription out = describe_config(config);
    out.source = file.string();
    return out;
  }

  moe::Result<std::shared_ptr<const Checkpoint>> checkpoint() override {
    if (checkpoint_ == nullptr) {
      MOE_ASSIGN(checkpoint_, open_checkpoint(directory_));
    }
    return checkpoint_;
  }

  moe::Result<std::unique_ptr<Tokenizer>> tokenizer() const override {
    std::error_code ignored;
    if (fs::exists(directory_ / "tokenizer.json", ignored)) return Tokenizer::load(directory_ / "tokenizer.json");
    if (fs::exists(directory_ / "tiktoken.model", ignored)) return tiktoken_tokenizer(directory_);
    return std::unique_ptr<Tokenizer>();
  }

  moe::Result<std::unique_ptr<ChatFormat>> chat_format() const override {
    auto format = ChatFormat::load(directory_);
    if (format.ok()) return std::make_unique<ChatFormat>(std::move(format).value());
    if (format.error().code != MOE_NOT_FOUND) return format.error();
    return std::unique_ptr<ChatFormat>();
  }

  // eos_token_id, a number or a list.
  moe::Result<std::vector<int32_t>> stop_ids() const override {
    for (const char* name : {"generation_config.json", "config.json"}) {
      MOE_ASSIGN(auto ids, stop_ids_of(directory_ / name));
      if (ids) return std::move(*ids);
    }
    return std::vector<int32_t>();
  }

 private:
  fs::path directory_;
  std::shared_ptr<const Checkpoint> checkpoint_;
};

}  // namespace

moe::Result<std::unique_ptr<ModelFiles>> open_hugging_face_files(const fs::path& directory) {
  return std::unique_ptr<ModelFiles>(std::make_unique<HuggingFaceFiles>(directory));
}

}  // namespace patchbay
