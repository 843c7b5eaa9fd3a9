// How products of few tokens are carried out for each format of weights and type of activations.
#pragma once

#include "kernels/device.cuh"

namespace moe::cuda {

// How a product is carried out.
enum class Mode {
  kBf16,   // activations rounded to bf16
  kF16,    // activations rounded to f16, weights f16
  kSplit,  // activations as the sum of three bf16, which holds all of an f32; weights as one bf16 (f16: two) and a
           // scale, exact
  kI8,     // integer sums of groups of 32, weights kI8 or kI4
  kFma,    // f32 multiply-adds, weights f32
  kLifted  // activations rounded to bf16, as f16 times a power of two that a block shares; weights kF8 as f16, exact
};

inline constexpr int kChunkBytes = 64;
inline constexpr int kTileRows = 16;
inline constexpr int kTileTokens = 8;

// Blocks of 32 k that a chunk holds: a lane has eight k of each (kF32: four of 16).
template <Format F>
inline constexpr int kBlocks = F == Format::kI4                       ? 4
                               : F == Format::kI8 || F == Format::kF8 ? 2
                                                                      : 1;
template <Format F>
inline constexpr int kChunk = F == Format::kF32 ? 16 : 32 * kBlocks<F>;

__device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void pdl_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Calls fn.operator()<Format, Mode>() for a weight and an activation type; MOE_I8 with weights that are no integers
// counts as MOE_F32.
template <typename Fn>
cudaError_t with_product(Format format, int32_t activation, Fn&& fn) {
  switch (format) {
    case Format::kF32:
      return fn.template operator()<Format::kF32, Mode::kFma>();
    case Format::kF16:
      if (activation == MOE_F16) return fn.template operator()<Format::kF16, Mode::kF16>();
      return fn.template operator()<Format::kF16, Mode::kSplit>();
    case Format::kBF16:
      if (activation == MOE_BF16) return fn.template operator()<Format::kBF16, Mode::kBf16>();
      return fn.template operator()<Format::kBF16, Mode::kSplit>();
    case Format::kI8:
      if (activation == MOE_I8) return fn.template operator()<Format::kI8, Mode::kI8>();
      return fn.template operator()<Format::kI8, Mode::kSplit>();
    case Format::kI4:
      if (activation == MOE_I8) return fn.template operator()<Format::kI4, Mode::kI8>();
      return fn.template operator()<Format::kI4, Mode::kSplit>();
    default:
      if (activation == MOE_BF16) return fn.template operator()<Format::kF8, Mode::kLifted>();
      return fn.template operator()<Format::kF8, Mode::kSplit>();
  }
}

// Whether activations must be rounded by launch_pad before a product: MOE_I8 where the products are not of integers.
inline bool rounds_before(Format format, int32_t activation) {
  return activation == MOE_I8 && format != Format::kI8 && format != Format::kI4;
}

}  // namespace moe::cuda
