// What holds for the library itself: its symbols, its entry, loading and unloading.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "core/plugin/elf.hpp"
#include "core/plugin/manifest.hpp"
#include "moe/sdk/growth.hpp"
#include "tools/conformance/checks.hpp"

namespace patchbay::conformance {
namespace {

// Its entry by hand, without the loader's own checks; null, with the reason found, if it cannot be had.
struct Handle {
  Handle(const CheckContext& context, Findings& findings) {
    const PluginCode theirs;
    library = dlopen(context.options.library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) findings.fail(std::string("dlopen: ") + dlerror());
    if (library == nullptr) return;
    entry = static_cast<const moe_plugin*>(dlsym(library, MOE_PLUGIN_SYMBOL));
    if (entry == nullptr)
      findings.fail(fmt::format("symbol {}: expected it to be exported, got none", MOE_PLUGIN_SYMBOL));
  }
  ~Handle() {
    if (library != nullptr) dlclose(library);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  void* library = nullptr;
  const moe_plugin* entry = nullptr;
};

void loads(const CheckContext& context, Findings& findings) { (void)open_kit(context, findings); }

void exports_its_entry_only(const CheckContext& context, Findings& findings) {
  auto file = ElfFile::read(context.options.library);
  if (!file.ok()) return findings.fail(file.error());
  bool has_entry = false;
  std::vector<std::string> others;
  for (const auto& s : file->exported()) {
    has_entry = has_entry || s.name == MOE_PLUGIN_SYMBOL;
    if (s.name != MOE_PLUGIN_SYMBOL) others.push_back(s.name);
  }
  if (!has_entry) findings.fail(fmt::format("symbols: expected {}, got none of that name", MOE_PLUGIN_SYMBOL));
  if (!others.empty())
    findings.fail(fmt::format("symbols: expected {} alone to be exported, got {} more (first {})", MOE_PLUGIN_SYMBOL,
                              others.size(), others.front()));
}

void entry_is_constant(const CheckContext& context, Findings& findings) {
  auto file = ElfFile::read(context.options.library);
  if (!file.ok()) return findings.fail(file.error());
  for (const auto& s : file->exported()) {
    if (s.name != MOE_PLUGIN_SYMBOL) continue;
    if (s.function) findings.fail(fmt::format("{}: expected constant data, got a function", s.name));
    if (!s.constant) findings.fail(fmt::format("{}: expected constant data, got data that can be written", s.name));
  }
}

void manifest_agrees(const CheckContext& context, Findings& findings) {
  auto manifest = read_manifest(context.options.library);
  if (!manifest.ok()) return findings.fail(manifest.error());
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  const moe_plugin& entry = kit->library().entry();
  for (const auto& [what, said, is] : {std::tuple{"name", manifest->name, entry.name},
                                       {"version", manifest->version, entry.version},
                                       {"license", manifest->license, entry.license},
                                       {"author", manifest->author, entry.author}}) {
    if (said != is) findings.fail(fmt::format("manifest: {}: expected the entry's \"{}\", got \"{}\"", what, is, said));
  }
  if (manifest->abi_major != entry.abi_major || manifest->abi_minor != entry.abi_minor)
    findings.fail(fmt::format("manifest: abi: expected the entry's {}.{}, got {}.{}", entry.abi_major, entry.abi_minor,
                              manifest->abi_major, manifest->abi_minor));
  std::set<std::string> said, are;
  for (const auto& c : manifest->components) said.insert(c.kind_id + " " + c.name);
  for (const auto& kind : kKinds) {
    for (const auto* c : kit->library().components(kind.id)) are.insert(std::string(kind.id) + " " + c->name);
  }
  if (said != are) findings.fail("manifest: components: expected those of the entry, got others");
}

void refuses_a_host_it_does_not_understand(const CheckContext& context, Findings& findings) {
  const Handle handle(context, findings);
  if (handle.entry == nullptr) return;
  CheckHost good(1);
  const auto init = [&](const char* what, const moe_host* host, moe_status want) {
    const auto status = across([&](moe_message* m) { return handle.entry->init(host, m); });
    if (status.ok()) handle.entry->deinit();
    if (status.ok() || (want != MOE_OK && status.error().code != want))
      findings.fail(
          fmt::format("init with {}: expected status {}, got {}", what, want, status.ok() ? 0 : status.error().code));
  };
  moe_host host = *good.get();
  host.must_understand = 1U << 31;
  init("a host that asks for something unknown", &host, MOE_UNIMPLEMENTED);
  host.must_understand = 0;
  host.struct_size = 16;
  init("half a host", &host, MOE_INVALID_ARGUMENT);
  init("no host", nullptr, MOE_INVALID_ARGUMENT);
}

bool is_mapped(const std::filesystem::path& path) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.ends_with(path.string())) return true;
  }
  return false;
}

