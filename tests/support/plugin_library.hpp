// Opens a plugin of the build tree as the loader would, without the loader.
#pragma once

#include <dlfcn.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "moe/abi/backend.h"
#include "moe/abi/plugin.h"
#include "moe/sdk/compute.hpp"

namespace patchbay::test {

// A loaded library; initialised with `host`, which must outlive it.
class PluginLibrary {
 public:
  static std::string path_of(std::string_view name) {
    return std::string(PATCHBAY_BINARY_DIR) + "/lib/patchbay/plugins/" + std::string(name) + ".so";
  }
  static bool exists(std::string_view name) { return std::filesystem::exists(path_of(name)); }

  // The library `name`.so of the build tree.
  static moe::Result<std::unique_ptr<PluginLibrary>> open(std::string_view name, const moe_host* host) {
    std::unique_ptr<PluginLibrary> library(new PluginLibrary);
    library->handle_ = dlopen(path_of(name).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library->handle_ == nullptr) return moe::not_found(dlerror());
    library->plugin_ = static_cast<const moe_plugin*>(dlsym(library->handle_, MOE_PLUGIN_SYMBOL));
    if (library->plugin_ == nullptr)
      return moe::not_found(path_of(name) + ": expected the symbol " + MOE_PLUGIN_SYMBOL + ", got none");
    moe::MessageBuffer message;
    const moe_status status = library->plugin_->init(host, message.get());
    if (status != MOE_OK) return message.error(status);
    library->initialised_ = true;
    return library;
  }
  ~PluginLibrary() {
    if (initialised_) plugin_->deinit();
    if (handle_ != nullptr) dlclose(handle_);
  }
  PluginLibrary(const PluginLibrary&) = delete;
  PluginLibrary& operator=(const PluginLibrary&) = delete;

  [[nodiscard]] const moe_plugin& plugin() const { return *plugin_; }

  // The component `name` of a kind as the kind's struct; null if there is none.
  template <typename Kind>
  [[nodiscard]] const Kind* component(const char* kind_id, std::string_view name) const {
    const moe_factory* factory = plugin_->get_factory(kind_id);
    for (uint32_t i = 0; factory != nullptr && i < factory->n_components; ++i) {
      if (name == factory->components[i]->name) return reinterpret_cast<const Kind*>(factory->components[i]);
    }
    return nullptr;
  }
  [[nodiscard]] const moe_backend* backend(std::string_view name) const {
    return component<moe_backend>(MOE_BACKEND_ID, name);
  }

 private:
  PluginLibrary() = default;
  void* handle_ = nullptr;
  const moe_plugin* plugin_ = nullptr;
  bool initialised_ = false;
};

}  // namespace patchbay::test
