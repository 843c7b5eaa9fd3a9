// Joins the kernels' files: each fills its part of a table, once for each instruction set.
#pragma once

#include "hwy/detect_targets.h"
#include "kernels.hpp"

namespace moe::cpu {
// What a row of the table may use beyond its instruction set.
struct Features {
  bool bf16_dot;
  bool int8_dot;
};
}  // namespace moe::cpu

#define MOE_CPU_DECLARE(ns)                                     \
  namespace moe::cpu::ns {                                      \
  void fill_products(Kernels& k, const Features& features);     \
  void fill_int_products(Kernels& k, const Features& features); \
  void fill_rows(Kernels& k);                                   \
  void fill_attention(Kernels& k);                              \
  }

#if HWY_TARGETS & HWY_AVX3
MOE_CPU_DECLARE(N_AVX3)
#endif
#if HWY_TARGETS & HWY_AVX2
MOE_CPU_DECLARE(N_AVX2)
#endif
#if HWY_TARGETS & HWY_NEON
MOE_CPU_DECLARE(N_NEON)
#endif
#if HWY_TARGETS & HWY_EMU128
MOE_CPU_DECLARE(N_EMU128)
#endif
#if HWY_TARGETS & HWY_SCALAR
MOE_CPU_DECLARE(N_SCALAR)
#endif
