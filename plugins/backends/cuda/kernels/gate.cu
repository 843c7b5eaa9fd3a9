// Norm, gate and decision (gate.hpp) by one cluster of blocks. Each block holds some rows of the gate's weight, which
// it asks for before the kernel before this one is through. A thread has the same k of all of them, and multiplies
// them with what it reads of x; so one sum over the block gives the products and the norm, whose factor comes last.
// The first block gets everyone's logits into its shared memory, and decides.
//
// What counts here is latency. Seen on an H200 with OLMoE's gate (64 x 2,048): 7.6 us in two launches, 5.3 in this one.
// Clocks inside say that much of that is code and parameters which a multiprocessor has not seen yet: 800 for a branch
// that is not taken. Going through the decision once before on zeros did not help where this kernel begins late.
#include <algorithm>

#include "kernels/gate.hpp"
#include "kernels/gemv_launch.hpp"
#include "kernels/gemv_token.cuh"
#include "kernels/launch.hpp"
#include "kernels/route_row.cuh"

namespace moe::cuda {
namespace {

constexpr int kCluster = 8;  // blocks; more are not portable
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRowsAtOnce = 8;

// Elements of 16 bytes.
template <Format F>
constexpr int kUnit = F == Format::kF32 ? 4 : 8;

// Shared memory of a block, in bytes from its beginning.
struct Layout {
  int rows;    // of the weight, that a block has at most
  int stride;  // the same in whole kRowsAtOnce
  int norm;    // the norm's weight [row] f32
  int parts;   // each warp's sums [kWarps][n][stride + 1], the last one of squares
  int logits;  // the first block's: everyone's [n][n_out]
  int row;     // of the routing, for each token
  int row_bytes;
  int end;
};
Layout layout_of(const GateParams& p) {
  const auto n = static_cast<int>(p.product.n);
  const auto n_out = static_cast<int>(p.product.w.n_out);
  Layout l{};
  l.rows = (n_out + kCluster - 1) / kCluster;
  l.stride = (l.rows + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce;
  l.norm = l.rows * static_cast<int>(row_bytes(p.product.w));
  l.parts = l.norm + (p.product.norm_weight != nullptr ? static_cast<int>(p.product.w.row) * 4 : 0);
  l.logits = l.parts + kWarps * n * (l.stride + 1) * 4;
  l.row = l.logits + n * n_out * 4;
  l.row_bytes = static_cast<int>(route_bytes(p.route));
  l.end = l.row + n * l.row_bytes;
  return l;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ void arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ __forceinline__ void wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
// Into the same place of the first block.
__device__ __forceinline__ void store_first(float* at, float v) {
  asm volatile(
      "{\n.reg .b32 first;\nmapa.shared::cluster.u32 first, %0, 0;\nst.shared::cluster.f32 [first], %1;\n}\n" ::"r"(
          static_cast<uint32_t>(__cvta_generic_to_shared(at))),
      "f"(v)
      : "memory");
}

// The sums of eight values over a warp: lane l has that of value l / 4.
__device__ __forceinline__ float warp_sums(float (&v)[kRowsAtOnce]) {
  const auto lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = kRowsAtOnce / 2; half > 0; half /= 2) {
    const bool upper = (lane & (4 * half)) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = upper ? v[i] : v[i + half];
      v[i] = (upper ? v[i + half] : v[i]) + __shfl_xor_sync(kFullWarp, given, 4 * half);
    }
  }
  v[0] += __shfl_xor_sync(kFullWarp, v[0], 2);
  return v[0] + __shfl_xor_sync(kFullWarp, v[0], 1);
}

// A unit of a row, times that of each token.
template <Format F, int NT>
__device__ __forceinline__ void add_unit(const char* w, const float (&x)[NT][kUnit<F>], float (&sums)[NT]) {
  const uint4 words = *reinterpret_cast<const uint4*>(w);
  float v[kUnit<F>];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
    if constexpr (F == Format::kF32) {
      v[i] = __uint_as_float(word);
    } else if constexpr (F == Format::kBF16) {
      v[2 * i] = low_bf16(word);
      v[2 * i + 1] = high_bf16(word);
    } else {
      v[2 * i] = from_f16_bits(static_cast<uint16_t>(word));
      v[2 * i + 1] = from_f16_bits(static_cast<uint16_t>(word >> 16));
    }
  }
#pragma unroll
  for (int token = 0; token < NT; ++token) {
#pragma unroll
    for (int i = 0; i < kUnit<F>; ++i) sums[token] = fmaf(v[i], x[token][i], sums[token]);
  }
}

// What a block of the kernel does, step by step.
template <Format F, int NT>
struct Gate {
  const GateParams& p;
  const Layout& at;
  char* memory;
  int first;   // row of the weight
  int n_rows;  // of this block

