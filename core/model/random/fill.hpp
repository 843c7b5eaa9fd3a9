// Random weights: bytes of a tensor in any encoding that can be written, a function of a seed, the tensor's name and
// the place alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

enum class RandomKind {
  kMatrix,  // normal, mean 0, deviation 0.02; quantised encodings: random blocks whose scales give about that deviation
  kOnes,    // 1: norms
};

// Bytes of one tensor, from any place on. [thread-safe]
class RandomFill {
 public:
  // MOE_UNIMPLEMENTED: an encoding that is not filled (those that are: encodings()). kOnes: f32, f16 and bf16 alone.
  static moe::Result<RandomFill> make(std::string_view encoding, RandomKind kind, uint64_t seed,
                                      std::string_view tensor);

  // The ids that make() takes, for messages and choices; "mxfp4_blocks" and "mxfp4_scales" are the two u8 tensors of
  // MXFP4 in safetensors.
  static std::vector<std::string> encodings();

  // fill() works in units of so many bytes: blocks, or a few values.
  [[nodiscard]] uint64_t unit_bytes() const { return unit_bytes_; }
  // Bytes [offset, offset + out.size()) of the tensor; offset is a multiple of unit_bytes().
  void fill(uint64_t offset, std::span<std::byte> out) const;

 private:
  struct Format;
  RandomFill() = default;
  static const std::vector<Format>& formats();
  void draw_values(uint64_t unit, std::byte* out) const;
  void draw_block(uint64_t unit, std::byte* out) const;

  const Format* format_ = nullptr;
  uint64_t seed_ = 0;
  uint64_t lane_ = 0;  // of the random stream
  uint64_t unit_bytes_ = 0;
  std::shared_ptr<const std::vector<std::byte>> values_;  // of plain encodings: those to draw from
};

}  // namespace patchbay
