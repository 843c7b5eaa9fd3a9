// How a warp multiplies rows of integers or kF8 with one token's activations, in few instructions: with those of
// single_rows.cuh the experts of one token took 18.0 us in int4, whose bytes take 6.2, and 14.2 where no weights were
// read. Rows that lie together, a slice, are copied as they lie into shared memory; activations stay in registers. Of
// integers a lane takes whole blocks of 32 (kI8: halves), so that it turns one sum, not four, into a float.
#pragma once

#include <type_traits>

#include "kernels/single_rows.cuh"

namespace moe::cuda::single {

inline constexpr int kStepBytes = 512;  // of a row that a warp takes at once
template <Format F>
inline constexpr int kSteps = F == Format::kI4 ? 2 : 4;  // whose activations are in registers: 2,048 k
template <Format F>
inline constexpr int kWords = F == Format::kI4 ? 8 : 4;  // of activations a lane, a step

constexpr int row_bytes_of(Format format, int row) { return format == Format::kI4 ? row / 2 : row; }

// Bytes of the scales of a slice of so many rows: kF8 has the same for all of them.
constexpr int scale_bytes_of(Format format, int row, int rows) {
  return format == Format::kF8 ? (row / static_cast<int>(kF8Block) * 4 + 15) / 16 * 16 : rows * (row / 16);
}
constexpr int slice_bytes_of(Format format, int row, int rows) {
  return rows * row_bytes_of(format, row) + scale_bytes_of(format, row, rows);
}
inline int slice_bytes(const WeightView& w, int rows) {
  return slice_bytes_of(w.format, static_cast<int>(w.row), rows);
}
// Whether slices of so many rows, with their scales, lie on 16 bytes in memory.
inline bool slices_lie_even(const WeightView& w, int rows) {
  return w.n_out % rows == 0 && (w.format == Format::kF8 || rows * w.row % 256 == 0);
}
template <typename Fn>
auto with_slices(Format format, Fn&& fn) {
  switch (format) {
    case Format::kI8:
      return fn.template operator()<Format::kI8>();
    case Format::kI4:
      return fn.template operator()<Format::kI4>();
    default:
      return fn.template operator()<Format::kF8>();
  }
}
// Whether activations are as slices are multiplied with.
inline bool slices_take(const WeightView& w, int32_t activation) {
  constexpr int64_t kMostRow = 32768;
  return activation == (w.format == Format::kF8 ? MOE_BF16 : MOE_I8) && w.row <= kMostRow;
}

// Shared memory of a block. Two of those that begin on an empty multiprocessor must not fit there: the next kernel's
// blocks would crowd on those that are free first.
inline constexpr int kLeastBytes = 118 * 1024;
inline constexpr int kMostBytes = 224 * 1024;

// Bytes of shared memory of a row of activations: int8 in order, then a scale (f32) for each 32; with kF8 as
// single_rows.cuh says.
constexpr int stage_bytes_of(Format format, int64_t row) {
  return static_cast<int>(format == Format::kF8 ? activation_bytes<Format::kF8, Mode::kLifted>(row)
                                                : row + row / 32 * 4);
}

// Parts of a number of things, as even as can be: found once by the host, so that no warp divides.
struct Parts {
  int least;  // of a part
  int more;   // parts that have one more
};
inline Parts parts_of(int64_t total, int64_t parts) {
  return {static_cast<int>(total / parts), static_cast<int>(total % parts)};
}
__device__ __forceinline__ int part_begin(const Parts& p, int part) { return part * p.least + min(part, p.more); }

// Divides numbers up to 2^32 / by by `by`.
struct Divider {
  uint32_t by;
  uint32_t factor;
};
inline Divider divider_of(int64_t by) {
  return {static_cast<uint32_t>(by), static_cast<uint32_t>(((int64_t{1} << 32) + by - 1) / by)};
}
__device__ __forceinline__ int divided(int v, const Divider& d) {
  return d.by == 1 ? v : static_cast<int>(__umulhi(static_cast<uint32_t>(v), d.factor));
}

// Parts of a row whose activations are in registers at once.
template <Format F>
__device__ __forceinline__ int segments_of(int row) {
  constexpr int kBytes = kSteps<F> * kStepBytes;
  return (row_bytes_of(F, row) + kBytes - 1) / kBytes;
}

// Converts a row of activations, `factor` and the norm's weights times, by `n_warps` warps, of which this is `warp`: N
// a lane at a time, kAhead times at once. In steps, so that a warp can ask for weights in between.
template <int N, int kAhead>
class IntFilling {
 public:
  __device__ __forceinline__ IntFilling(const WeightView& w, const NormRow& norm, int warp, int n_warps)
      : norm_(norm), row_(static_cast<int>(w.row)), first_(warp * 32 * N), step_(n_warps * 32 * N) {
    if (norm_.weight != nullptr) ask_norm(first_);
  }
  __device__ __forceinline__ void ask(const float* x) {
    x_ = x;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) ask(i, first_ + i * step_);
  }
  // The caller synchronises.
  __device__ __forceinline__ void finish(char* stage, float factor, int32_t /*activation*/) {
#pragma unroll 1
    for (int base = first_; base < row_; base += kAhead * step_) {
      float values[kAhead][N];
      TokenBytes<N> bytes[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (base != first_) ask(i, base + i * step_);
        if (norm_.weight != nullptr && base + i * step_ != first_) ask_norm(base + i * step_);
#pragma unroll
        for (int j = 0; j < kVectors; ++j) {
          float4 v = scaled(v_[i][j], factor);
          if (norm_.weight != nullptr) v = product(v, weights_[j]);
          values[i][4 * j] = v.x, values[i][4 * j + 1] = v.y, values[i][4 * j + 2] = v.z, values[i][4 * j + 3] = v.w;
        }
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) bytes[i] = near_bytes(values[i]);  // side by side: each waits long for itself
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (!bytes[i].sure) exact_bytes(values[i], bytes[i]);
        const int k = k_of(base + i * step_);
        if (k >= row_) continue;
#pragma unroll
        for (int j = 0; j < kVectors; ++j) *reinterpret_cast<uint32_t*>(stage + k + 4 * j) = bytes[i].words[j];
        if (k % 32 == 0) *reinterpret_cast<float*>(stage + row_ + k / 8) = bytes[i].scale;
      }
    }
  }

 private:
  static constexpr int kVectors = N / 4;

  static __device__ __forceinline__ int k_of(int base) { return base + static_cast<int>(threadIdx.x) % 32 * N; }
  __device__ __forceinline__ void ask(int i, int base) {
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      v_[i][j] = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
      if (k_of(base) < row_) v_[i][j] = *reinterpret_cast<const float4*>(x_ + k_of(base) + 4 * j);
    }
  }
  __device__ __forceinline__ void ask_norm(int base) {
    if (k_of(base) >= row_) return;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) weights_[j] = load_norm(norm_, k_of(base) + 4 * j);
  }

  NormRow norm_;
  int row_;
  int first_;
  int step_;
  const float* x_ = nullptr;
  float4 v_[kAhead][kVectors] = {};
  float4 weights_[kVectors] = {};
};

