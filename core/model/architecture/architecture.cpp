#include "core/model/architecture/architecture.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/config/table_reader.hpp"
#include "core/model/architecture/format_table.hpp"
#include "core/plugin/nearest.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxBases = 8;

std::vector<std::string> strings_of(const nlohmann::json& value) {
  std::vector<std::string> out;
  if (value.is_string()) out.push_back(value.get<std::string>());
  if (!value.is_array()) return out;
  for (const auto& item : value) {
    if (item.is_string()) out.push_back(item.get<std::string>());
  }
  return out;
}

// `match` of the document, or of a format's table. Not inherited: who lays a file over another is another architecture.
moe::Status read_matches(const TomlNode& table, const std::string& format,
                         std::map<std::string, std::vector<std::string>>& out) {
  const TomlNode* node = table.find("match");
  if (node == nullptr) return {};
  TableReader reader(table, format);
  auto names = reader.texts("match");
  if (names.empty()) return moe::invalid(fmt::format("{}: match: expected names, got none", node->where()));
  out[format] = std::move(names);
  return {};
}

}  // namespace

ModelDescription describe_config(const nlohmann::json& config) {
  ModelDescription out;
  out.values = config;
  if (config.is_object()) out.names = strings_of(config.value("architectures", nlohmann::json()));
  return out;
}

moe::Result<ArchitectureLibrary> ArchitectureLibrary::open(const std::vector<fs::path>& folders) {
  ArchitectureLibrary library;
  library.folders_ = folders;
  std::map<std::string, TomlNode> documents;
  for (const auto& folder : folders) {
    std::error_code ec;
    for (fs::directory_iterator it(folder, ec), end; !ec && it != end; it.increment(ec)) {
      if (it->path().extension() != ".toml") continue;
      const std::string name = it->path().stem().string();
      if (documents.contains(name)) continue;
      MOE_ASSIGN(documents[name], parse_toml_file(it->path()));
    }
  }
  for (const auto& [name, document] : documents) {
    File file;
    file.name = name;
    TomlNode merged = document;
    // A file lays itself over the one that it names as its base.
    for (int depth = 0;; ++depth) {
      const TomlNode* base = merged.find("base");
      const auto* base_name = base == nullptr ? nullptr : std::get_if<std::string>(&base->value);
      if (base != nullptr && base_name == nullptr)
        return moe::invalid(fmt::format("{}: base: expected a name, got {}", base->where(), base->type_name()));
      if (base_name == nullptr) break;
      const auto found = documents.find(*base_name);
      if (found == documents.end() || depth == kMaxBases) {
        return moe::invalid(
            fmt::format("{}: base: expected an architecture file of that name, got \"{}\"", base->where(), *base_name));
      }
      TomlNode whole = found->second;
      std::erase_if(std::get<TomlTable>(merged.value), [](const auto& member) { return member.first == "base"; });
      merge(whole, merged);
      merged = std::move(whole);
    }
    MOE_TRY(read_matches(document, "", file.matches));
    for (const auto& [key, node] : *document.table()) {
      if (node.find("match") != nullptr) MOE_TRY(read_matches(node, key, file.matches));
    }
    file.document = std::move(merged);
    library.files_.push_back(std::move(file));
  }
  return library;
}

std::vector<std::string> ArchitectureLibrary::names() const {
  std::vector<std::string> out;
  for (const auto& f : files_) {
    if (!f.matches.empty()) out.push_back(f.name);
  }
  return out;
}

moe::Result<ModelSpec> ArchitectureLibrary::describe(const nlohmann::json& config, const std::string& wanted,
                                                     int64_t context) const {
  return describe(describe_config(config), wanted, context);
}

