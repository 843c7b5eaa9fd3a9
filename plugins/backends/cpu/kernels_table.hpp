// Joins the kernels' files: each fills its part of a table, once for each instruction set.
#pragma once

#include "hwy/detect_targets.h"
#include "kernels.hpp"

namespace moe::cpu {
// What a row of the table may use beyond its instruction set.
struct Features {
  bool bf16_dot;
  bool int8_dot;
  bool amx;
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
namespace moe::cpu {
namespace N_AVX3 {
// int8 or int4 panels with few integer rows, on processors with AMX.
ProductFn few_rows_product(Format format);
}  // namespace N_AVX3
// Whether this machine has AMX and the system lets the process use it, for which this asks.
bool allow_amx();
// Replaces the products that tiles do better; the rest stays AVX-512's.
void fill_amx_products(Kernels& k);
}  // namespace moe::cpu
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
