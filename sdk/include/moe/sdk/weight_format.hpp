// In which format a backend keeps a weight. One rule for every backend that has these five, so that the same model
// gives the same answers on each.
#pragma once

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "moe/abi/backend.h"
#include "moe/sdk/quant.hpp"
#include "moe/sdk/result.hpp"

namespace moe {

// Those that a configuration can ask for, in the order of choose_weight_format()'s numbers.
inline constexpr const char* kWeightFormats[] = {"f32", "f16", "bf16", "int8", "int4", "fp8"};

// The index in kWeightFormats for this weight. "auto": as it is stored, or the narrowest format that holds every value
// of it: mxfp4's are 4-bit floats times a power of two, e4m3's have four significant bits, q8_0 and q4_0 are groups of
// int8 and int4 (if their blocks can be read); the others' have more bits than f16 and bf16 keep, e4m3 with scales of
// blocks among them, which "auto" keeps as f32. `backend` is for the error (MOE_UNIMPLEMENTED) where a format is asked
// for that is not in the list.
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
    return unimplemented("encoding: expected auto, f32, f16, bf16, int8, int4 or fp8 (what the backend " +
                         std::string(backend) + " can keep), got " + std::string(wanted));
  }
  const bool embed_only = source.uses == MOE_USE_EMBED;
  // A table is read a row at a time: nothing is gained by groups, and its precision is kept.
  if (embed_only && (wanted == "int8" || wanted == "int4" || wanted == "fp8")) wanted = "auto";
  const auto kept = known(wanted == "auto" ? encoding : wanted);
  if (kept != std::end(kWeightFormats)) return static_cast<int>(kept - std::begin(kWeightFormats));
  const bool has_blocks = !embed_only && source.raw != nullptr && source.n_groups > 0 &&
                          source.n_in % kQuantGroup == 0 && source.raw(source.context, 0) != nullptr;
  if (encoding == "q8_0" && has_blocks) return kI8;
  if (encoding == "q4_0" && has_blocks) return kI4;
  return encoding == "mxfp4" || encoding == "f8_e4m3" ? kBF16 : kF32;
}

// Whether the source is stored as "fp8" is (moe/sdk/quant.hpp). Other sizes of blocks count as f32 here and are
// quantised anew.
inline bool is_stored_as_fp8(const moe_weight_source& source) {
  return source.read_block_row != nullptr && source.block_encoding != nullptr &&
         std::string_view(source.block_encoding) == "f8_e4m3" && source.block_rows == kFp8Block &&
         source.block_cols == kFp8Block;
}

// Rows of row `index` of blocks.
inline int64_t fp8_rows(const moe_weight_source& source, int64_t index) {
  return std::min(kFp8Block, source.n_out - index * kFp8Block);
}

// Row `index` of blocks of matrix `group` as "fp8": codes of fp8_rows() rows, `stride` apart, and scales
// [fp8_blocks(n_in)]; as stored, or quantised. `scratch` is the caller's to keep from call to call. [thread-safe]
inline void read_fp8(const moe_weight_source& source, int64_t group, int64_t index, uint8_t* codes, int64_t stride,
                     float* scales, std::vector<float>& scratch) {
  if (is_stored_as_fp8(source)) {
    source.read_block_row(source.context, group, index, codes, stride, scales);
    return;
  }
  const int64_t n_rows = fp8_rows(source, index);
  scratch.resize(static_cast<size_t>(n_rows * source.n_in));
  source.read_f32(source.context, group, index * kFp8Block, n_rows, scratch.data());
  quantize_fp8(scratch.data(), n_rows, source.n_in, codes, stride, scales);
}

// The same as the f32 that they stand for, rows contiguous: for backends that keep them otherwise. [thread-safe]
inline void read_fp8_as_f32(const moe_weight_source& source, int64_t group, int64_t index, float* out) {
  const int64_t n_rows = fp8_rows(source, index);
  source.read_f32(source.context, group, index * kFp8Block, n_rows, out);
  if (is_stored_as_fp8(source)) return;
  std::vector<uint8_t> codes(static_cast<size_t>(n_rows * source.n_in));
  std::vector<float> scales(static_cast<size_t>(fp8_blocks(source.n_in)));
  quantize_fp8(out, n_rows, source.n_in, codes.data(), source.n_in, scales.data());
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t c = 0; c < source.n_in; ++c) {
      const auto at = static_cast<size_t>(r * source.n_in + c);
      out[at] = fp8_weight(codes[at], scales[static_cast<size_t>(c / kFp8Block)]);
    }
  }
}

}  // namespace moe