// For weights of a format.
template <Format F, int N, int kAhead>
using SliceFilling = std::conditional_t<F == Format::kF8, Filling<Format::kF8, Mode::kLifted>, IntFilling<N, kAhead>>;

// A lane's activations of kSteps steps.
template <Format F>
struct Part {
  static constexpr int32_t kWhole = 0x4B400000;  // an integer added to it is, as a float, 12,582,912 more than itself

  uint32_t x[kSteps<F>][kWords<F>];
  int32_t begin[kSteps<F>];
  float scale[kSteps<F>];
  int n_steps = 0;
  bool active[kSteps<F>];  // whether the lane has any of the row

  // The `segment`-th part of a row.
  __device__ __forceinline__ void load(const char* stage, int row, int segment) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int left = row_bytes_of(F, row) - segment * kSteps<F> * kStepBytes;
    n_steps = min(kSteps<F>, (left + kStepBytes - 1) / kStepBytes);
#pragma unroll
    for (int s = 0; s < kSteps<F>; ++s) {
      active[s] = s * kStepBytes + lane / 4 * 64 < left;
      const int block = active[s] ? block_of(segment * kSteps<F> + s) : 0;
      const char* from = stage + block * 32;
      const float of_block = *reinterpret_cast<const float*>(stage + row + block * 4);
      if constexpr (F == Format::kI4) {
        int sum = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          x[s][j] = *reinterpret_cast<const uint32_t*>(from + turned(j) * 4);
          x[s][4 + j] = *reinterpret_cast<const uint32_t*>(from + 16 + turned(j) * 4);
          sum = __dp4a(static_cast<int>(x[s][j]), 0x01010101, sum);
          sum = __dp4a(static_cast<int>(x[s][4 + j]), 0x01010101, sum);
        }
        begin[s] = kWhole - 128 * sum;  // 8 was added to the weights, and they are multiplied 16 times
        scale[s] = of_block * 0.0625F;
      } else {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const uint2 two = *reinterpret_cast<const uint2*>(from + (lane % 4 / 2 * 2 + turned(j)) * 8);
          x[s][2 * j] = two.x;
          x[s][2 * j + 1] = two.y;
        }
        begin[s] = kWhole;
        scale[s] = of_block;
      }
    }
  }

  // Each lane begins with another of the 16 bytes of a chunk, so that no two read the same bank.
  static __device__ __forceinline__ int turned(int j) {
    const int chunk = static_cast<int>(threadIdx.x) % 32 / 4;
    return F == Format::kI4 ? (j + chunk / 2) % 4 : (j + chunk / 2) % 2;
  }
  // The block of 32 k that the lane has of a step of the row.
  static __device__ __forceinline__ int block_of(int step) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return F == Format::kI4 ? step * 32 + lane : step * 16 + lane / 4 * 2 + lane % 2;
  }
};

