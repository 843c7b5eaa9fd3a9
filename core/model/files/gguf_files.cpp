#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/model/checkpoint/gguf.hpp"
#include "core/model/files/formats.hpp"
#include "core/model/files/gguf_vocabulary.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Bounds that no model comes near, so that what is made of the metadata stays far below the file's size + 64 MiB.
constexpr size_t kMaxDescribedTensors = size_t{1} << 16;
constexpr uint64_t kMaxElements = 4096;
constexpr size_t kMaxKeyBytes = 256;
constexpr size_t kMaxLevels = 8;

moe::Error wrong(std::string_view key, std::string_view rule) {
  return moe::invalid(fmt::format("metadata {}: {}", quoted_name(key), rule));
}

moe::Result<json> scalar(std::string_view key, const GgufValue& value) {
  if (const auto flag = value.boolean()) return json(*flag);
  if (const auto text = value.string()) return json(std::string(*text));
  if (const auto* integer = std::get_if<uint64_t>(&value.value())) return json(*integer);
  if (const auto* integer = std::get_if<int64_t>(&value.value())) return json(*integer);
  const auto number = value.number();
  if (!number || !std::isfinite(*number)) return wrong(key, "expected a finite number, got another");
  return json(*number);
}

moe::Result<json> to_json(std::string_view key, const GgufValue& value) {
  const GgufArray* array = value.array();
  if (array == nullptr) return scalar(key, value);
  if (array->n > kMaxElements)
    return wrong(key, fmt::format("expected at most {} elements, got {}", kMaxElements, array->n));
  json list = json::array();
  moe::Status status;
  array->for_each([&](const GgufValue& element) {
    auto item = scalar(key, element);
    if (item.ok()) {
      list.push_back(std::move(*item));
    } else if (status.ok()) {
      status = item.error();
    }
  });
  MOE_TRY(status);
  return list;
}

// Puts the value where the dots of `path` say: "a.b" is {"a": {"b": value}}.
moe::Status insert(json& root, std::string_view key, std::string_view path, json value) {
  if (path.size() > kMaxKeyBytes || static_cast<size_t>(std::count(path.begin(), path.end(), '.')) >= kMaxLevels) {
    return wrong(key, fmt::format("expected a key of at most {} bytes and {} levels, got a longer one", kMaxKeyBytes,
                                  kMaxLevels));
  }
  json* at = &root;
  for (size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.')) {
    json& next = (*at)[std::string(path.substr(0, dot))];
    if (!next.is_null() && !next.is_object()) return wrong(key, "expected a value or values below it, got both");
    at = &next;
    path.remove_prefix(dot + 1);
  }
  json& place = (*at)[std::string(path)];
  if (!place.is_null()) return wrong(key, "expected a value or values below it, got both");
  place = std::move(value);
  return {};
}

class GgufFiles final : public ModelFiles {
 public:
  GgufFiles(fs::path path, std::shared_ptr<const GgufFile> file) : path_(std::move(path)), file_(std::move(file)) {}

  std::string format() const override { return "GGUF"; }
  moe::Result<std::shared_ptr<const Checkpoint>> checkpoint() override {
    return std::shared_ptr<const Checkpoint>(file_);
  }

  // The metadata under the architecture's own prefix, without it, and what add_tensors() adds.
  moe::Result<ModelDescription> describe() const override {
    auto out = description();
    if (!out.ok()) return out.error().in(path_.string());
    return out;
  }

  moe::Result<std::unique_ptr<Tokenizer>> tokenizer() const override {
    auto out = gguf_tokenizer(*file_);
    if (!out.ok()) return out.error().in(path_.string());
    return out;
  }

  moe::Result<std::unique_ptr<ChatFormat>> chat_format() const override {
    auto out = chat();
    if (!out.ok()) return out.error().in(path_.string());
    return out;
  }

