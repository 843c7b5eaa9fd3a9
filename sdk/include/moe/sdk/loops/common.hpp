// What the loops of moe/sdk/loops.hpp share: the context of a call, its workspace, spreading work over the host's
// threads, rounding of activations, and the product of packed weight rows with tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include "moe/abi/ops.h"
#include "moe/sdk/numeric.hpp"
#include "moe/sdk/result.hpp"
#include "moe/sdk/tensor.hpp"

namespace moe::loops {

// What a call of a loop may use. Both stay the caller's.
struct LoopContext {
  const moe_host* host = nullptr;          // for parallel_for; null: serial
  const moe_backend_rows* rows = nullptr;  // reads prepared weights; needed by operations that have one
};

// The threads that a call may run on, at least 1.
inline int32_t n_threads(const LoopContext& ctx) {
  return ctx.host == nullptr ? 1 : std::max(1, ctx.host->n_threads(ctx.host->self));
}

// Hands out parts of the workspace that a caller lends, each on a cache line of its own. Without memory it only counts,
// so that one layout says how much is needed and where it lies.
class Arena {
 public:
  Arena() = default;
  explicit Arena(const moe_op_args& args)
      : base_(static_cast<char*>(args.workspace)), capacity_(args.workspace_bytes) {}

  template <typename T>
  T* take(int64_t n) {
    T* part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<uint64_t>(std::max<int64_t>(n, 0)) * sizeof(T) + 63) / 64 * 64;
    return part;
  }
  [[nodiscard]] uint64_t used() const { return used_; }
  // After the last take of a call that will write to its parts.
  [[nodiscard]] Status check() const {
    if (used_ <= capacity_ && (base_ != nullptr || used_ == 0)) return {};
    return invalid("workspace: expected at least " + std::to_string(used_) + " bytes, got " +
                   std::to_string(base_ == nullptr ? 0 : capacity_));
  }

 private:
  char* base_ = nullptr;
  uint64_t capacity_ = 0;
  uint64_t used_ = 0;
};

// The error of an enum value or a shape that an operation does not know.
inline Error bad(std::string_view field, std::string_view expected, int64_t got) {
  return invalid(std::string(field) + ": expected " + std::string(expected) + ", got " + std::to_string(got));
}

// Whether a tensor is given: by its shape, because find_op passes no data.
inline bool given(const moe_tensor& t) { return t.ndim > 0; }

// A shape that a tensor of rank 2 or 3 must have; [n, 1, dim] and [n, dim] are the same.
inline Status expect_shape(std::string_view name, const moe_tensor& t, int64_t rows, int64_t groups, int64_t width) {
  const int64_t got_groups = t.ndim == 3 ? t.shape[1] : 1;
  if ((t.ndim == 2 || t.ndim == 3) && t.shape[0] == rows && got_groups == groups && t.shape[t.ndim - 1] == width)
    return {};
  std::string shape;
  for (int32_t i = 0; i < t.ndim; ++i) shape += (i == 0 ? "" : ", ") + std::to_string(t.shape[i]);
  return invalid(std::string(name) + ": expected [" + std::to_string(rows) + ", " +
                 (groups == 1 ? "" : std::to_string(groups) + ", ") + std::to_string(width) + "], got [" + shape + "]");
}

// Row (i, g) of a tensor of rank 2 (g is 0) or 3.
inline float* at(const moe_tensor& t, int64_t i, int64_t g = 0) {
  return static_cast<float*>(t.data) + i * t.strides[0] + (t.ndim == 3 ? g * t.strides[1] : 0);
}
// Element i of a vector of indices or of one number a row.
template <typename T>
const T& item(const moe_tensor& t, int64_t i) {
  return static_cast<const T*>(t.data)[i * t.strides[0]];
}

// Calls f(i, thread) for i in [0, n), on the host's threads where that pays: `cost` is the work of one item in
// multiplications or the like, and a task is worth about 30,000 of them, ten times what handing it out costs.
template <typename F>
void spread(const LoopContext& ctx, int64_t n, int64_t cost, F&& f) {
  constexpr int64_t kTaskCost = 32768;
  struct Job {
    std::remove_reference_t<F>* f;
    int64_t n;
    int64_t chunk;
  };
  Job job{&f, n, std::max<int64_t>(1, kTaskCost / std::max<int64_t>(cost, 1))};
  const auto run = [](void* context, int64_t task, int32_t thread) {
    const Job& j = *static_cast<const Job*>(context);
    const int64_t end = std::min(j.n, (task + 1) * j.chunk);
    for (int64_t i = task * j.chunk; i < end; ++i) (*j.f)(i, thread);
  };
  const int64_t n_tasks = (n + job.chunk - 1) / job.chunk;
  if (ctx.host != nullptr && n_tasks > 1) {
    ctx.host->parallel_for(ctx.host->self, n_tasks, run, &job);
  } else {
    for (int64_t i = 0; i < n; ++i) f(i, 0);
  }
}

// --- rounding of activations
// ---------------------------------------------------------------------------------------------------

inline constexpr int64_t kI8Block = 32;

// MOE_I8: scale = amax / 127, q = x / scale to nearest even within +-127, and the value q * scale, each step in f32. A
// block with a NaN or an infinity has no scale: all of it becomes NaN.
inline void round_i8_block(const float* x, int64_t n, float* out) {
  float amax = 0.0F;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    finite = finite && std::isfinite(x[i]);
    amax = std::max(amax, std::fabs(x[i]));
  }
  const float scale = amax / 127.0F;
  for (int64_t i = 0; i < n; ++i) {
    if (!finite) {
      out[i] = std::numeric_limits<float>::quiet_NaN();
    } else if (scale == 0.0F) {  // nothing but zeros, or too small for a scale
      out[i] = 0.0F;
    } else {
      out[i] = std::clamp(std::nearbyint(x[i] / scale), -127.0F, 127.0F) * scale;
    }
  }
}