// kF8: f16 in the order of the weight's bytes, 16 of a step.
template <>
struct Part<Format::kF8> {
  static constexpr int kCount = kSteps<Format::kF8>;

  uint4 x[kCount][2];
  float scale[kCount];
  int n_steps = 0;
  bool active[kCount];

  __device__ __forceinline__ void load(const char* stage, int row, int segment) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int left = row - segment * kCount * kStepBytes;
    n_steps = min(kCount, (left + kStepBytes - 1) / kStepBytes);
#pragma unroll
    for (int s = 0; s < kCount; ++s) {
      active[s] = s * kStepBytes + lane * 16 < left;
      const int at = active[s] ? (segment * kCount + s) * kStepBytes + lane * 16 : 0;
      x[s][0] = *reinterpret_cast<const uint4*>(stage + at);
      x[s][1] = *reinterpret_cast<const uint4*>(stage + row + at);
      scale[s] = *reinterpret_cast<const float*>(stage + 2 * row + at / 64 * 4);
    }
  }
};

// Adds the lane's part of the products of R rows, which lie at `rows` in shared memory, with their scales behind them.
template <int R, Format F>
__device__ __forceinline__ void multiply(const char* rows, int row, const Part<F>& part, int segment,
                                         float (&sums)[R]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int n_bytes = row_bytes_of(F, row);
  constexpr int kReads = F == Format::kI4 ? 4 : 2;
  const char* at[kReads];
#pragma unroll
  for (int j = 0; j < kReads; ++j) {
    at[j] = rows + segment * kSteps<F> * kStepBytes + lane / 4 * 64 +
            (F == Format::kI4 ? Part<F>::turned(j) * 16 + lane % 4 * 4
                              : (lane % 4 / 2 * 2 + Part<F>::turned(j)) * 16 + lane % 2 * 8);
  }
  constexpr int kScaleBytes = kSteps<F> * (F == Format::kI4 ? 64 : 32);  // of a segment
  const char* scales = rows + R * n_bytes + segment * kScaleBytes;
#pragma unroll
  for (int s = 0; s < kSteps<F>; ++s) {
    if (s >= part.n_steps) break;
    // A lane that has nothing of this step reads what it does not use from the row's beginning.
    const int step_at = part.active[s] ? s * kStepBytes : -(lane / 4 * 64);
    const int scale_at = part.active[s] ? Part<F>::block_of(s) * 2 : 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {  // side by side
      const int here = r * n_bytes + step_at;
      int32_t sum = part.begin[s];
      if constexpr (F == Format::kI4) {
        uint32_t low = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t w = *reinterpret_cast<const uint32_t*>(at[j] + here);
          asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(low) : "r"(w & 0x0F0F0F0FU), "r"(part.x[s][j]));
          asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(w & 0xF0F0F0F0U), "r"(part.x[s][4 + j]));
        }
        sum += static_cast<int32_t>(low << 4);
      } else {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const uint2 w = *reinterpret_cast<const uint2*>(at[j] + here);
          sum = __dp4a(static_cast<int>(w.x), static_cast<int>(part.x[s][2 * j]), sum);
          sum = __dp4a(static_cast<int>(w.y), static_cast<int>(part.x[s][2 * j + 1]), sum);
        }
      }
      const float scale = from_f16_bits(*reinterpret_cast<const uint16_t*>(scales + r * (row / 16) + scale_at));
      const float more = fmaf(__int_as_float(sum) - 12582912.0F, scale * part.scale[s], sums[r]);
      sums[r] = part.active[s] ? more : sums[r];
    }
  }
}

