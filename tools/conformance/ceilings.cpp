#include "tools/conformance/ceilings.hpp"

#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace patchbay::bench {

bool g_processor_time = false;

namespace {

thread_local volatile float g_sink;

float sum_portable(const float* p, size_t n) {
  float s[16] = {};
  for (size_t i = 0; i < n; i += 16) {
    for (size_t j = 0; j < 16; ++j) s[j] += p[i + j];
  }
  return s[0] + s[5];
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) float sum_avx512(const float* p, size_t n) {
  __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  for (size_t i = 0; i < n; i += 64) {
    for (int j = 0; j < 4; ++j) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i + 16 * j) + 2048, _MM_HINT_T0);
      s[j] = _mm512_add_ps(s[j], _mm512_load_ps(p + i + 16 * j));
    }
  }
  alignas(64) float lanes[16];
  _mm512_store_ps(lanes, _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
  return lanes[0] + lanes[5];
}

constexpr int64_t kSteps = 1 << 18;
// Twenty-four accumulators: more than the latency of any of these instructions needs. The loop names its registers,
// because a compiler that is given an array of accumulators keeps it on the stack, which halves the rate.
#define PATCHBAY_RATE_LOOP(name, isa, instruction)                                                                    \
  __attribute__((target(isa))) void name() {                                                                          \
    int64_t steps = kSteps;                                                                                           \
    asm volatile(                                                                                                     \
        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24\n\t"                                 \
        "vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n\t"                                                                     \
        ".endr\n\t"                                                                                                   \
        "1:\n\t"                                                                                                      \
        ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t" instruction                        \
        " %%zmm24, %%zmm24, %%zmm\\r\n\t"                                                                             \
        ".endr\n\t"                                                                                                   \
        "dec %0\n\t"                                                                                                  \
        "jnz 1b\n\t"                                                                                                  \
        "vzeroupper"                                                                                                  \
        : "+r"(steps)                                                                                                 \
        :                                                                                                             \
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",     \
          "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", \
          "xmm24");                                                                                                   \
  }
PATCHBAY_RATE_LOOP(rate_f32, "avx512f", "vfmadd231ps")
PATCHBAY_RATE_LOOP(rate_bf16, "avx512f", "vdpbf16ps")
PATCHBAY_RATE_LOOP(rate_i8, "avx512f", "vpdpbusd")
#endif

float sum(const float* p, size_t n) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return sum_avx512(p, n);
#endif
  return sum_portable(p, n);
}

// Seconds of n_threads tasks, the second time round: the first wakes the threads.
template <typename F>
double seconds_of(const moe_host& host, int32_t n_threads, F& f) {
  double start = 0;
  for (int round = 0; round < 2; ++round) {
    start = now();
    host.parallel_for(
        host.self, n_threads, [](void* context, int64_t task, int32_t) { (*static_cast<F*>(context))(task); }, &f);
  }
  return now() - start;
}

}  // namespace

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Probe::Probe(const moe_host& host, size_t n_bytes) : host_(host), memory_(nullptr), n_bytes_(n_bytes) {
  void* p = mmap(nullptr, n_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) std::abort();
  madvise(p, n_bytes_, MADV_HUGEPAGE);
  memory_ = static_cast<float*>(p);
  auto write = [&](int64_t t) {
    const int64_t n = host.n_threads(host.self);
    const size_t part = n_bytes_ / static_cast<size_t>(n);
    const size_t first = part * static_cast<size_t>(t);
    std::memset(static_cast<char*>(p) + first, 1, t + 1 == n ? n_bytes_ - first : part);
  };
  host.parallel_for(
      host.self, host.n_threads(host.self), [](void* f, int64_t task, int32_t) { (*static_cast<decltype(write)*>(f))(task); }, &write);
}
Probe::~Probe() { munmap(memory_, n_bytes_); }

double Probe::read_gbps(int32_t n_threads) const {
  const size_t n = n_bytes_ / 4 / static_cast<size_t>(n_threads) / 64 * 64;
  auto task = [&](int64_t t) { g_sink = sum(memory_ + static_cast<size_t>(t) * n, n); };
  return static_cast<double>(n) * 4 * n_threads / seconds_of(host_, n_threads, task) * 1e-9;
}

double Probe::matrix_gflops(int32_t n_threads, Rate rate) const {
#if defined(__x86_64__)
  void (*loop)() = nullptr;
  double flops = 2.0 * 16 * 24 * static_cast<double>(kSteps);
  if (rate == Rate::kF32 && __builtin_cpu_supports("avx512f")) loop = rate_f32;
  if (rate == Rate::kBF16 && __builtin_cpu_supports("avx512bf16")) loop = rate_bf16, flops *= 2;
  if (rate == Rate::kI8 && __builtin_cpu_supports("avx512vnni")) loop = rate_i8, flops *= 4;
  if (loop == nullptr) return 0;
  auto task = [&](int64_t) { loop(); };
  return flops * n_threads / seconds_of(host_, n_threads, task) * 1e-9;
#else
  (void)n_threads, (void)rate;
  return 0;
#endif
}

}  // namespace patchbay::bench