  // The end of a text, and of a turn or a message where these are tokens of their own.
  moe::Result<std::vector<int32_t>> stop_ids() const override {
    std::vector<int32_t> ids;
    for (const char* name : {"eos", "eot", "eom"}) {
      auto id = gguf_token_id(*file_, fmt::format("tokenizer.ggml.{}_token_id", name));
      if (!id.ok()) return id.error().in(path_.string());
      if (*id && std::find(ids.begin(), ids.end(), **id) == ids.end()) ids.push_back(**id);
    }
    return ids;
  }

 private:
  moe::Result<ModelDescription> description() const {
    ModelDescription out;
    out.format = "gguf";
    out.source = path_.string();
    out.values = json::object();
    const GgufValue* named = file_->find_metadata("general.architecture");
    const auto name = named == nullptr ? std::nullopt : named->string();
    if (!name)
      return wrong("general.architecture",
                   fmt::format("expected a name, got {}", named == nullptr ? "none" : "another type"));
    out.names.emplace_back(*name);
    const std::string prefix = std::string(*name) + ".";
    for (const auto& [key, value] : file_->metadata()) {
      if (!key.starts_with(prefix)) continue;
      MOE_ASSIGN(json converted, to_json(key, value));
      MOE_TRY(insert(out.values, key, key.substr(prefix.size()), std::move(converted)));
    }
    if (file_->tensors().size() > kMaxDescribedTensors) {
      return moe::invalid(fmt::format("tensors: expected at most {} in a model, got {}", kMaxDescribedTensors,
                                      file_->tensors().size()));
    }
    MOE_TRY(add_tensors(out.values));
    return out;
  }

  // `tensors`, the shapes by name, and `vectors`, the numbers of the 1-D tensors that hold factors of rotary
  // frequencies.
  moe::Status add_tensors(json& values) const {
    constexpr int64_t kLongest = 512;
    constexpr size_t kMost = 16;
    json& shapes = values["tensors"] = json::object();
    json& vectors = values["vectors"] = json::object();
    for (const TensorInfo& tensor : file_->tensors()) {
      const std::string name(tensor.name);
      shapes[name] = std::vector<int64_t>(tensor.shape.begin(), tensor.shape.end());
      if (!name.starts_with("rope_") || tensor.encoding != "f32" || tensor.shape.size() != 1 ||
          tensor.shape[0] > kLongest)
        continue;
      if (vectors.size() == kMost)
        return moe::invalid(fmt::format("tensors: expected at most {} whose names begin with rope_, got more", kMost));
      std::vector<float> numbers(static_cast<size_t>(tensor.shape[0]));
      std::memcpy(numbers.data(), tensor.data, tensor.bytes);
      for (const float x : numbers) {
        if (!std::isfinite(x))
          return moe::invalid(fmt::format("tensor {}: expected finite numbers, got another", quoted_name(name)));
      }
      vectors[name] = std::move(numbers);
    }
    return {};
  }

  moe::Result<std::unique_ptr<ChatFormat>> chat() const {
    const GgufValue* value = file_->find_metadata("tokenizer.chat_template");
    if (value == nullptr) return std::unique_ptr<ChatFormat>();
    const auto source = value->string();
    if (!source) return wrong("tokenizer.chat_template", "expected a string, got another type");
    MOE_ASSIGN(std::string bos, gguf_token_text(*file_, "tokenizer.ggml.bos_token_id"));
    MOE_ASSIGN(std::string eos, gguf_token_text(*file_, "tokenizer.ggml.eos_token_id"));
    MOE_ASSIGN(ChatFormat format, ChatFormat::from_source(std::string(*source), std::move(bos), std::move(eos)));
    return std::make_unique<ChatFormat>(std::move(format));
  }

  fs::path path_;
  std::shared_ptr<const GgufFile> file_;
};

}  // namespace

moe::Result<std::unique_ptr<ModelFiles>> open_gguf_files(const fs::path& path) {
  MOE_ASSIGN(std::shared_ptr<const GgufFile> file, open_gguf(path));
  return std::unique_ptr<ModelFiles>(std::make_unique<GgufFiles>(path, std::move(file)));
}

}  // namespace patchbay
