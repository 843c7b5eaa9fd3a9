// In which format a backend keeps a weight. One rule for every backend that has these five, so that the same model
// gives the same answers on each.
#pragma once

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>

#include "moe/abi/backend.h"
#include "moe/sdk/quant.hpp"
#include "moe/sdk/result.hpp"

namespace moe {

// Those that a configuration can ask for, in the order of choose_weight_format()'s numbers.
inline constexpr const char* kWeightFormats[] = {"f32", "f16", "bf16", "int8", "int4"};

// The index in kWeightFormats for this weight. "auto": as it is stored, or the narrowest format that holds every value
// of it: mxfp4's are 4-bit floats times a power of two, e4m3's have four significant bits, q8_0 and q4_0 are groups of
// int8 and int4 (if their blocks can be read); the others' have more bits than f16 and bf16 keep. `backend` is for the
// error (MOE_UNIMPLEMENTED) where a format is asked for that is not in the list.
inline Result<int> choose_weight_format(const moe_weight_source& source, std::string_view backend) {
  constexpr int kF32 = 0;
  constexpr int kBF16 = 2;
  constexpr int kI8 = 3;
  constexpr int kI4 = 4;
  const std::string_view encoding = source.encoding == nullptr ? "f32" : source.encoding;
  std::string_view wanted = source.wanted == nullptr ? "auto" : source.wanted;
  const auto known = [](std::string_view name) {
    return std::find(std::begin(kWeightFormats), std::end(kWeightFormats), name);
  };
  if (wanted != "auto" && known(wanted) == std::end(kWeightFormats)) {
    return unimplemented("encoding: expected auto, f32, f16, bf16, int8 or int4 (what the backend " +
                         std::string(backend) + " can keep), got " + std::string(wanted));
  }
  const bool embed_only = source.uses == MOE_USE_EMBED;
  // A table is read a row at a time: nothing is gained by groups, and its precision is kept.
  if (embed_only && (wanted == "int8" || wanted == "int4")) wanted = "auto";
  const auto kept = known(wanted == "auto" ? encoding : wanted);
  if (kept != std::end(kWeightFormats)) return static_cast<int>(kept - std::begin(kWeightFormats));
  const bool has_blocks = !embed_only && source.raw != nullptr && source.n_groups > 0 &&
                          source.n_in % kQuantGroup == 0 && source.raw(source.context, 0) != nullptr;
  if (encoding == "q8_0" && has_blocks) return kI8;
  if (encoding == "q4_0" && has_blocks) return kI4;
  return encoding == "mxfp4" || encoding == "f8_e4m3" ? kBF16 : kF32;
}

}  // namespace moe
