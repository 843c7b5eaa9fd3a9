// Which plugins there are, and loading those that a configuration names.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/plugin/host.hpp"
#include "core/plugin/library.hpp"
#include "core/plugin/lock.hpp"
#include "core/plugin/probe.hpp"
#include "moe/abi/backend.h"
#include "moe/abi/expert.h"
#include "moe/abi/router.h"
#include "moe/abi/sampler.h"
#include "moe/abi/transport.h"

namespace patchbay {

struct RegistryOptions {
  std::vector<std::filesystem::path> search_paths;  // absolute folders, first come first served
  std::filesystem::path probe_program;              // the patchbay program
  std::filesystem::path cache_file;                 // verdicts by content hash; empty: none
  int probe_timeout_ms = 10000;
  std::optional<PluginLock> lock;  // only what is in there may be loaded
};

// <prefix>/bin/patchbay, <prefix>/lib/patchbay/plugins and <prefix>/share/patchbay belong together, in a build folder and when installed.
std::filesystem::path program_path();
std::filesystem::path default_plugin_dir();
std::filesystem::path share_dir();
std::filesystem::path default_probe_cache();

template <>
struct Component<moe_component> {
  const moe_component* table = nullptr;
  std::shared_ptr<Library> library;
};

class PluginRegistry {
 public:
  // Looks at every library in the search paths: may it be loaded at all (the lock, its manifest), and if so what is in it (in a child
  // process, unless its content has been seen before). A folder that is missing is skipped; a broken library is kept with its problem and
  // only matters once it is needed.
  static std::shared_ptr<PluginRegistry> scan(RegistryOptions options, Host& host);

  // The library files of these folders, in their order.
  static std::vector<std::filesystem::path> libraries_below(const std::vector<std::filesystem::path>& folders);

  [[nodiscard]] const std::vector<LibrarySummary>& libraries() const { return libraries_; }
  [[nodiscard]] std::vector<std::string> names(std::string_view kind_word) const;

  moe::Result<Component<moe_router>> router(std::string_view name) { return find<moe_router>("router", name); }
  moe::Result<Component<moe_expert>> expert(std::string_view name) { return find<moe_expert>("expert", name); }
  moe::Result<Component<moe_sampler>> sampler(std::string_view name) { return find<moe_sampler>("sampler", name); }
  moe::Result<Component<moe_backend>> backend(std::string_view name) { return find<moe_backend>("backend", name); }
  moe::Result<Component<moe_transport>> transport(std::string_view name) { return find<moe_transport>("transport", name); }
  // Any kind, for inspection: its header.
  moe::Result<Component<moe_component>> component(std::string_view kind_word, std::string_view name);

 private:
  explicit PluginRegistry(RegistryOptions options, Host& host) : options_(std::move(options)), host_(&host) {}
  // Whether the library may be touched at all: the lock, and its manifest.
  [[nodiscard]] moe::Status refusal(const std::filesystem::path& path, const std::string& sha256) const;
  moe::Result<std::shared_ptr<Library>> load(const std::filesystem::path& path);
  [[nodiscard]] moe::Error missing(std::string_view kind_word, std::string_view name) const;

  template <typename T>
  moe::Result<Component<T>> find(std::string_view kind_word, std::string_view name) {
    MOE_ASSIGN(auto found, component(kind_word, name));
    // The kind's struct begins with its component header, and its size was checked when it was loaded.
    return Component<T>{reinterpret_cast<const T*>(found.table), std::move(found.library)};
  }

  RegistryOptions options_;
  Host* host_;
  std::vector<LibrarySummary> libraries_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<Library>> loaded_;
};

}  // namespace patchbay