// The same of kF8 by the tensor cores, whole warps together: each quad's 64 bytes of a row are a row of the first
// operand, those of the next row one eight further on, and its activations a column of the second. On the two diagonals
// stand a quad's products with its own activations, which one of its lanes adds; the others add nothing.
template <int R>
__device__ __forceinline__ void multiply(const char* rows, int row, const Part<Format::kF8>& part, int segment,
                                         float (&sums)[R]) {
  constexpr int kCount = kSteps<Format::kF8>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool adds = lane % 4 == lane / 8;
  const bool odd = lane / 4 % 2 != 0;
  const char* scales = rows + R * row + segment * (kCount * kStepBytes / static_cast<int>(kF8Block) * 4);
#pragma unroll
  for (int s = 0; s < kCount; ++s) {
    if (s >= part.n_steps) break;
    const bool active = part.active[s];
    const int at = active ? (segment * kCount + s) * kStepBytes + lane * 16 : 0;
    const float factor = *reinterpret_cast<const float*>(scales + (active ? s * 16 + lane / 8 * 4 : 0)) * part.scale[s];
#pragma unroll
    for (int r = 0; r < R; r += 2) {
      const uint4 a = *reinterpret_cast<const uint4*>(rows + r * row + at);
      const uint4 b = R > 1 ? *reinterpret_cast<const uint4*>(rows + (r + 1) * row + at) : uint4{};
      const uint32_t first[4] = {a.x, a.y, a.z, a.w};
      const uint32_t second[4] = {b.x, b.y, b.z, b.w};
      const uint4& lo = part.x[s][0];
      const uint4& hi = part.x[s][1];
      const uint32_t x[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
      float c[4] = {};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        mma_f16(c, e4m3_to_f16(first[i] & 0xFFFFU), e4m3_to_f16(second[i] & 0xFFFFU), e4m3_to_f16(first[i] >> 16),
                e4m3_to_f16(second[i] >> 16), x[2 * i], x[2 * i + 1]);
      }
      // Without branches: the next instruction is the whole warp's again.
      sums[r] = adds && active ? fmaf(odd ? c[1] : c[0], factor, sums[r]) : sums[r];
      if constexpr (R > 1) sums[r + 1] = adds && active ? fmaf(odd ? c[3] : c[2], factor, sums[r + 1]) : sums[r + 1];
    }
  }
}

// The same of whole rows of `n_segments` parts. Where that is one, `part` is loaded only if it is not `loaded`.
template <Format F, int R>
__device__ __forceinline__ void multiply_rows(const char* rows, const char* stage, int row, int n_segments, bool loaded,
                                              Part<F>& part, float (&sums)[R]) {
#pragma unroll 1
  for (int segment = 0; segment < n_segments; ++segment) {
    if (n_segments > 1 || !loaded) part.load(stage, row, segment);
    multiply<R>(rows, row, part, segment, sums);
  }
}

