// Tensor cores as the kernels of attention use them: products of bf16 matrices in shared memory, where f32 operands are
// the sum of two bf16: 16 bits of an f32's 24, twice those of the keys and values that they meet.
#pragma once

#include "kernels/attention.cuh"

namespace moe::cuda::attention {

inline constexpr int kTerms = 2;
inline constexpr int kPad = 8;  // elements: rows of a matrix begin on different banks

// Four 8 x 8 matrices over a warp.
struct Fragment {
  uint32_t r[4];
};

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ inline Fragment load_matrices(const uint16_t* p) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f.r[0]), "=r"(f.r[1]), "=r"(f.r[2]), "=r"(f.r[3])
               : "r"(shared_address(p)));
  return f;
}
__device__ inline Fragment load_matrices_transposed(const uint16_t* p) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f.r[0]), "=r"(f.r[1]), "=r"(f.r[2]), "=r"(f.r[3])
               : "r"(shared_address(p)));
  return f;
}
// c [16, 8] += a [16, 16] b [16, 8].
__device__ inline void multiply(float* c, const Fragment& a, uint32_t b0, uint32_t b1) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b0), "r"(b1));
}
// 16 bytes, or zeros.
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All but the last group have arrived.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_group 1;" ::: "memory"); }

// A value as the sum of kTerms bf16, each `step` elements from the last.
__device__ inline void split(float v, uint16_t* to, int step) {
  for (int t = 0; t < kTerms; ++t) {
    to[t * step] = to_bf16_bits(v);
    v -= from_bf16_bits(to[t * step]);
  }
}
// Two values, the first in the low half.
__device__ inline void split(float low, float high, uint32_t (&to)[kTerms]) {
  for (int t = 0; t < kTerms; ++t) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    to[t] = *reinterpret_cast<const uint32_t*>(&pair);
    low -= __low2float(pair);
    high -= __high2float(pair);
  }
}

}  // namespace moe::cuda::attention
