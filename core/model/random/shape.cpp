#include "core/model/random/shape.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/config/table_reader.hpp"
#include "core/model/json/json.hpp"
#include "core/plugin/nearest.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

nlohmann::json to_json(const TomlNode& node) {
  if (const auto* table = node.table()) {
    nlohmann::json out = nlohmann::json::object();
    for (const auto& [key, child] : *table) out[key] = to_json(child);
    return out;
  }
  if (const auto* array = node.array()) {
    nlohmann::json out = nlohmann::json::array();
    for (const auto& child : *array) out.push_back(to_json(child));
    return out;
  }
  if (const auto* b = std::get_if<bool>(&node.value)) return *b;
  if (const auto* i = std::get_if<int64_t>(&node.value)) return *i;
  if (const auto* d = std::get_if<double>(&node.value)) return *d;
  return std::get<std::string>(node.value);
}

// Tables become dotted keys; whole numbers u32, others f32, as llama.cpp's converters write them.
moe::Status add_metadata(const TomlNode& node, const std::string& key, GgufWriter::Metadata& out) {
  if (const auto* table = node.table()) {
    for (const auto& [name, child] : *table) MOE_TRY(add_metadata(child, key.empty() ? name : key + "." + name, out));
    return {};
  }
  const auto* whole = std::get_if<int64_t>(&node.value);
  if (const auto* b = std::get_if<bool>(&node.value)) {
    out.emplace_back(key, *b);
  } else if (const auto* d = std::get_if<double>(&node.value)) {
    out.emplace_back(key, static_cast<float>(*d));
  } else if (const auto* s = std::get_if<std::string>(&node.value)) {
    out.emplace_back(key, *s);
  } else if (whole != nullptr && *whole >= 0 && *whole <= UINT32_MAX) {
    out.emplace_back(key, static_cast<uint32_t>(*whole));
  } else {
    return moe::invalid(fmt::format("{}: {}: expected a boolean, a number, a string or an integer in [0, 2^32), got {}",
                                    node.where(), key, whole == nullptr ? node.type_name() : std::to_string(*whole)));
  }
  return {};
}

moe::Result<ModelShape> shape_of_toml(const fs::path& path) {
  MOE_ASSIGN(const TomlNode document, parse_toml_file(path));
  ModelShape shape;
  shape.name = path.stem().string();
  TableReader reader(document, "");
  shape.doc = reader.text("doc");
  const TomlNode* config = reader.table("config");
  const TomlNode* gguf = reader.table("gguf");
  MOE_TRY(reader.finish());
  if (config == nullptr)
    return moe::invalid(fmt::format("{}: config: expected a table of config.json's keys, got none", path.string()));
  shape.config = to_json(*config);
  if (gguf != nullptr) MOE_TRY(add_metadata(*gguf, "", shape.gguf));
  return shape;
}

}  // namespace

std::vector<std::string> shape_names(const std::vector<fs::path>& folders) {
  std::vector<std::string> names;
  for (const auto& folder : folders) {
    std::error_code ec;
    for (fs::directory_iterator it(folder, ec), end; !ec && it != end; it.increment(ec)) {
      if (it->path().extension() == ".toml") names.push_back(it->path().stem().string());
    }
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

moe::Result<ModelShape> load_shape(const std::string& like, const std::vector<fs::path>& folders) {
  std::error_code ec;
  for (const auto& folder : folders) {
    const fs::path file = folder / (like + ".toml");
    if (like.find('/') == std::string::npos && fs::exists(file, ec)) return shape_of_toml(file);
  }
  fs::path path = like;
  if (fs::is_directory(path, ec)) path /= "config.json";
  if (!like.empty() && fs::exists(path, ec)) {
    if (path.extension() == ".toml") return shape_of_toml(path);
    ModelShape shape;
    MOE_ASSIGN(shape.config, parse_json_file(path));
    shape.name = fs::absolute(path).parent_path().filename().string();
    return shape;
  }
  const auto names = shape_names(folders);
  return moe::not_found(fmt::format("--like: expected one of {}, or a path to a config.json, got \"{}\"{}",
                                    fmt::join(names, ", "), like, did_you_mean(like, names)));
}

}  // namespace patchbay
