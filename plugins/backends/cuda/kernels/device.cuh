// What kernels share: reductions over a warp or a block, elements of any format, the activations.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/weight.hpp"
#include "moe/abi/ops.h"

namespace moe::cuda {

inline constexpr unsigned kFullWarp = 0xFFFFFFFFU;

template <typename T>
__device__ T warp_sum(T v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kFullWarp, v, step);
  return v;
}
__device__ inline float warp_max(float v) {
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, step));
  return v;
}

// Programmatic dependent launch: lets the next kernel of the stream begin, then waits for the one before and all that
// it waited for. Every kernel of such a stream must wait, or those after it would not.
__device__ __forceinline__ void begin_early() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n griddepcontrol.wait;" ::: "memory");
#endif
}

// Sum over a block of whole warps (at most 32), for every thread. `shared` [32]; a second call may follow at once.
__device__ inline float block_sum(float v, float* shared) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  v = warp_sum(v);
  if (n_warps == 1) return v;
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  v = warp_sum(lane < n_warps ? shared[lane] : 0.0F);
  __syncthreads();
  return v;
}

// Narrowing keeps NaN and rounds to nearest even, as moe/sdk/numeric.hpp does.
__device__ inline uint16_t to_bf16_bits(float v) { return __bfloat16_as_ushort(__float2bfloat16_rn(v)); }
__device__ inline float from_bf16_bits(uint16_t v) { return __uint_as_float(static_cast<uint32_t>(v) << 16); }
__device__ inline uint16_t to_f16_bits(float v) { return __half_as_ushort(__float2half_rn(v)); }
__device__ inline float from_f16_bits(uint16_t v) { return __half2float(__ushort_as_half(v)); }

// A pair of a rotary embedding. Angles in double: in f32 a position of 10^6 would be off by 0.1. What is rounded when
// is said, so that every kernel that turns comes to the same bits.
__device__ inline float2 turn_of(int32_t position, float inv_freq, float scale) {
  double sine;
  double cosine;
  sincos(__dmul_rn(position, inv_freq), &sine, &cosine);
  return {static_cast<float>(__dmul_rn(scale, cosine)), static_cast<float>(__dmul_rn(scale, sine))};
}
__device__ inline float2 turned(float a, float b, float2 turn) {
  return {fmaf(a, turn.x, -__fmul_rn(b, turn.y)), fmaf(a, turn.y, __fmul_rn(b, turn.x))};
}

__device__ inline float from_e4m3_bits(uint8_t v) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(v, __NV_E4M3)));
}

// Element k of row `row` (counted over all groups) of a weight, as f32.
__device__ inline float weight_element(const WeightView& w, int64_t row, int64_t k) {
  const int64_t at = row * w.row + k;
  switch (w.format) {
    case Format::kF32:
      return static_cast<const float*>(w.data)[at];
    case Format::kF16:
      return from_f16_bits(static_cast<const uint16_t*>(w.data)[at]);
    case Format::kBF16:
      return from_bf16_bits(static_cast<const uint16_t*>(w.data)[at]);
    case Format::kI8:
      return from_f16_bits(static_cast<const uint16_t*>(w.scales)[at / kQuantScale]) *
             static_cast<float>(static_cast<const int8_t*>(w.data)[row * w.row + quant_byte(Format::kI8, k)]);
    case Format::kI4: {
      const uint8_t byte = static_cast<const uint8_t*>(w.data)[row * w.row / 2 + quant_byte(Format::kI4, k)];
      return from_f16_bits(static_cast<const uint16_t*>(w.scales)[at / kQuantScale]) *
             static_cast<float>((k % kQuantScale < 16 ? byte & 15 : byte >> 4) - 8);
    }
    default:
      return from_e4m3_bits(static_cast<const uint8_t*>(w.data)[at]) *
             f8_scales(w, row / w.n_out, row % w.n_out)[k / kF8Block];
  }
}

__device__ inline float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

// act(g) of a gated activation (moe_gating); NaN stays NaN.
__device__ inline float activate(int32_t kind, float g) {
  constexpr float kSqrtHalf = 0.70710678118654752440F;
  constexpr float kSqrtTwoOverPi = 0.79788456080286535588F;
  switch (kind) {
    case MOE_ACT_SILU:
      return g / (1.0F + expf(-g));
    case MOE_ACT_GELU:
      return 0.5F * g * erfcf(-g * kSqrtHalf);
    case MOE_ACT_GELU_TANH:
      return 0.5F * g * (1.0F + tanhf(kSqrtTwoOverPi * (g + 0.044715F * g * g * g)));
    case MOE_ACT_RELU:
      return g < 0.0F ? 0.0F : g;
    default: {  // MOE_ACT_RELU2
      const float r = g < 0.0F ? 0.0F : g;
      return r * r;
    }
  }
}

// One element of act(g, u); u does not matter where ungated.
__device__ inline float gated(const moe_gating& gating, float g, float u) {
  const float limit = gating.limit;
  if (gating.kind == MOE_ACT_SWIGLU_CLAMPED) {
    g = g > limit ? limit : g;
    u = u > limit ? limit : (u < -limit ? -limit : u);
    const float act = g * sigmoid(gating.alpha * g);
    return gating.ungated != 0 ? act : (u + 1.0F) * act;
  }
  float act = activate(gating.kind, g);
  if (limit > 0.0F) {
    act = act > limit ? limit : act;
    u = u > limit ? limit : (u < -limit ? -limit : u);
  }
  return gating.ungated != 0 ? act : act * u;
}

// A value as a product wants it; MOE_I8 is rounded by groups elsewhere.
__device__ inline float rounded(int32_t activation, float v) {
  if (activation == MOE_BF16) return from_bf16_bits(to_bf16_bits(v));
  if (activation == MOE_F16) return from_f16_bits(to_f16_bits(v));
  return v;
}

// The error of a launch.
#define MOE_CUDA_LAUNCHED() cudaGetLastError()

}  // namespace moe::cuda
