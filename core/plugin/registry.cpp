#include "core/plugin/registry.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/model/json/json.hpp"
#include "core/plugin/manifest.hpp"
#include "core/plugin/nearest.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Earlier verdicts: {"program": hash of the host, "libraries": {content hash: summary}}. Another host program makes them void.
class VerdictCache {
 public:
  VerdictCache(fs::path file, std::string program) : file_(std::move(file)), program_(std::move(program)) {
    if (file_.empty()) return;
    auto doc = parse_json_file(file_);
    if (!doc.ok() || !doc->is_object() || doc->value("program", json()) != program_) return;
    if (auto libraries = doc->find("libraries"); libraries != doc->end() && libraries->is_object()) known_ = *libraries;
  }
  std::optional<LibrarySummary> find(const std::string& hash, const fs::path& path) const {
    const auto it = known_.find(hash);
    if (it == known_.end()) return std::nullopt;
    auto summary = summary_from_json(it->dump());
    if (!summary.ok() || summary->path != path) return std::nullopt;
    return *summary;
  }
  void add(const std::string& hash, const LibrarySummary& summary) {
    known_[hash] = json::parse(to_json(summary));
    changed_ = true;
  }
  // Written beside and renamed, so that two programs at once do no harm. A cache that cannot be written is only a slower start.
  void save() const {
    if (!changed_ || file_.empty()) return;
    std::error_code ec;
    fs::create_directories(file_.parent_path(), ec);
    const fs::path temporary = file_.string() + fmt::format(".{}", getpid());
    {
      std::ofstream out(temporary);
      out << json{{"program", program_}, {"libraries", known_}}.dump();
      if (!out) {
        fs::remove(temporary, ec);
        return;
      }
    }
    fs::rename(temporary, file_, ec);
    if (ec) fs::remove(temporary, ec);
  }

 private:
  fs::path file_;
  std::string program_;
  json known_ = json::object();
  bool changed_ = false;
};

// Size and time of the program: enough to tell a rebuilt host, without reading it whole at every start.
std::string program_stamp(const fs::path& program) {
  std::error_code ec;
  const auto size = fs::file_size(program, ec);
  const auto time = fs::last_write_time(program, ec);
  return fmt::format("{}:{}", size, time.time_since_epoch().count());
}

std::vector<fs::path> libraries_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code ec;
  for (fs::directory_iterator it(folder, ec), end; !ec && it != end; it.increment(ec)) {
    if (it->path().extension() == ".so") found.push_back(fs::weakly_canonical(it->path()));
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

fs::path program_path() {
  std::error_code ec;
  return fs::read_symlink("/proc/self/exe", ec);
}
fs::path default_plugin_dir() { return program_path().parent_path().parent_path() / "lib/patchbay/plugins"; }
fs::path share_dir() { return program_path().parent_path().parent_path() / "share/patchbay"; }
fs::path default_probe_cache() {
  const auto from = [](const char* name) { return std::getenv(name) == nullptr ? fs::path() : fs::path(std::getenv(name)); };
  if (const auto xdg = from("XDG_CACHE_HOME"); xdg.is_absolute()) return xdg / "patchbay/plugins.json";
  if (const auto home = from("HOME"); home.is_absolute()) return home / ".cache/patchbay/plugins.json";
  return {};
}

std::shared_ptr<PluginRegistry> PluginRegistry::scan(RegistryOptions options, Host& host) {
  std::shared_ptr<PluginRegistry> self(new PluginRegistry(std::move(options), host));
  VerdictCache cache(self->options_.cache_file, program_stamp(self->options_.probe_program));
  for (const auto& folder : self->options_.search_paths) {
    for (const auto& path : libraries_in(folder)) {
      const std::string hash = sha256_of(path);
      if (auto refused = self->refusal(path, hash); !refused.ok()) {
        self->libraries_.push_back({path, "", "", "", "", {}, refused.error().message});
        continue;
      }
      auto summary = cache.find(hash, path);
      if (!summary) {
        summary = probe(path, self->options_.probe_program, self->options_.probe_timeout_ms);
        if (summary->problem.empty()) cache.add(hash, *summary);  // a failure may be the machine's: look again next time
      }
      self->libraries_.push_back(std::move(*summary));
    }
  }
  cache.save();
  return self;
}

std::vector<fs::path> PluginRegistry::libraries_below(const std::vector<fs::path>& folders) {
  std::vector<fs::path> all;
  for (const auto& folder : folders) {
    for (auto& path : libraries_in(folder)) all.push_back(std::move(path));
  }
  return all;
}

moe::Status PluginRegistry::refusal(const fs::path& path, const std::string& sha256) const {
  if (options_.lock) {
    if (auto s = options_.lock->check(path, sha256); !s.ok()) return s.error().in(path.string());
  }
  const auto manifest = read_manifest(path);
  if (!manifest.ok()) return {};  // an older plugin, or no plugin: loading will tell
  if (manifest->abi_major == MOE_ABI_MAJOR && manifest->abi_least_minor > MOE_ABI_MINOR) {
    return moe::unimplemented(fmt::format("{}: ABI: expected a plugin for hosts from {}.0 to {}.{}, got one that needs {}.{} ({} {})", path.string(),
                                          static_cast<int>(MOE_ABI_MAJOR), static_cast<int>(MOE_ABI_MAJOR), static_cast<int>(MOE_ABI_MINOR),
                                          manifest->abi_major, manifest->abi_least_minor, manifest->name, manifest->version));
  }
  return {};
}

std::vector<std::string> PluginRegistry::names(std::string_view kind_word) const {
  std::vector<std::string> found;
  for (const auto& l : libraries_) {
    for (const auto& c : l.components) {
      if (c.kind == kind_word) found.push_back(c.name);
    }
  }
  return found;
}

moe::Error PluginRegistry::missing(std::string_view kind_word, std::string_view name) const {
  const auto known = names(kind_word);
  std::vector<std::string> searched;
  for (const auto& p : options_.search_paths) searched.push_back(p.string());
  std::string broken;
  for (const auto& l : libraries_) {
    if (!l.problem.empty()) broken += fmt::format("; refused: {}", l.problem);
  }
  return moe::not_found(fmt::format("{} \"{}\": expected a plugin of that name (there are: {}), got none{}; searched {}{}", kind_word, name,
                                    known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", ")), did_you_mean(name, known),
                                    fmt::join(searched, ", "), broken));
}

moe::Result<std::shared_ptr<Library>> PluginRegistry::load(const fs::path& path) {
  const std::lock_guard lock(mutex_);
  for (const auto& weak : loaded_) {
    if (auto library = weak.lock(); library != nullptr && library->path() == path) return library;
  }
  if (options_.lock) MOE_TRY(refusal(path, sha256_of(path)));  // once more: it may have changed since it was looked at
  MOE_ASSIGN(auto library, Library::load(path, host_->abi()));
  loaded_.push_back(library);
  return library;
}

moe::Result<Component<moe_component>> PluginRegistry::component(std::string_view kind_word, std::string_view name) {
  for (const auto& l : libraries_) {
    for (const auto& c : l.components) {
      if (c.kind != kind_word || c.name != name) continue;
      MOE_ASSIGN(auto library, load(l.path));
      for (const auto& kind : kKinds) {
        if (kind_word != kind.word) continue;
        for (const auto* table : library->components(kind.id)) {
          if (name == table->name) return Component<moe_component>{table, library};
        }
      }
    }
  }
  return missing(kind_word, name);
}

}  // namespace patchbay