// Sums over the warp of N values: lane l has that of value l / (32 / N).
template <int N>
__device__ __forceinline__ float warp_sums(float (&v)[N]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int step = 16;
#pragma unroll
  for (int half = N / 2; half > 0; half /= 2, step /= 2) {
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float other = __shfl_xor_sync(kFullWarp, upper ? v[i] : v[i + half], step);
      v[i] = (upper ? v[i + half] : v[i]) + other;
    }
  }
  float sum = v[0];
#pragma unroll
  for (; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
  return sum;
}

// Rows of a weight that lie together, from row `row` of a group on.
struct Slice {
  const char* data;
  const char* scales;
};
template <Format F>
__device__ __forceinline__ Slice slice_of(const WeightView& w, int group, int row) {
  const auto elements = static_cast<uint32_t>(w.row);
  const auto n_out = static_cast<int>(w.n_out);
  const auto at = static_cast<uint32_t>(group * n_out + row);
  const uint32_t n_bytes = F == Format::kI4 ? elements / 2 : elements;
  constexpr auto kBlock = static_cast<int>(kF8Block);
  const uint32_t scale_row =
      F == Format::kF8 ? static_cast<uint32_t>(group * ((n_out + kBlock - 1) / kBlock) + row / kBlock) : at;
  return {
      static_cast<const char*>(w.data) + uint64_t{at} * n_bytes,
      static_cast<const char*>(w.scales) + uint64_t{scale_row} * (F == Format::kF8 ? elements / 32 : elements / 16)};
}

// A warp's slices, one after the other, through a ring of P. find(i, Slice&): the warp's i-th; false when there are no
// more.
template <Format F, int R, int P, typename Find>
class SliceStream {
 public:
  __device__ __forceinline__ SliceStream(char* ring, int row, const Find& find)
      : find_(find), ring_(ring), to_(static_cast<uint32_t>(__cvta_generic_to_shared(ring))), row_(row) {}
  // Asks for slices [begin, end) of the ring's first P. Not for all at once: what a block asks for comes in that order,
  // and the last warp would have its first slice last.
  __device__ __forceinline__ void ask(int begin, int end) {
#pragma unroll 1
    for (int i = begin; i < end; ++i) fetch(i, i);
  }
  // The next slice, when it is there.
  __device__ __forceinline__ const char* take() {
    wait_copies<P - 1>();
    __syncwarp();
    return ring_ + place_ * bytes();
  }
  // What was taken has been read.
  __device__ __forceinline__ void give_back() {
    __syncwarp();
    fetch(place_, next_++);
    place_ = place_ + 1 == P ? 0 : place_ + 1;
  }

 private:
  [[nodiscard]] __device__ __forceinline__ int bytes() const { return slice_bytes_of(F, row_, R); }
  __device__ __forceinline__ void copy(uint32_t to, const char* from, int n_bytes) const {
#pragma unroll 4
    for (int at = static_cast<int>(threadIdx.x) % 32 * 16; at < n_bytes; at += 512)
      copy_async<16>(to + at, from + at, policy_);
  }
  __device__ __forceinline__ void fetch(int place, int i) {
    Slice slice;
    if (find_(i, slice)) {
      const int data_bytes = R * row_bytes_of(F, row_);
      const uint32_t to = to_ + place * bytes();
      copy(to, slice.data, data_bytes);
      if constexpr (F == Format::kF8) {  // these lie on 4 bytes only
        const int n_bytes = row_ / static_cast<int>(kF8Block) * 4;
#pragma unroll 1
        for (int at = static_cast<int>(threadIdx.x) % 32 * 4; at < n_bytes; at += 128)
          copy_async<4>(to + data_bytes + at, slice.scales + at, policy_);
      } else {
        copy(to + data_bytes, slice.scales, bytes() - data_bytes);
      }
    }
    commit_copies();  // an empty group counts, too
  }

  Find find_;
  char* ring_;
  uint32_t to_;
  int row_;
  int next_ = P;
  int place_ = 0;
  uint64_t policy_ = evict_first();
};

}  // namespace moe::cuda::single
