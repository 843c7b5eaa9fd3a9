// One component as the rules that hold for every kind see it: options in, a hot call, bytes out.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "moe/sdk/growth.hpp"
#include "tools/conformance/kit.hpp"

namespace patchbay::conformance {

class Subject {
 public:
  virtual ~Subject() = default;

  // A new instance with these options, ready for its hot call; the one before is destroyed.
  virtual moe::Status create(const std::vector<GivenOption>& given) = 0;
  virtual void destroy() = 0;
  // Only what the plugin's `create` does: for rules on options. The instance is destroyed at once.
  virtual moe::Status create_only(const std::vector<GivenOption>& given) = 0;
  // Makes the memory of a call with input number `which`. The same number gives the same bytes, always.
  virtual moe::Status set_input(uint32_t which) = 0;
  // The memory of the last set_input, with input number `which` in it, which has the same shapes (numbers that differ
  // by 3 have).
  virtual moe::Status refill(uint32_t which) = 0;
  // The stream that the hot call enqueues on; null where it runs on the host.
  [[nodiscard]] virtual void* stream() const { return nullptr; }
  // The hot call, and nothing else.
  virtual moe::Status call() = 0;
  // What the call gave: the same for the same input, by what the component promises.
  virtual std::vector<uint8_t> output() = 0;
  // What was written that may not be; empty: nothing.
  virtual std::string violations() = 0;
  // The memory of the last call is filled with 0xFF and kept, so that a later read or write of it shows.
  virtual void retire_memory() = 0;
  // What was written to retired memory since; empty: nothing.
  virtual std::string writes_to_retired() = 0;

  // Calls with a struct that asks for something unknown, by what they are: each must be refused with MOE_UNIMPLEMENTED.
  // After create().
  virtual std::vector<std::pair<std::string, std::function<moe_status(moe_message*)>>> calls_with_unknown_bits() = 0;
  // Fills every struct that the plugin gives out, with too little and with too much room; what went wrong, or nothing.
  // After create().
  virtual std::string wrong_out_structs() = 0;
};

// The component of the kit.
moe::Result<std::unique_ptr<Subject>> make_subject(Kit& kit);

// A struct of the plugin's to fill, with room for `n_bytes` of it; what f wrote beyond that, or made of the size.
template <typename T>
std::string wrong_out_struct(const char* name, const std::function<moe::Status(T*)>& f) {
  for (const size_t n_bytes : {size_t{moe::kFirstSize<T>}, sizeof(T) + 64}) {
    alignas(T) uint8_t room[sizeof(T) + 128];
    std::memset(room, 0xC5, sizeof(room));
    std::memset(room, 0, std::min(n_bytes, sizeof(T)));
    auto* out = reinterpret_cast<T*>(room);
    out->struct_size = static_cast<uint32_t>(n_bytes);
    out->must_understand = 0;
    if (auto status = f(out); !status.ok()) return std::string(name) + ": " + status.error().message;
    const std::string of = std::string(name) + " with room for " + std::to_string(n_bytes) + " bytes: ";
    for (size_t i = std::min(n_bytes, sizeof(T)); i < sizeof(room); ++i) {
      if (room[i] != 0xC5 && i >= n_bytes) return of + "expected no write beyond, got one at " + std::to_string(i);
    }
    if (out->struct_size < moe::kFirstSize<T> || out->struct_size > n_bytes)
      return of + "expected a struct_size within that, got " + std::to_string(out->struct_size);
  }
  return "";
}

moe::Result<std::unique_ptr<Subject>> make_router_subject(Kit& kit);
moe::Result<std::unique_ptr<Subject>> make_expert_subject(Kit& kit);
moe::Result<std::unique_ptr<Subject>> make_sampler_subject(Kit& kit);
moe::Result<std::unique_ptr<Subject>> make_backend_subject(Kit& kit);
moe::Result<std::unique_ptr<Subject>> make_transport_subject(Kit& kit);

}  // namespace patchbay::conformance
