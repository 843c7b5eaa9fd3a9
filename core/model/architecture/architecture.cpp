#include "core/model/architecture/architecture.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/config/table_reader.hpp"
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

}  // namespace

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
      if (base != nullptr && base_name == nullptr) return moe::invalid(fmt::format("{}: base: expected a name, got {}", base->where(), base->type_name()));
      if (base_name == nullptr) break;
      const auto found = documents.find(*base_name);
      if (found == documents.end() || depth == kMaxBases) {
        return moe::invalid(fmt::format("{}: base: expected an architecture file of that name, got \"{}\"", base->where(), *base_name));
      }
      TomlNode whole = found->second;
      std::erase_if(std::get<TomlTable>(merged.value), [](const auto& member) { return member.first == "base"; });
      merge(whole, merged);
      merged = std::move(whole);
    }
    if (const TomlNode* own = document.find("match")) {
      TableReader reader(document, "");
      file.matches = reader.texts("match");
      if (file.matches.empty()) return moe::invalid(fmt::format("{}: match: expected names, got none", own->where()));
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

moe::Result<ModelSpec> ArchitectureLibrary::describe(const nlohmann::json& config, const std::string& wanted, int64_t context) const {
  if (!config.is_object()) return moe::invalid("config: expected an object, got something else");
  const auto asked = wanted.empty() ? strings_of(config.value("architectures", nlohmann::json())) : std::vector<std::string>{wanted};
  std::vector<std::string> known;
  for (const auto& f : files_) {
    known.insert(known.end(), f.matches.begin(), f.matches.end());
    for (const auto& name : asked) {
      const bool fits = wanted.empty() ? std::find(f.matches.begin(), f.matches.end(), name) != f.matches.end() : f.name == name;
      if (!fits) continue;
      auto spec = build_model_spec(f.document, config, context);
      if (!spec.ok()) return spec.error().in(fmt::format("architecture {}", f.name));
      spec->architecture = f.name;
      return spec;
    }
  }
  if (!wanted.empty()) {
    return moe::not_found(fmt::format("architecture: expected one of {}, got \"{}\"{}", fmt::join(names(), ", "), wanted, did_you_mean(wanted, names())));
  }
  std::vector<std::string> folders;
  for (const auto& f : folders_) folders.push_back(f.string());
  return moe::unimplemented(fmt::format("architectures: expected one of {}, got {}; searched {}", fmt::join(known, ", "),
                                        asked.empty() ? "none" : fmt::format("{}", fmt::join(asked, ", ")), fmt::join(folders, ", ")));
}

}  // namespace patchbay
