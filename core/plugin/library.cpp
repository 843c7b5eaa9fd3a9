#include "core/plugin/library.hpp"

#include <fmt/format.h>

#include <boost/dll/shared_library.hpp>
#include <cstring>

#include "core/plugin/options.hpp"
#include "moe/abi/backend.h"
#include "moe/abi/expert.h"
#include "moe/abi/router.h"
#include "moe/abi/sampler.h"
#include "moe/abi/transport.h"
#include "moe/sdk/compute.hpp"

namespace patchbay {

struct Library::Handle {
  boost::dll::shared_library library;
};

namespace {

// The functions that each kind's struct requires, as offsets: none may be null.
struct RequiredFunctions {
  const char* kind_id;
  size_t struct_size;
  std::vector<std::pair<const char*, size_t>> functions;
};

const std::vector<RequiredFunctions>& required_functions() {
#define FN(type, name) {#name, offsetof(type, name)}
  static const std::vector<RequiredFunctions> table = {
      {MOE_ROUTER_ID,
       moe::kFirstSize<moe_router>,
       {FN(moe_router, create), FN(moe_router, destroy), FN(moe_router, describe), FN(moe_router, prepare), FN(moe_router, route)}},
      {MOE_EXPERT_ID,
       moe::kFirstSize<moe_expert>,
       {FN(moe_expert, create), FN(moe_expert, destroy), FN(moe_expert, describe), FN(moe_expert, prepare),
        FN(moe_expert, forward)}},
      {MOE_SAMPLER_ID,
       moe::kFirstSize<moe_sampler>,
       {FN(moe_sampler, create), FN(moe_sampler, destroy), FN(moe_sampler, apply), FN(moe_sampler, copy)}},
      {MOE_BACKEND_ID,
       moe::kFirstSize<moe_backend>,
       {FN(moe_backend, create), FN(moe_backend, destroy), FN(moe_backend, alloc), FN(moe_backend, copy), FN(moe_backend, prepare),
        FN(moe_backend, find_op), FN(moe_backend, launch), FN(moe_backend, sync)}},
      {MOE_TRANSPORT_ID,
       moe::kFirstSize<moe_transport>,
       {FN(moe_transport, create), FN(moe_transport, destroy), FN(moe_transport, start), FN(moe_transport, drain),
        FN(moe_transport, stop), FN(moe_transport, address)}}};
#undef FN
  return table;
}

moe::Status check_component(const moe_component* c, const RequiredFunctions& required) {
  if (c == nullptr) return moe::invalid("component: expected a table, got null");
  if (c->struct_size < required.struct_size) {  // of the first version: what a newer one added is asked for when it is used
    return moe::invalid(fmt::format("component: expected a table of at least {} bytes, got {}", required.struct_size, c->struct_size));
  }
  if (c->name == nullptr || c->name[0] == '\0') return moe::invalid("component: expected a name, got none");
  if (c->must_understand != 0) {
    return moe::unimplemented(
        fmt::format("component \"{}\": asks for something that this host does not know (must_understand {:#x})", c->name, c->must_understand));
  }
  if (c->doc == nullptr) return moe::invalid(fmt::format("component \"{}\": expected a doc sentence, got none", c->name));
  for (const auto& [name, offset] : required.functions) {
    void* function = nullptr;
    std::memcpy(&function, reinterpret_cast<const char*>(c) + offset, sizeof(function));
    if (function == nullptr) return moe::invalid(fmt::format("component \"{}\": function {}: expected an address, got null", c->name, name));
  }
  if (auto status = check_option_table(*c); !status.ok()) return status.error().in(fmt::format("component \"{}\"", c->name));
  return {};
}

moe::Status check_entry(const moe_plugin& entry) {
  if (entry.struct_size < moe::kFirstSize<moe_plugin>) {
    return moe::invalid(fmt::format("entry: expected at least {} bytes, got {}", moe::kFirstSize<moe_plugin>, entry.struct_size));
  }
  if (entry.abi_major != MOE_ABI_MAJOR) {
    return moe::invalid(fmt::format("ABI: expected major version {}, got {}", static_cast<int>(MOE_ABI_MAJOR), entry.abi_major));
  }
  if (entry.must_understand != 0) {
    return moe::unimplemented(
        fmt::format("entry: asks for something that this host does not know (must_understand {:#x})", entry.must_understand));
  }
  for (const auto& [what, text] : {std::pair{"name", entry.name}, {"version", entry.version}, {"license", entry.license}, {"author", entry.author}}) {
    if (text == nullptr || text[0] == '\0') return moe::invalid(fmt::format("entry: expected a {}, got none", what));
  }
  if (entry.init == nullptr || entry.deinit == nullptr || entry.get_factory == nullptr) {
    return moe::invalid("entry: expected init, deinit and get_factory, got null");
  }
  return {};
}

moe::Status check_components(const moe_plugin& entry) {
  size_t n_components = 0;
  for (const auto& required : required_functions()) {
    const moe_factory* factory = entry.get_factory(required.kind_id);
    if (factory == nullptr) continue;
    if (factory->struct_size < moe::kFirstSize<moe_factory>) return moe::invalid(fmt::format("{}: factory too small", required.kind_id));
    if (factory->must_understand != 0) return moe::unimplemented(fmt::format("{}: factory asks for something unknown", required.kind_id));
    if (factory->n_components > 0 && factory->components == nullptr) {
      return moe::invalid(fmt::format("{}: expected {} components, got none", required.kind_id, factory->n_components));
    }
    for (uint32_t i = 0; i < factory->n_components; ++i) MOE_TRY(check_component(factory->components[i], required));
    n_components += factory->n_components;
  }
  if (n_components == 0) return moe::invalid("entry: expected at least one component of a kind that this host knows, got none");
  return {};
}

// The library has no symbol of our major version: which one does it have?
std::string missing_symbol(const boost::dll::shared_library& library) {
  for (int major = 0; major < 10; ++major) {
    if (major != MOE_ABI_MAJOR && library.has(fmt::format("moe_plugin_v{}", major))) {
      return fmt::format("ABI: expected major version {}, got {}", static_cast<int>(MOE_ABI_MAJOR), major);
    }
  }
  return fmt::format("symbol {}: expected it to be exported, got none: not a Patchbay plugin", MOE_PLUGIN_SYMBOL);
}

}  // namespace

moe::Result<std::shared_ptr<Library>> Library::load(const std::filesystem::path& path, const moe_host* host) {
  if (!path.is_absolute()) return moe::invalid(fmt::format("{}: expected an absolute path", path.string()));
  const auto fail = [&](moe::Error error) { return error.in(path.string()); };
  std::shared_ptr<Library> self(new Library());
  self->path_ = path;
  self->handle_ = std::make_unique<Handle>();
  std::string why;
  try {
    self->handle_->library.load(boost::dll::fs::path(path.string()), boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local);
  } catch (const std::exception& e) {
    why = e.what();
  }
  if (!self->handle_->library.is_loaded()) return fail(moe::invalid(fmt::format("cannot be loaded: {}", why)));
  if (!self->handle_->library.has(MOE_PLUGIN_SYMBOL)) return fail(moe::invalid(missing_symbol(self->handle_->library)));
  const auto* entry = &self->handle_->library.get<const moe_plugin>(MOE_PLUGIN_SYMBOL);
  if (auto s = check_entry(*entry); !s.ok()) return fail(s.error());
  moe::MessageBuffer message;
  const moe_status status = entry->init(host, message.get());
  if (status != MOE_OK) return fail(message.error(status).in("init"));
  self->entry_ = entry;  // from here on deinit is due
  if (auto s = check_components(*entry); !s.ok()) return fail(s.error());
  return self;
}

Library::~Library() {
  if (entry_ != nullptr) entry_->deinit();
}

std::vector<const moe_component*> Library::components(std::string_view kind_id) const {
  const moe_factory* factory = entry_->get_factory(std::string(kind_id).c_str());
  if (factory == nullptr) return {};
  return {factory->components, factory->components + factory->n_components};
}

}  // namespace patchbay
