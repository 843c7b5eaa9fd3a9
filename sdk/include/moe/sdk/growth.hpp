// Structs that cross the boundary may have grown between the other side's headers and ours: what an older writer left
// out reads as zero, a bit of must_understand that the reader does not know is refused, and nobody writes beyond the
// room that there is.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

#include "moe/sdk/result.hpp"

namespace moe {

// sizeof a struct in the first version of the ABI that had it: no writer's is smaller. A struct that has grown since
// says so, beside the change:  template <> inline constexpr uint32_t kFirstSize<moe_host> = 72; Structs that stand
// inside another (moe_component, moe_op_args, moe_tensor, moe_plan, moe_context, moe_pages, moe_gating) and those that
// come in arrays without a header (moe_option_value, moe_bound_weight, moe_sample_row) never grow: they get an
// extension or a new id.
template <typename T>
inline constexpr uint32_t kFirstSize = sizeof(T);

}  // namespace moe
struct moe_weight_source;
namespace moe {
template <>
inline constexpr uint32_t kFirstSize<moe_weight_source> = 104;  // before block_encoding

// The bits of must_understand that this side knows.
template <typename T>
inline constexpr uint32_t kUnderstood = 0;

// Whether a struct that the other side wrote can be read. MOE_INVALID_ARGUMENT: null or too small; MOE_UNIMPLEMENTED:
// it asks for something unknown. `what` names it in the message.
template <typename T>
Status check_struct(const T* s, const char* what) {
  if (s == nullptr) return invalid(std::string(what) + ": expected a struct, got null");
  if (s->struct_size < kFirstSize<T>) {
    return invalid(std::string(what) + ": expected a struct of at least " + std::to_string(kFirstSize<T>) +
                   " bytes, got " + std::to_string(s->struct_size));
  }
  const uint32_t unknown = s->must_understand & ~kUnderstood<T>;
  if (unknown == 0) return {};
  return unimplemented(std::string(what) + ": asks for something unknown (must_understand " + std::to_string(unknown) +
                       ")");
}

// A checked struct of the other side as this side knows it: itself, or a copy with zeros beyond an older writer's end.
template <typename T>
class Grown {
 public:
  explicit Grown(const T& s) : at_(&s) {
    if (s.struct_size >= sizeof(T)) return;
    std::memset(static_cast<void*>(&copy_), 0, sizeof(T));
    std::memcpy(static_cast<void*>(&copy_), &s, s.struct_size);
    at_ = &copy_;
  }
  Grown(const Grown&) = delete;
  Grown& operator=(const Grown&) = delete;
  const T& operator*() const { return *at_; }

 private:
  union {
    T copy_;  // not initialised: a call of the hot path pays nothing for it
  };
  const T* at_;
};

// Fills a struct of the other side with as much of `value` as it has room for. `out` was checked.
template <typename T>
void give(T* out, T value) {
  value.struct_size = std::min<uint32_t>(out->struct_size, sizeof(T));
  std::memcpy(static_cast<void*>(out), &value, value.struct_size);
}

// Whether the other side's struct reaches as far as this member, which a later version added: knows(host, &moe_host::trace).
template <typename T, typename M>
bool knows(const T* s, M T::*member) {
  const auto end = reinterpret_cast<const char*>(&(s->*member)) + sizeof(M);
  return s != nullptr && s->struct_size >= static_cast<size_t>(end - reinterpret_cast<const char*>(s));
}

// Element i of an array whose elements begin with a header: a newer writer's are larger than ours.
template <typename T>
const T& nth(const T* array, uint32_t i) {
  const auto* bytes = reinterpret_cast<const char*>(array);
  return *reinterpret_cast<const T*>(bytes + static_cast<size_t>(array->struct_size) * i);
}

}  // namespace moe