moe::Result<ModelSpec> ArchitectureLibrary::describe(const ModelDescription& description, const std::string& wanted,
                                                     int64_t context) const {
  MOE_ASSIGN(const File* file, find(description, wanted));
  const TomlNode* table = description.format.empty() ? nullptr : file->document.find(description.format);
  if (table == nullptr) {
    if (description.format.empty()) return read(*file, "", description.values, context);
    return moe::unimplemented(
        fmt::format("architecture {}: expected a table [{}], which says how such a checkpoint is read, got none",
                    file->name, description.format));
  }
  auto config = config_for_format(*table, description.format, description.values);
  if (!config.ok()) return config.error().in(fmt::format("architecture {}", file->name));
  return read(*file, description.format, *config, context);
}

moe::Result<ModelSpec> ArchitectureLibrary::describe_for(const std::string& format, const nlohmann::json& config) const {
  MOE_ASSIGN(const File* file, find(describe_config(config), ""));
  if (format.empty() || file->matches.contains(format)) return read(*file, format, config, 0);
  return moe::unimplemented(fmt::format("architecture {}: expected a table [{}] with a match, got none", file->name, format));
}

moe::Result<const ArchitectureLibrary::File*> ArchitectureLibrary::find(const ModelDescription& description,
                                                                        const std::string& wanted) const {
  if (!description.values.is_object()) return moe::invalid("config: expected an object, got something else");
  for (const auto& f : files_) {
    if (!wanted.empty() && f.name == wanted) return &f;
    const auto own = f.matches.find(description.format);
    if (!wanted.empty() || own == f.matches.end()) continue;
    const auto names = [&](const std::string& name) {
      return std::find(own->second.begin(), own->second.end(), name) != own->second.end();
    };
    if (std::none_of(description.names.begin(), description.names.end(), names)) continue;
    if (!description.format.empty()) {
      MOE_ASSIGN(const bool applies, format_applies(*f.document.find(description.format), description.values));
      if (!applies) continue;
    }
    return &f;
  }
  if (wanted.empty()) return unknown(description);
  return moe::not_found(fmt::format("architecture: expected one of {}, got \"{}\"{}", fmt::join(names(), ", "), wanted,
                                    did_you_mean(wanted, names())));
}

// `config` as the file's own expressions see it.
moe::Result<ModelSpec> ArchitectureLibrary::read(const File& file, const std::string& format,
                                                 const nlohmann::json& config, int64_t context) {
  const auto in_file = [&](const moe::Error& e) { return e.in(fmt::format("architecture {}", file.name)); };
  auto document =
      format.empty() ? moe::Result<TomlNode>(file.document) : document_for_format(file.document, format);
  if (!document.ok()) return in_file(document.error());
  auto spec = build_model_spec(*document, config, context);
  if (!spec.ok()) return in_file(spec.error());
  spec->architecture = file.name;
  return spec;
}

// No file is for it: says which names there are, and where a name fits but a condition does not hold.
moe::Error ArchitectureLibrary::unknown(const ModelDescription& description) const {
  std::vector<std::string> known;
  std::string conditions;
  for (const auto& f : files_) {
    const auto own = f.matches.find(description.format);
    if (own == f.matches.end()) continue;
    for (const auto& name : own->second) {
      if (std::find(known.begin(), known.end(), name) == known.end()) known.push_back(name);
      if (std::find(description.names.begin(), description.names.end(), name) == description.names.end()) continue;
      const TomlNode* table = f.document.find(description.format);
      const TomlNode* when = table == nullptr ? nullptr : table->find("when");
      const auto* text = when == nullptr ? nullptr : std::get_if<std::string>(&when->value);
      conditions += fmt::format("; {} is for those with {}", f.name, text == nullptr ? "a condition" : *text);
    }
  }
  std::vector<std::string> folders;
  for (const auto& f : folders_) folders.push_back(f.string());
  const std::string nearest = description.names.empty() ? "" : did_you_mean(description.names.front(), known);
  return moe::unimplemented(
      fmt::format("architecture: expected one of {}, got {}{}{}; searched {}", fmt::join(known, ", "),
                  description.names.empty() ? "none" : fmt::format("{}", fmt::join(description.names, ", ")), nearest,
                  conditions, fmt::join(folders, ", ")));
}

}  // namespace patchbay
