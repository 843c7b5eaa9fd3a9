// How a warp multiplies rows of floats with one token's activations. Lane by lane the rows come through a ring in
// shared memory by asynchronous copies, each lane's units of 16 bytes in places of its own, so that nobody waits for
// anybody else; the lanes' sums are added up at the end of a row. The first parts do not depend on activations: a
// kernel asks for them before the one before it is through. (Seen on an H200: 4.3 TB/s of 4.6; loads into registers
// reach 3.6 at best.)
#pragma once

#include "kernels/gemv_product.cuh"

namespace moe::cuda::single {

inline constexpr int kWarps = 16;
inline constexpr int kUnits = 4;  // of a part, a lane
inline constexpr int kPartUnits = kUnits * 32;
// Parts of a ring: so many that a multiprocessor has no room for two such blocks. With less the next kernel's blocks
// crowd on those that are through first (seen: OLMoE's experts in 37 us instead of 29).
inline constexpr int kParts = 4;
inline constexpr int kPartBytes = kPartUnits * 16;
inline constexpr int kRingBytes = kParts * kPartBytes;

template <Format F, Mode M>
inline constexpr bool kFits = (F == Format::kF32 && M == Mode::kFma) ||
                              (F == Format::kBF16 && (M == Mode::kBf16 || M == Mode::kSplit)) ||
                              (F == Format::kF16 && (M == Mode::kF16 || M == Mode::kSplit));

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ uint4 load_shared16(uint32_t at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
  return v;
}

// --- activations

// One token's in shared memory, in the order of the weight's units: 16 bytes a unit, f32 with kF32, else 16-bit; kF8
// and kSplit (f32 with 16-bit weights): two planes of 16 bytes a unit. kF8: then a scale for each chunk.
struct Activations {
  uint32_t data;  // shared addresses
  uint32_t second;
};

template <Format F, Mode M>
inline constexpr int kPlanes = F == Format::kF8 || M == Mode::kSplit ? 2 : 1;

template <Format F, Mode M>
constexpr int64_t activation_bytes(int64_t row) {
  const int64_t chunks = row / kChunk<F>;
  return chunks * 4 * 16 * kPlanes<F, M> + (kTokenScales<M> ? (chunks + 3) / 4 * 16 : 0);
}
template <Format F, Mode M>
__device__ __forceinline__ Activations activations_at(const char* memory, int row) {
  const uint32_t data = shared_address(memory);
  const uint32_t plane = row / kChunk<F> * 4 * 16;
  return {data, data + plane};
}

// Converts a row of them by `n_warps` warps, of which this is `warp`. In steps, so that a warp can ask for what it
// needs before it asks for weights: behind those of all rings it comes 4 us later (seen in the experts' first product,
// which was ready after 6.1 us and is now after 2.1).
template <Format F, Mode M>
class Filling {
 public:
  // Asks for the first weights of the norm.
  __device__ __forceinline__ Filling(const WeightView& w, const NormRow& norm, int warp, int n_warps)
      : norm_(norm), units_(static_cast<int>(w.row) / kChunk<F> * 4), warp_(warp), n_warps_(n_warps) {
    if (norm_.weight != nullptr) ask_norm(warp * kStep);
  }
  // Asks for the first activations.
  __device__ __forceinline__ void ask(const float* x) {
    x_ = x;
    ask_row(warp_ * kStep);
  }
  // Puts all of the row, times `factor` and the norm's weights, into `memory`; the caller synchronises.
  __device__ __forceinline__ void finish(char* memory, float factor, int32_t activation) {
#pragma unroll 1
    for (int base = warp_ * kStep; base < blocks(); base += n_warps_ * kStep) {
      if (base != warp_ * kStep) {
        ask_row(base);
        if (norm_.weight != nullptr) ask_norm(base);
      }
      put(memory, block_of(base), factor, activation);
    }
  }

 private:
  static constexpr int kStep = 8;  // blocks of a warp: a quad has one

