// The preloaded hooks (hooks/hooks.h) as the kit uses them. Where they are not there (under sanitizers, which have
// hooks of their own), nothing is counted and tests that need them say so.
#pragma once

#include <dlfcn.h>

#include "tools/conformance/hooks/hooks.h"

namespace patchbay::conformance {

// Null if the process was not started with the hooks.
inline const patchbay_hooks_table* hooks() {
  static const auto* table = static_cast<const patchbay_hooks_table*>(dlsym(RTLD_DEFAULT, "patchbay_hooks"));
  return table;
}

// While it lives, what this thread does is the host's doing: not counted, never refused. A test's process begins like
// that.
class HostCode {
 public:
  HostCode() {
    if (hooks() != nullptr) hooks()->pause();
  }
  ~HostCode() {
    if (hooks() != nullptr) hooks()->resume();
  }
  HostCode(const HostCode&) = delete;
  HostCode& operator=(const HostCode&) = delete;
};

// The reverse, around every call of the plugin's.
class PluginCode {
 public:
  PluginCode() {
    if (hooks() != nullptr) hooks()->resume();
  }
  ~PluginCode() {
    if (hooks() != nullptr) hooks()->pause();
  }
  PluginCode(const PluginCode&) = delete;
  PluginCode& operator=(const PluginCode&) = delete;
};

}  // namespace patchbay::conformance
