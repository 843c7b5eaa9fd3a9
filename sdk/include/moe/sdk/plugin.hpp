// The entry of a plugin library, made from C++ classes:
//
//   class Mine : public moe::HostRouter { ... };
//   MOE_PLUGIN("mine", "1.0.0", "MIT", "Ada", Mine)
//
// The symbol is constant data: loading the library runs no code of the plugin's.
#pragma once

#include <array>
#include <exception>
#include <new>
#include <string_view>

#include "moe/abi/plugin.h"
#include "moe/sdk/growth.hpp"
#include "moe/sdk/options.hpp"
#include "moe/sdk/result.hpp"
#include "moe/sdk/tensor.hpp"

namespace moe {

// The host that loaded this library; null before init. Every plugin has its own (hidden visibility).
inline const moe_host* g_host = nullptr;
inline const moe_host* host() { return g_host; }

// Runs f, a function that returns a Status, at the boundary: its error, or an exception that escaped, becomes a status with a message.
template <typename F>
moe_status guard(moe_message* message, F&& f) noexcept {
  try {
    const Status status = f();
    if (status.ok()) return MOE_OK;
    write_message(message, status.error().message);
    return status.error().code == MOE_OK ? MOE_UNKNOWN : status.error().code;
  } catch (const std::bad_alloc&) {
    write_message(message, "out of memory");
    return MOE_RESOURCE_EXHAUSTED;
  } catch (const std::exception& e) {
    write_message(message, e.what());
    return MOE_INTERNAL;
  } catch (...) {
    write_message(message, "an exception of unknown type");
    return MOE_INTERNAL;
  }
}

// How a class becomes a component: specialised in router.hpp, expert.hpp, ... for the base class of each kind. Has
//   static constexpr const char* kKind;  static constexpr <the kind's struct> kTable;
template <typename C>
struct ComponentOf;

// Every component class has  static constexpr const char* kName, *kDoc;  and may have
//   static constexpr moe_option kOptions[];  static constexpr uint32_t kCapabilities;  static const void* extension(const char* id);
template <typename C>
constexpr moe_component component_header(size_t struct_size) {
  moe_component c{};
  c.struct_size = static_cast<uint32_t>(struct_size);
  c.name = C::kName;
  c.doc = C::kDoc;
  if constexpr (requires { C::kOptions; }) {
    c.options = C::kOptions;
    c.n_options = sizeof(C::kOptions) / sizeof(C::kOptions[0]);
  }
  if constexpr (requires { C::kCapabilities; }) c.capabilities = C::kCapabilities;
  if constexpr (requires { C::extension(""); }) {
    c.get_extension = [](const char* id) -> const void* { return C::extension(id); };
  }
  return c;
}

namespace detail {

template <typename... Cs>
struct Library {
  template <typename Seed>
  struct KindList {  // the components whose kind is that of Seed, in the order in which they were named
    static constexpr bool same(const char* a, const char* b) { return std::string_view(a) == b; }
    static constexpr uint32_t kCount = (0U + ... + (same(ComponentOf<Cs>::kKind, ComponentOf<Seed>::kKind) ? 1U : 0U));
    static constexpr std::array<const moe_component*, kCount> kList = [] {
      std::array<const moe_component*, kCount> list{};
      size_t n = 0;
      ((same(ComponentOf<Cs>::kKind, ComponentOf<Seed>::kKind) ? void(list[n++] = &ComponentOf<Cs>::kTable.component)
                                                               : void()),
       ...);
      return list;
    }();
    static constexpr moe_factory kFactory = [] {
      moe_factory f = make<moe_factory>();
      f.components = kList.data();
      f.n_components = kCount;
      return f;
    }();
  };
  static const moe_factory* factory(const char* kind_id) {
    const moe_factory* found = nullptr;
    ((std::string_view(ComponentOf<Cs>::kKind) == kind_id ? void(found = &KindList<Cs>::kFactory) : void()), ...);
    return found;
  }
  static moe_status init(const moe_host* h, moe_message* message) {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(h, "host"));
      g_host = h;
      return {};
    });
  }
  static void deinit() { g_host = nullptr; }
};

// The manifest's note, as bytes.
template <size_t N>
struct ManifestNote {
  uint32_t name_bytes = 4;
  uint32_t text_bytes = N;
  uint32_t type = MOE_NOTE_MANIFEST;
  char owner[4] = MOE_NOTE_OWNER;
  char text[N] = {};
};

template <typename C>
constexpr size_t component_line_bytes() {
  return std::string_view("component: ").size() + std::string_view(ComponentOf<C>::kKind).size() + 1 + std::string_view(C::kName).size() + 1;
}

template <typename... Cs, size_t N>
constexpr auto manifest_note(const char (&head)[N]) {
  constexpr size_t kBytes = (N + (size_t{0} + ... + component_line_bytes<Cs>()) + 3) / 4 * 4;
  ManifestNote<kBytes> note;
  size_t n = 0;
  const auto add = [&](std::string_view text) {
    for (const char c : text) note.text[n++] = c;
  };
  add(std::string_view(head, N - 1));
  ((add("component: "), add(ComponentOf<Cs>::kKind), add(" "), add(Cs::kName), add("\n")), ...);
  return note;
}

}  // namespace detail

template <typename... Cs>
constexpr moe_plugin make_plugin(const char* name, const char* version, const char* license, const char* author) {
  moe_plugin p{};
  p.struct_size = sizeof(moe_plugin);
  p.abi_major = MOE_ABI_MAJOR;
  p.abi_minor = MOE_ABI_MINOR;
  p.name = name;
  p.version = version;
  p.license = license;
  p.author = author;
  p.init = detail::Library<Cs...>::init;
  p.deinit = detail::Library<Cs...>::deinit;
  p.get_factory = detail::Library<Cs...>::factory;
  return p;
}

}  // namespace moe

#define MOE_PLUGIN(name, version, license, author, ...)                                                                \
  __attribute__((section(".note.moe"), used, aligned(4))) static constexpr auto moe_manifest_note =                    \
      moe::detail::manifest_note<__VA_ARGS__>(MOE_MANIFEST_HEAD(name, version, license, author));                     \
  extern "C" {                                                                                                        \
  MOE_EXPORT extern const moe_plugin moe_plugin_v1;                                                                   \
  const moe_plugin moe_plugin_v1 = moe::make_plugin<__VA_ARGS__>(name, version, license, author);                     \
  }