  [[nodiscard]] __device__ __forceinline__ int blocks() const { return units_ / 4 * kBlocks<F>; }
  [[nodiscard]] static __device__ __forceinline__ int block_of(int base) {
    return base + static_cast<int>(threadIdx.x) % 32 / 4;
  }
  __device__ __forceinline__ void ask_row(int base) {
    const float* from = x_ + first_of_block<F>(block_of(base), static_cast<int>(threadIdx.x) % 4);
    if (block_of(base) >= blocks()) return;
    row_[0] = *reinterpret_cast<const float4*>(from);
    if constexpr (F != Format::kF32) row_[1] = *reinterpret_cast<const float4*>(from + 4);
  }
  __device__ __forceinline__ void ask_norm(int base) {
    const int first = first_of_block<F>(block_of(base), static_cast<int>(threadIdx.x) % 4);
    if (block_of(base) >= blocks()) return;
    weights_[0] = load_norm(norm_, first);
    if constexpr (F != Format::kF32) weights_[1] = load_norm(norm_, first + 4);
  }

  __device__ __forceinline__ void put(char* memory, int block, float factor, int32_t activation) const {
    const int b = block % kBlocks<F>;
    const int unit = block / kBlocks<F> * 4 + static_cast<int>(threadIdx.x) % 4;
    float4 lo = scaled(row_[0], factor);
    float4 hi = scaled(row_[1], factor);
    if (norm_.weight != nullptr) {
      lo = product(lo, weights_[0]);
      hi = product(hi, weights_[1]);
    }
    float v[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
    if constexpr (M == Mode::kFma || M == Mode::kSplit) {
      if (block >= blocks()) return;
#pragma unroll
      for (int half = 0; half < kPlanes<F, M>; ++half) {
        *reinterpret_cast<float4*>(memory + (half * units_ + unit) * 16) =
            make_float4(rounded(activation, v[4 * half]), rounded(activation, v[4 * half + 1]),
                        rounded(activation, v[4 * half + 2]), rounded(activation, v[4 * half + 3]));
      }
    } else if constexpr (M == Mode::kLifted) {
      uint32_t pairs[4];
      const float scale = lifted_pairs<4 * kBlocks<F>>(v, pairs);  // of a chunk, which two quads have
      if (block >= blocks()) return;
      *reinterpret_cast<uint4*>(memory + (b * units_ + unit) * 16) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      if (unit % 4 == 0 && b == 0) reinterpret_cast<float*>(memory + 2 * units_ * 16)[unit / 4] = scale;
    } else {
      uint32_t pairs[kTokenPlanes<M>][4];
      token_pairs<M>(v, activation, pairs);
      if (block >= blocks()) return;
      *reinterpret_cast<uint4*>(memory + (b * units_ + unit) * 16) =
          make_uint4(pairs[0][0], pairs[0][1], pairs[0][2], pairs[0][3]);
    }
  }

  NormRow norm_;
  int units_;
  int warp_;
  int n_warps_;
  const float* x_ = nullptr;
  float4 row_[2] = {};
  float4 weights_[2] = {};
};

// --- one unit

// Two products of 16-bit floats.
template <Format F>
__device__ __forceinline__ float add_products(uint32_t a, uint32_t b, float sum) {
  if constexpr (F == Format::kF16) {
    const float2 x = __half22float2(*reinterpret_cast<const __half2*>(&a));
    const float2 y = __half22float2(*reinterpret_cast<const __half2*>(&b));
    return fmaf(x.y, y.y, fmaf(x.x, y.x, sum));
  } else {
    return fmaf(high_bf16(a), high_bf16(b), fmaf(low_bf16(a), low_bf16(b), sum));
  }
}
// The same with f32 activations.
template <Format F>
__device__ __forceinline__ float add_products(uint32_t a, uint32_t first, uint32_t second, float sum) {
  if constexpr (F == Format::kF16) {
    const float2 x = __half22float2(*reinterpret_cast<const __half2*>(&a));
    return fmaf(x.y, __uint_as_float(second), fmaf(x.x, __uint_as_float(first), sum));
  } else {
    return fmaf(high_bf16(a), __uint_as_float(second), fmaf(low_bf16(a), __uint_as_float(first), sum));
  }
}

// The sum with the products of a unit of the weight, number `unit` of its row; `at` is where the ring holds it.
template <Format F, Mode M>
__device__ __forceinline__ float add_unit(uint32_t at, const Activations& x, int unit, float sum) {
  const uint4 w = load_shared16(at);
  const uint4 v = load_shared16(x.data + unit * 16);
  if constexpr (F == Format::kF32) {
    sum = fmaf(__uint_as_float(w.x), __uint_as_float(v.x), sum);
    sum = fmaf(__uint_as_float(w.y), __uint_as_float(v.y), sum);
    sum = fmaf(__uint_as_float(w.z), __uint_as_float(v.z), sum);
    return fmaf(__uint_as_float(w.w), __uint_as_float(v.w), sum);
  } else if constexpr (M == Mode::kSplit) {
    const uint4 u = load_shared16(x.second + unit * 16);
    sum = add_products<F>(w.x, v.x, v.y, sum);
    sum = add_products<F>(w.y, v.z, v.w, sum);
    sum = add_products<F>(w.z, u.x, u.y, sum);
    return add_products<F>(w.w, u.z, u.w, sum);
  } else {
    sum = add_products<F>(w.x, v.x, sum);
    sum = add_products<F>(w.y, v.y, sum);
    sum = add_products<F>(w.z, v.z, sum);
    return add_products<F>(w.w, v.w, sum);
  }
}

// --- rows

template <Format F>
__device__ __forceinline__ const uint4* row_of(const WeightView& w, int group, int row) {
  const uint32_t n_units = static_cast<uint32_t>(w.row) / 32 * (element_bits(F) / 4);
  const auto at = static_cast<uint32_t>(group * static_cast<int>(w.n_out) + row);
  return static_cast<const uint4*>(w.data) + uint64_t{at} * n_units;
}

// The warp's rows, one after the other. next(const uint4*&) gives one after the other, false when there are no more;
// all have the view's length.
template <Format F, Mode M, typename Next>
class RowStream {
 public:
  // Asks for the first parts. `memory`: the warp's own kRingBytes of shared memory, on 16 bytes.
  __device__ __forceinline__ RowStream(char* memory, const WeightView& w, const Next& next)
      : next_(next), n_units_(static_cast<int>(w.row) / kChunk<F> * 4) {
    begin_ = shared_address(memory) + threadIdx.x % 32 * 16;
    find_row();
#pragma unroll 1
    for (int i = 0; i < kParts; ++i) ask(begin_ + i * kPartBytes);
    slot_ = begin_;
  }

