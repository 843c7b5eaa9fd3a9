// Which kernels this machine runs.
#include "kernels.hpp"

#include <iterator>

#include "hwy/targets.h"
#include "kernels_table.hpp"

namespace moe::cpu {
namespace {

// Rows, best first; the last always works.
struct Implementation {
  const char* name;
  int64_t target;  // HWY_*
  Features features;
  void (*fill_products)(Kernels&, const Features&);
  void (*fill_int_products)(Kernels&, const Features&);
  void (*fill_rows)(Kernels&);
  void (*fill_attention)(Kernels&);
};
#define MOE_CPU_ROW(name, target, bf16_dot, int8_dot, amx, ns)                                        \
  {                                                                                                   \
    name, target, {bf16_dot, int8_dot, amx}, ns::fill_products, ns::fill_int_products, ns::fill_rows, \
        ns::fill_attention                                                                            \
  }
constexpr Implementation kImplementations[] = {
#if HWY_TARGETS & HWY_AVX3
    MOE_CPU_ROW("amx", HWY_AVX3, false, true, true, N_AVX3),
    MOE_CPU_ROW("avx512_bf16", HWY_AVX3, true, true, false, N_AVX3),
    MOE_CPU_ROW("avx512_vnni", HWY_AVX3, false, true, false, N_AVX3),
    MOE_CPU_ROW("avx512", HWY_AVX3, false, false, false, N_AVX3),
#endif
#if HWY_TARGETS & HWY_AVX2
    MOE_CPU_ROW("avx2", HWY_AVX2, false, false, false, N_AVX2),
#endif
#if HWY_TARGETS & HWY_NEON
    MOE_CPU_ROW("neon", HWY_NEON, false, false, false, N_NEON),
#endif
#if HWY_TARGETS & HWY_EMU128
    MOE_CPU_ROW("portable", HWY_EMU128, false, false, false, N_EMU128),
#endif
#if HWY_TARGETS & HWY_SCALAR
    MOE_CPU_ROW("portable", HWY_SCALAR, false, false, false, N_SCALAR),
#endif
};

bool can_run(const Implementation& i) {
  if (i.target != HWY_STATIC_TARGET && (hwy::SupportedTargets() & i.target) == 0) return false;
#if HWY_ARCH_X86
  if (i.features.bf16_dot && !__builtin_cpu_supports("avx512bf16")) return false;
  if (i.features.int8_dot && !__builtin_cpu_supports("avx512vnni")) return false;
#endif
#if HWY_TARGETS & HWY_AVX3
  if (i.features.amx && !allow_amx()) return false;
#endif
  return true;
}

// What can run here but is slower than a row below it. On Intel's processors vdpbf16ps starts a quarter as often as
// vfmadd231ps: 107 and 220 GFLOP/s a thread (`bench_cpu_ops`); on Zen 4 225 and 112.
bool is_second_best(const Implementation& i) {
#if HWY_ARCH_X86
  return i.features.bf16_dot && __builtin_cpu_is("intel");
#else
  (void)i;
  return false;
#endif
}

}  // namespace

const Kernels* select_kernels(std::string_view name) {
  static Kernels tables[std::size(kImplementations)];  // zero until filled: a table is the same whoever fills it
  for (size_t i = 0; i < std::size(kImplementations); ++i) {
    const Implementation& implementation = kImplementations[i];
    if (name != "auto" && name != implementation.name) continue;
    if (name == "auto" && is_second_best(implementation)) continue;
    if (!can_run(implementation)) {
      if (name == "auto") continue;
      return nullptr;
    }
    Kernels& table = tables[i];
    implementation.fill_products(table, implementation.features);
    implementation.fill_int_products(table, implementation.features);
    implementation.fill_rows(table);
    implementation.fill_attention(table);
#if HWY_TARGETS & HWY_AVX3
    if (implementation.features.amx) fill_amx_products(table);
#endif
    table.name = implementation.name;
    return &table;
  }
  return nullptr;
}

std::string kernel_names() {
  std::string names;
  for (const Implementation& i : kImplementations) names += (names.empty() ? "" : ", ") + std::string(i.name);
  return names;
}

}  // namespace moe::cpu