// A row rounded to what a product wants; out may be x.
inline void round_row(moe_activation_type type, const float* x, int64_t n, float* out) {
  switch (type) {
    case MOE_BF16:
      for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_f32(f32_to_bf16(x[i]));
      return;
    case MOE_F16:
      for (int64_t i = 0; i < n; ++i) out[i] = f16_to_f32(f32_to_f16(x[i]));
      return;
    case MOE_I8:
      for (int64_t i = 0; i < n; i += kI8Block) round_i8_block(x + i, std::min(kI8Block, n - i), out + i);
      return;
    default:
      if (out != x) std::copy_n(x, n, out);
  }
}

inline Status check_activation(moe_activation_type type) {
  if (type == MOE_F32 || type == MOE_BF16 || type == MOE_F16 || type == MOE_I8) return {};
  return bad("activation", "MOE_F32, MOE_F16, MOE_BF16 or MOE_I8", type);
}

// --- products
// ---------------------------------------------------------------------------------------------------------

// Rows of a weight that are multiplied side by side. Each output is still one sum in the order of the input: four of
// them are four chains of additions, where one chain would wait for each addition to end.
inline constexpr int64_t kTile = 4;

// Doubles that one thread needs to hold a tile of rows of n_in elements.
inline int64_t tile_doubles(int64_t n_in) { return kTile * n_in + (n_in + 1) / 2; }

// Up to kTile rows of a weight, ready to be multiplied. For one token that is where they lie (or a copy as f32); for
// more they are packed as doubles [n_in, kTile], so that the rows side by side fill a vector. The sums are the same
// bits.
struct Tile {
  const float* rows[kTile] = {};
  const double* packed = nullptr;
};

// Rows [row, row + n_rows) of a matrix for n tokens; `memory` has tile_doubles(n_in). Missing rows repeat the last:
// their sums mean nothing.
inline Tile load_tile(const LoopContext& ctx, const moe_weight* weight, int64_t group, int64_t row, int64_t n_rows,
                      int64_t n_in, int64_t n, double* memory) {
  Tile tile;
  if (n <= 1) {
    auto* scratch = reinterpret_cast<float*>(memory);
    for (int64_t r = 0; r < kTile; ++r) {
      tile.rows[r] = r < n_rows ? ctx.rows->row(weight, group, row + r, scratch + r * n_in) : tile.rows[n_rows - 1];
    }
    return tile;
  }
  tile.packed = memory;
  auto* scratch = reinterpret_cast<float*>(memory + kTile * n_in);
  for (int64_t r = 0; r < kTile; ++r) {
    const float* w = ctx.rows->row(weight, group, row + std::min(r, n_rows - 1), scratch);
    for (int64_t k = 0; k < n_in; ++k) memory[k * kTile + r] = w[k];
  }
  return tile;
}

// acc[r] = sum_k x[k] * rows[r][k], k ascending.
inline void multiply_plain(const float* const* rows, const float* x, int64_t n_in, double* acc) {
  double sum[kTile] = {};
  for (int64_t k = 0; k < n_in; ++k) {
    const double v = x[k];
    for (int r = 0; r < kTile; ++r) sum[r] += v * rows[r][k];
  }
  std::copy_n(sum, kTile, acc);
}

// acc[t][r] = sum_k x[t][k] * packed[k][r] for T tokens, k ascending.
template <int T>
inline void multiply_packed(const double* packed, const float* const* x, int64_t n_in, double (*acc)[kTile]) {
  double sum[T][kTile] = {};
  for (int64_t k = 0; k < n_in; ++k) {
    const double* w = packed + k * kTile;
    for (int t = 0; t < T; ++t) {
      const double v = x[t][k];
      for (int r = 0; r < kTile; ++r) sum[t][r] += v * w[r];
    }
  }
  std::memcpy(acc, sum, sizeof(sum));
}

// Multiplies the tile with the rows x_of(0) .. x_of(n - 1), and gives each to sink(i, const double sums[kTile]).
template <typename XOf, typename Sink>
void multiply_rows(const Tile& tile, int64_t n_in, int64_t n, XOf&& x_of, Sink&& sink) {
  double acc[2][kTile];
  if (tile.packed == nullptr) {
    for (int64_t i = 0; i < n; ++i) {
      multiply_plain(tile.rows, x_of(i), n_in, acc[0]);
      sink(i, acc[0]);
    }
    return;
  }
  int64_t i = 0;
  for (; i + 2 <= n; i += 2) {
    const float* x[2] = {x_of(i), x_of(i + 1)};
    multiply_packed<2>(tile.packed, x, n_in, acc);
    sink(i, acc[0]);
    sink(i + 1, acc[1]);
  }
  if (i < n) {
    const float* x[1] = {x_of(i)};
    multiply_packed<1>(tile.packed, x, n_in, acc);
    sink(i, acc[0]);
  }
}

// {n_groups, n_out, n_in} of a weight, or why it cannot be read.
struct WeightShape {
  int64_t n_groups = 0;
  int64_t n_out = 0;
  int64_t n_in = 0;
};
inline Result<WeightShape> weight_shape(const LoopContext& ctx, const moe_weight* weight, std::string_view name) {
  if (ctx.rows == nullptr) {
    return precondition(std::string(name) + ": expected a backend with " + MOE_BACKEND_ROWS_ID + ", got one without");
  }
  if (weight == nullptr) return invalid(std::string(name) + ": expected a weight, got none");
  int64_t shape[3] = {0, 0, 0};
  ctx.rows->shape(weight, shape);
  return WeightShape{shape[0], shape[1], shape[2]};
}

}  // namespace moe::loops
