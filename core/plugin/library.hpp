// One loaded plugin library: checked, initialised, and kept loaded as long as anything of it is in use.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "moe/abi/plugin.h"
#include "moe/sdk/growth.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// The kinds of components, by id and by the word that people use.
struct Kind {
  const char* id;
  const char* word;
};
inline constexpr Kind kKinds[] = {{"moe.router/1", "router"},
                                  {"moe.expert/1", "expert"},
                                  {"moe.sampler/1", "sampler"},
                                  {"moe.backend/1", "backend"},
                                  {"moe.transport/1", "transport"}};

class Library {
 public:
  // Loads the library at an absolute path, checks everything that its tables claim, and calls its init. Errors say which rule of the
  // boundary is broken; the library is unloaded again. [main-thread]
  static moe::Result<std::shared_ptr<Library>> load(const std::filesystem::path& path, const moe_host* host);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const moe_plugin& entry() const { return *entry_; }
  // Its components of a kind (kKinds[].id).
  [[nodiscard]] std::vector<const moe_component*> components(std::string_view kind_id) const;

 private:
  Library() = default;
  struct Handle;
  std::unique_ptr<Handle> handle_;
  std::filesystem::path path_;
  const moe_plugin* entry_ = nullptr;
};

// A component and the library that it lives in.
template <typename T>
struct Component {
  const T* table = nullptr;
  std::shared_ptr<Library> library;
  const T* operator->() const { return table; }
  [[nodiscard]] const moe_component& header() const { return table->component; }
};

// A component's extension; null if it has none that can be read.
template <typename T>
const T* extension(const moe_component& component, const char* id) {
  if (component.get_extension == nullptr) return nullptr;
  const auto* found = static_cast<const T*>(component.get_extension(id));
  return moe::check_struct(found, id).ok() ? found : nullptr;
}

}  // namespace patchbay