  [[nodiscard]] __device__ __forceinline__ int n() const { return static_cast<int>(p.product.n); }
  [[nodiscard]] __device__ __forceinline__ int n_units() const { return static_cast<int>(p.product.w.row) / kUnit<F>; }
  [[nodiscard]] __device__ __forceinline__ float* part(int warp, int token) const {
    return reinterpret_cast<float*>(memory + at.parts) + (warp * n() + token) * (at.stride + 1);
  }

  // Asks for the units that the thread itself will read.
  __device__ __forceinline__ void ask() const {
    const char* from = static_cast<const char*>(p.product.w.data) + int64_t{16} * first * n_units();
    const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
#pragma unroll 1
    for (int unit = threadIdx.x; unit < n_units(); unit += kThreads) {
#pragma unroll 1
      for (int row = 0; row < n_rows; ++row) {
        const int offset = 16 * (row * n_units() + unit);
        copy_async<16>(to + offset, from + offset);
      }
      if (p.product.norm_weight == nullptr) continue;
#pragma unroll
      for (int i = 0; i < kUnit<F>; i += 4) {
        const int k = unit * kUnit<F> + i;
        copy_async<16>(to + at.norm + 4 * k, p.product.norm_weight + k);
      }
    }
    commit_copies();
  }

  // The thread's unit of each token's x, with the norm's weight; squares gets that of x.
  __device__ __forceinline__ void read(int unit, float (&x)[NT][kUnit<F>], float (&squares)[NT]) const {
    const bool normed = p.product.norm_weight != nullptr;
#pragma unroll
    for (int i = 0; i < kUnit<F>; i += 4) {
      const int k = unit * kUnit<F> + i;
      const float4 norm = normed ? *reinterpret_cast<const float4*>(memory + at.norm + 4 * k) : float4{1, 1, 1, 1};
#pragma unroll
      for (int token = 0; token < NT; ++token) {
        const float* from = p.product.x + min(token, n() - 1) * p.product.x_row + k;
        const float4 v = *reinterpret_cast<const float4*>(from);
        squares[token] = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares[token]))));
        const float4 y = product(v, norm);
        x[token][i] = y.x, x[token][i + 1] = y.y, x[token][i + 2] = y.z, x[token][i + 3] = y.w;
      }
    }
  }

  // Each warp's sums of rows [row, row + kRowsAtOnce) into parts, those of squares with the first ones.
  __device__ __forceinline__ void multiply(int row) const {
    float sums[kRowsAtOnce][NT] = {};
    float squares[NT] = {};
#pragma unroll 1
    for (int unit = threadIdx.x; unit < n_units(); unit += kThreads) {
      float x[NT][kUnit<F>];
      read(unit, x, squares);
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        const int there = max(0, min(row + r, n_rows - 1));
        add_unit<F, NT>(memory + 16 * (there * n_units() + unit), x, sums[r]);
      }
    }
    const auto lane = static_cast<int>(threadIdx.x) % 32;
    const auto warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
    for (int token = 0; token < NT; ++token) {
      if (token >= n()) break;
      float of_token[kRowsAtOnce];
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) of_token[r] = sums[r][token];
      const float sum = warp_sums(of_token);
      const float square = row == 0 ? warp_sum(squares[token]) : 0.0F;
      if (lane % 4 == 0) part(warp, token)[row + lane / 4] = sum;
      if (lane == 0 && row == 0) part(warp, token)[at.stride] = square;
    }
  }

  // Over all warps, of a row (or of the squares).
  __device__ __forceinline__ float sum_of(int token, int row) const {
    float sum = 0.0F;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += part(warp, token)[row];
    return sum;
  }
  // The norm's factor.
  __device__ __forceinline__ float factor_of(int token) const {
    if (p.product.norm_weight == nullptr) return 1.0F;
    return 1.0F / sqrtf(sum_of(token, at.stride) / static_cast<float>(p.product.w.n_in) + p.product.norm_eps);
  }

  // The block's logits, to the first block and to whoever else wants them.
  __device__ __forceinline__ void give_logits() const {
    const auto n_out = static_cast<int>(p.product.w.n_out);
#pragma unroll 1
    for (int i = threadIdx.x; i < n_rows * n(); i += kThreads) {
      const int token = NT == 1 ? 0 : i / n_rows;
      const int row = i - token * n_rows;
      float y = sum_of(token, row) * factor_of(token);
      if (p.product.bias != nullptr) y += p.product.bias[first + row];
      y *= p.product.scale;
      if (p.product.soft_cap > 0.0F) y = p.product.soft_cap * tanhf(y / p.product.soft_cap);
      store_first(reinterpret_cast<float*>(memory + at.logits) + token * n_out + first + row, y);
      if (p.product.out != nullptr) p.product.out[token * p.product.out_row + first + row] = y;
    }
  }

  // The block's part of the normalised rows: none of the first one's, which is to decide.
  __device__ __forceinline__ void give_normed() const {
    const MatvecParams& m = p.product;
    if (m.normed == nullptr || blockIdx.x == 0) return;
    const auto begin = static_cast<int>((blockIdx.x - 1) * kThreads + threadIdx.x);
#pragma unroll 1
    for (int token = 0; token < n(); ++token) {
      const float factor = factor_of(token);
#pragma unroll 1
      for (int k = begin; k < m.w.n_in; k += (kCluster - 1) * kThreads)
        m.normed[token * m.normed_row + k] = m.x[token * m.x_row + k] * factor * m.norm_weight[k];
    }
  }

  __device__ __forceinline__ void decide() const {
    const auto token = static_cast<int>(threadIdx.x) / 32;
    if (token >= n()) return;
    auto* row = reinterpret_cast<float*>(memory + at.row + token * at.row_bytes);
    RouteRow(p.route, row).run(token, reinterpret_cast<const float*>(memory + at.logits) + token * p.product.w.n_out);
  }
};

