// The steps of a feed-forward in order (ffn.hpp).
#include "kernels/ffn.hpp"

#include <algorithm>

#include "kernels/ffn_stage.hpp"
#include "kernels/gemv_launch.hpp"
#include "kernels/gemv_product.cuh"
#include "kernels/single.hpp"
#include "kernels/unpack.hpp"

namespace moe::cuda {
namespace {

// Hands out parts of the workspace; without memory it only counts.
class Parts {
 public:
  explicit Parts(void* memory) : at_(static_cast<char*>(memory)) {}
  template <typename T>
  T* take(int64_t n) {
    constexpr size_t kAlignment = 256;
    T* part = at_ == nullptr ? nullptr : reinterpret_cast<T*>(at_ + used_);
    used_ += (static_cast<size_t>(n) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  }
  [[nodiscard]] size_t used() const { return used_; }

 private:
  char* at_;
  size_t used_ = 0;
};

// What the kernels for few tokens need.
struct FewSpace {
  float* x;  // [n, gate.row]: x as the first products read it
  Hidden hidden;
};
FewSpace take_few(Parts& parts, const FfnParams& p, int64_t n) {
  FewSpace s{};
  s.x = parts.take<float>(n * p.gate.row);
  s.hidden = {parts.take<float>(n * p.k * p.down.row), p.down.row};
  return s;
}

// What those for many tokens need, for `n` tokens at a time.
struct ManySpace {
  Sorted sorted;
  uint16_t* x;       // [n * k, planes, gate.row]
  uint16_t* hidden;  // [n * k, planes, down.row]
  float* y;          // [n * k, y_row], where x was
  int64_t y_row;
  uint16_t* unpacked;  // matrices of experts at a time, where they are kF8
};
int32_t planes_of(const FfnParams& p) { return p.activation == MOE_F32 ? 3 : 1; }

// Experts whose matrices are unpacked at a time: gate's and up's together, or down's.
int64_t matrices_of(const FfnParams& p, const WeightView& w) {
  return w.data == p.gate.data && p.up.data != nullptr ? 2 : 1;
}
int64_t experts_at_once(const FfnParams& p, const WeightView& w) {
  return unpacked_at_once(w.n_groups, matrices_of(p, w) * w.n_out * w.row * 2);
}
int64_t unpacked_elements(const FfnParams& p, const WeightView& w) {
  return w.format == Format::kF8 ? experts_at_once(p, w) * matrices_of(p, w) * w.n_out * w.row : 0;
}

ManySpace take_many(Parts& parts, const FfnParams& p, int64_t n) {
  ManySpace s{};
  const int64_t pairs = n * p.k;
  const int64_t experts = p.gate.n_groups;
  s.sorted.offsets = parts.take<int32_t>(experts + 1);
  s.sorted.slots = parts.take<int32_t>(pairs);
  s.sorted.order = parts.take<int32_t>(experts);
  s.sorted.tiles = parts.take<int32_t>(experts + 1);
  s.sorted.counts = parts.take<int32_t>(sort_blocks(pairs) * experts);
  s.hidden = parts.take<uint16_t>(pairs * planes_of(p) * p.down.row);
  s.y_row = (p.down.n_out + 31) / 32 * 32;
  s.y = parts.take<float>(pairs * std::max(s.y_row, (planes_of(p) * p.gate.row + 1) / 2));
  s.x = reinterpret_cast<uint16_t*>(s.y);
  s.unpacked = parts.take<uint16_t>(std::max(unpacked_elements(p, p.gate), unpacked_elements(p, p.down)));
  return s;
}

// Tokens that are treated together: the workspace of OLMoE's 4,096 is 320 MB.
constexpr int64_t kChunkTokens = 4096;
int64_t chunk_of(int64_t n) {
  const int64_t chunks = std::max<int64_t>((n + kChunkTokens - 1) / kChunkTokens, 1);
  return (n + chunks - 1) / chunks;
}

// A block of tokens that the kernels for few read the weights once for.
constexpr int64_t kFewTokens = 64;

// Whether a weight is for launch_grouped_wgmma, as it is or unpacked.
bool fits_many(const FfnParams& p, const WeightView& w) {
  if (w.format != Format::kF8) return grouped_wgmma_fits(w, p.activation);
  return p.activation == MOE_BF16 && experts_at_once(p, w) > 0 &&
         grouped_wgmma_fits(unpacked_view(w, nullptr, w.n_groups, w.n_out), p.activation);
}

bool for_many(const FfnParams& p) {
  return !p.deterministic && p.n > kFewTokens && fits_many(p, p.gate) && fits_many(p, p.down);
}

bool has_pairs(const FfnParams& p) { return p.n > 0 && p.k > 0 && p.gate.n_groups > 0; }

// A product of all experts at once or, where weights have to be unpacked, of as many as there is room for.
cudaError_t multiply(const FfnParams& p, GroupedParams g, const ManySpace& s, cudaStream_t stream) {
  if (g.weight.format != Format::kF8) return launch_grouped_wgmma(g, stream);
  const int64_t n_experts = g.weight.n_groups;
  const int64_t at_once = experts_at_once(p, g.weight);
  UnpackParams weight{g.weight, 0, g.weight.n_out, 0, 0, s.sorted.order, s.sorted.tiles, s.unpacked, p.pdl};
  UnpackParams up = weight;
  up.w = g.up;
  up.out += at_once * g.weight.n_out * g.weight.row;
  for (int64_t first = 0; first < n_experts; first += at_once) {
    const int64_t n = std::min(at_once, n_experts - first);
    weight.first_group = up.first_group = g.first_rank = static_cast<int32_t>(first);
    weight.n_groups = up.n_groups = g.n_ranks = static_cast<int32_t>(n);
    cudaError_t error = launch_unpack(weight, stream);
    if (error == cudaSuccess && up.w.data != nullptr) error = launch_unpack(up, stream);
    if (error != cudaSuccess) return error;
    g.weight = unpacked_view(weight.w, weight.out, n, weight.n_rows);
    if (up.w.data != nullptr) g.up = unpacked_view(up.w, up.out, n, up.n_rows);
    error = launch_grouped_wgmma(g, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// Tokens [token0, token0 + n) by the tensor cores.
cudaError_t prefill(const FfnParams& p, int64_t token0, int64_t n, const ManySpace& s, cudaStream_t stream) {
  const bool bf16 = p.gate.format != Format::kF16;
  cudaError_t error = launch_ffn_sort(p, token0, n, s.sorted, stream);
  if (error != cudaSuccess) return error;
  error = launch_ffn_gather(p, token0, n, s.sorted, {s.x, p.gate.row, planes_of(p), bf16}, stream);
  if (error != cudaSuccess) return error;
  GroupedParams up{};
  up.weight = p.gate;
  up.up = p.up;
  up.sorted = s.sorted;
  up.x = s.x;
  up.n_slots = n * p.k;
  up.planes = planes_of(p);
  up.bias = p.gate_bias, up.bias_row = p.gate_bias_row;
  up.up_bias = p.up_bias, up.up_bias_row = p.up_bias_row;
  up.gating = p.gating;
  up.hidden = s.hidden;
  up.out_row = p.down.row;
  up.pdl = p.pdl;
  error = multiply(p, up, s, stream);
  if (error != cudaSuccess) return error;
  GroupedParams down{};
  down.weight = p.down;
  down.sorted = s.sorted;
  down.x = s.hidden;
  down.n_slots = n * p.k;
  down.planes = planes_of(p);
  down.y = s.y;
  down.out_row = s.y_row;
  down.pdl = p.pdl;
  error = multiply(p, down, s, stream);
  if (error != cudaSuccess) return error;
  return launch_ffn_combine(p, token0, n, s.sorted, s.y, s.y_row, stream);
}

// The two launches for few tokens, and what must come before each.
cudaError_t decode(FfnParams p, const FewSpace& space, cudaStream_t stream) {
  const bool round = rounds_before(p.gate.format, p.activation);
  if (round || !reads_in_place(p.x, p.x_row, 0, p.gate)) {
    const cudaError_t error =
        launch_pad({p.x, p.x_row, 0, space.x, p.gate.row, p.n, 1, p.gate.n_in, round, p.pdl}, stream);
    if (error != cudaSuccess) return error;
    p.x = space.x;
    p.x_row = p.gate.row;
  }
  if (has_pairs(p) && !round && !rounds_before(p.down.format, p.activation) && single_fits(p)) {
    const cudaError_t error = launch_single_up(p, space.hidden, stream);
    return error != cudaSuccess ? error : launch_single_down(p, space.hidden, stream);
  }
  FfnParams first = p;
  if (round) first.activation = MOE_F32;
  cudaError_t error = has_pairs(p) ? launch_ffn_up(first, space.hidden, stream) : cudaSuccess;
  if (error != cudaSuccess) return error;
  if (rounds_before(p.down.format, p.activation)) {
    const Hidden& h = space.hidden;
    error = launch_pad({h.data, h.row, 0, h.data, h.row, p.n * p.k, 1, p.down.n_in, true, p.pdl}, stream);
    if (error != cudaSuccess) return error;
    p.activation = MOE_F32;
  }
  return launch_ffn_down(p, space.hidden, stream);
}

}  // namespace

const char* ffn_refusal(const FfnParams& p) {
  constexpr int64_t kMostExperts = 4096;
  constexpr int64_t kMostK = 256;
  if (p.up.data != nullptr && (p.up.format != p.gate.format || p.up.row != p.gate.row))
    return "gate and up: expected one format, got two";
  if (p.up.data == nullptr && p.gating.ungated == 0) return "up: expected a weight with a gated activation, got none";
  if (p.gate.n_groups > kMostExperts) return "n_experts: expected at most 4096, got more";
  if (p.k > kMostK) return "k: expected at most 256, got more";
  return nullptr;
}

size_t ffn_workspace(const FfnParams& p) {
  Parts few(nullptr);
  if (!for_many(p)) {
    take_few(few, p, p.n);
    return few.used();
  }
  take_few(few, p, std::min(p.n, kFewTokens));  // fewer rows may come
  Parts many(nullptr);
  take_many(many, p, std::min(p.n, kChunkTokens));
  return std::max(few.used(), many.used());
}

cudaError_t launch_ffn(const FfnParams& p, cudaStream_t stream) {
  if (ffn_refusal(p) != nullptr || (p.workspace == nullptr && has_pairs(p))) return cudaErrorInvalidValue;
  if (p.n == 0) return cudaSuccess;
  Parts parts(p.workspace);
  if (!has_pairs(p) || !for_many(p)) return decode(p, take_few(parts, p, p.n), stream);
  const int64_t chunk = chunk_of(p.n);
  const ManySpace space = take_many(parts, p, chunk);
  for (int64_t token0 = 0; token0 < p.n; token0 += chunk) {
    const cudaError_t error = prefill(p, token0, std::min(chunk, p.n - token0), space, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace moe::cuda