  // The lane's part of the product of the next row with one token's activations.
  __device__ __forceinline__ float multiply(const Activations& x) {
    __syncwarp();  // one lane may have stored a result: without this it would go through the loop by itself
    float sums[kUnits] = {};
    int unit = threadIdx.x % 32;
    int left = n_units_;
    for (; left >= kPartUnits; left -= kPartUnits, unit += kPartUnits) {
      wait_copies<kParts - 1>();
#pragma unroll
      for (int u = 0; u < kUnits; ++u) sums[u] = add_unit<F, M>(slot_ + u * 512, x, unit + 32 * u, sums[u]);
      advance();
    }
    if (left > 0) {
      wait_copies<kParts - 1>();
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        if (static_cast<int>(threadIdx.x) % 32 + 32 * u >= left) continue;
        sums[u] = add_unit<F, M>(slot_ + u * 512, x, unit + 32 * u, sums[u]);
      }
      advance();
    }
    float sum = sums[0];
#pragma unroll
    for (int u = 1; u < kUnits; ++u) sum += sums[u];
    return sum;
  }

 private:
  __device__ __forceinline__ void advance() {
    ask(slot_);
    slot_ = slot_ == begin_ + (kParts - 1) * kPartBytes ? begin_ : slot_ + kPartBytes;
  }

  __device__ __forceinline__ void find_row() {
    const uint4* row = nullptr;
    left_ = 0;
    if (!next_(row)) return;
    left_ = n_units_;
    from_ = row + threadIdx.x % 32;
  }
  __device__ __forceinline__ void copy(uint32_t slot, int u) const {
    copy_async<16>(slot + u * 512, from_ + 32 * u, policy_);
  }
  // Asks for the next part.
  __device__ __forceinline__ void ask(uint32_t slot) {
    if (left_ >= kPartUnits) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u) copy(slot, u);
    } else if (left_ > 0) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        if (static_cast<int>(threadIdx.x) % 32 + 32 * u < left_) copy(slot, u);
      }
    }
    commit_copies();  // an empty group counts, too
    if (left_ <= 0) return;
    left_ -= kPartUnits;
    from_ += kPartUnits;
    if (left_ <= 0) find_row();
  }

  Next next_;
  uint32_t begin_;  // the lane's first unit in the ring
  uint32_t slot_ = 0;
  const uint4* from_ = nullptr;
  int n_units_;
  int left_ = 0;  // units of the row to ask for
  uint64_t policy_ = evict_first();
};

}  // namespace moe::cuda::single