void loads_and_unloads_100_times(const CheckContext& context, Findings& findings) {
  int64_t before = 0;
  constexpr int kWarm = 5;
  constexpr int kTimes = 100;
  for (int i = 0; i < kWarm + kTimes; ++i) {
    if (i == kWarm && hooks() != nullptr) before = hooks()->live_blocks();
    auto kit = open_kit(context, findings);
    if (kit == nullptr) return;
    kit.reset();
    if (is_mapped(std::filesystem::canonical(context.options.library)))
      return findings.fail(
          "dlclose: expected the library to be unmapped, got one that stays (unique symbols, or thread-local "
          "destructors)");
  }
  if (hooks() == nullptr) return;
  const int64_t left = hooks()->live_blocks() - before;
  if (left >= kTimes)
    findings.fail(fmt::format("{} times load and unload: expected no memory to be left, got {} blocks", kTimes, left));
}

void names_its_components(const CheckContext& context, Findings& findings) {
  auto kit = open_kit(context, findings);
  if (kit == nullptr) return;
  const moe_plugin& entry = kit->library().entry();
  for (const char* unknown : {"moe.nothing/1", "", "moe.router/2"}) {
    if (entry.get_factory(unknown) != nullptr)
      findings.fail(fmt::format("get_factory(\"{}\"): expected null, got a factory", unknown));
  }
  constexpr uint32_t kCapabilities = MOE_CAP_GRAPH_SAFE | MOE_CAP_HOST_SYNC | MOE_CAP_DETERMINISTIC |
                                     MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT | MOE_CAP_PICKS;
  for (const auto& kind : kKinds) {
    if (entry.get_factory(kind.id) != entry.get_factory(kind.id))
      findings.fail(fmt::format("get_factory(\"{}\"): expected the same factory each time", kind.id));
    std::set<std::string> names;
    for (const auto* c : kit->library().components(kind.id)) {
      const std::string name = c->name;
      const auto legal = [](char x) { return (x >= 'a' && x <= 'z') || (x >= '0' && x <= '9') || x == '_'; };
      if (name[0] < 'a' || name[0] > 'z' || !std::all_of(name.begin(), name.end(), legal))
        findings.fail(fmt::format("{} \"{}\": expected a name [a-z][a-z0-9_]*", kind.word, name));
      if (!names.insert(name).second)
        findings.fail(fmt::format("{} \"{}\": expected the name once, got it twice", kind.word, name));
      if ((c->capabilities & ~kCapabilities) != 0)
        findings.fail(fmt::format("{} \"{}\": capabilities: expected bits of MOE_CAP_*, got {:#x}", kind.word, name,
                                  c->capabilities));
      if ((c->capabilities & MOE_CAP_PICKS) != 0 && kind.word != std::string("sampler"))
        findings.fail(fmt::format("{} \"{}\": expected MOE_CAP_PICKS of samplers only", kind.word, name));
      if ((c->capabilities & MOE_CAP_GRAPH_SAFE) != 0 && (c->capabilities & MOE_CAP_HOST_SYNC) != 0)
        findings.fail(
            fmt::format("{} \"{}\": expected MOE_CAP_GRAPH_SAFE or MOE_CAP_HOST_SYNC, got both", kind.word, name));
      if (c->get_extension != nullptr && c->get_extension("moe.nothing/1") != nullptr)
        findings.fail(
            fmt::format("{} \"{}\": get_extension(\"moe.nothing/1\"): expected null, got a pointer", kind.word, name));
    }
  }
}

}  // namespace

const std::vector<Check>& library_checks() {
  static const std::vector<Check> checks = {
      {"loads", "the entry and its tables are of this version and sound", loads},
      {"exports_its_entry_only", "moe_plugin_v1 is all that it exports", exports_its_entry_only},
      {"entry_is_constant", "the entry is constant data", entry_is_constant},
      {"manifest_agrees", "the manifest can be read without running code, and says what the entry says",
       manifest_agrees},
      {"refuses_a_host_it_does_not_understand", "init refuses a host that asks for something unknown",
       refuses_a_host_it_does_not_understand},
      {"loads_and_unloads_100_times", "it can be loaded and unloaded again and leaves nothing",
       loads_and_unloads_100_times},
      {"names_its_components", "names are legal and unique, unknown ids are answered with null", names_its_components},
  };
  return checks;
}

}  // namespace patchbay::conformance