template <Format F, int NT>
__device__ __forceinline__ void run_gate(const GateParams& p, const Layout& at, char* memory) {
  const int first = static_cast<int>(blockIdx.x) * at.rows;
  const Gate<F, NT> gate{p, at, memory, first, max(0, min(at.rows, static_cast<int>(p.product.w.n_out) - first))};
  gate.ask();
  arrive();  // by the first block: its memory is there to be written to
  pdl_launch();
  pdl_wait();
  wait_copies<0>();
#pragma unroll 1
  for (int row = 0; row == 0 || row < gate.n_rows; row += kRowsAtOnce) gate.multiply(row);
  __syncthreads();
  wait();
  gate.give_logits();
  arrive();
  gate.give_normed();
  wait();
  if (blockIdx.x == 0) gate.decide();
}

#endif

// One cluster. Shared memory: Layout.
template <Format F, int NT>
__global__ void __launch_bounds__(kThreads)
    gate_kernel(const __grid_constant__ GateParams p, const __grid_constant__ Layout at) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(16) char memory[];
  run_gate<F, NT>(p, at, memory);
#endif
}

// Room that the kernels for one token (single.hpp) leave on a multiprocessor: the one before this one, so that the
// weight is on its way while it runs, and the one after it, so that it is there when this one ends.
constexpr int kMostBytes = 88 * 1024;

template <Format F>
cudaError_t launch(const GateParams& p, cudaStream_t stream) {
  const Layout at = layout_of(p);
  const LaunchShape shape{dim3(kCluster), kThreads, static_cast<size_t>(at.end), p.product.pdl, kCluster};
  if (p.product.n == 1) return launch_kernel(gate_kernel<F, 1>, shape, stream, p, at);
  if (p.product.n == 2) return launch_kernel(gate_kernel<F, 2>, shape, stream, p, at);
  return launch_kernel(gate_kernel<F, kMostNormedRows>, shape, stream, p, at);
}

}  // namespace

bool gate_fits(const GateParams& p) {
  const WeightView& w = p.product.w;
  GateParams most = p;
  most.product.n = kMostNormedRows;
  const bool floats = w.format == Format::kF32 || w.format == Format::kBF16 || w.format == Format::kF16;
  constexpr int64_t kMostOutputs = 1024;
  return floats && p.product.activation == MOE_F32 && !p.product.accumulate && w.n_groups == 1 && w.n_out > 0 &&
         w.n_out <= kMostOutputs && w.n_in > 0 && w.n_in == w.row && w.n_in * kMostNormedRows < int64_t{1} << 24 &&
         layout_of(most).end <= kMostBytes && is_hopper();
}

bool gate_takes(const GateParams& p) {
  const MatvecParams& m = p.product;
  return m.n >= 1 && m.n <= kMostNormedRows && reads_in_place(m.x, m.x_row, 0, m.w) &&
         reinterpret_cast<uintptr_t>(m.norm_weight) % 16 == 0;
}

cudaError_t launch_gate(const GateParams& p, cudaStream_t stream) {
  if (p.product.w.format == Format::kF32) return launch<Format::kF32>(p, stream);
  if (p.product.w.format == Format::kF16) return launch<Format::kF16>(p, stream);
  return launch<Format::kBF16>(p, stream);
}

}  // namespace moe::cuda
