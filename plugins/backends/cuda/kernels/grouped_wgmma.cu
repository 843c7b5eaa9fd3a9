// Products of rows sorted by expert with each expert's weight, on Hopper's tensor cores (ffn_stage.hpp:
// launch_grouped_wgmma).
//
// A cluster of two blocks takes up to 256 rows of one expert by 256 rows of its weight (128 of gate and the same 128 of
// up). Each block has up to 128 of the rows, and copies half of the weight's rows into both: at 256 rows that halves
// what comes out of the second cache, which would be the bound otherwise. Within a block one warp copies, four stages
// ahead, and two warpgroups of 64 rows multiply. Experts come with their rows rounded up to 64 a block, so uneven loads
// waste little; tiles go round the clusters, those of the experts with the most rows first.
#include <cuda.h>

#include "kernels/ffn_stage.hpp"
#include "kernels/gemv_launch.hpp"
#include "kernels/gemv_product.cuh"
#include "kernels/grouped_hopper.cuh"

namespace moe::cuda {
namespace {

constexpr int kStages = 4;
constexpr int kGroupRows = 64;    // of a warpgroup
constexpr int kBlockRows = 128;   // of a block
constexpr int kWeightRows = 256;  // that a block multiplies with
constexpr int kStepK = 64;        // 128 bytes of a row: the swizzle
constexpr int kGroupBytes = kGroupRows * kStepK * 2;
constexpr int kHalfBytes = kWeightRows / 2 * kStepK * 2;
constexpr int kStageBytes = 2 * kGroupBytes + 2 * kHalfBytes;
constexpr int kThreads = 384;  // a warpgroup that copies, two that multiply
constexpr int kClusters = 2;   // blocks of a cluster

// Where a stage's barriers lie in shared memory: full, then empty.
constexpr int kBarrierBytes = 2 * kStages * 8;

struct WgmmaParams {
  CUtensorMap x;           // [slots, planes * row] f16 or bf16, boxes [64, 64]
  CUtensorMap weight[2];   // [n_experts * n_out, row], boxes [128, 64]: gate and up; or the two halves of 256 rows of
                           // down (the same map)
  const int32_t* offsets;  // [n_experts + 1]: slots of each expert
  const int32_t* order;    // [n_experts]: experts in the order of their tiles
  const int32_t* tiles;    // [n_experts + 1]: tiles of 256 rows before the i-th of them
  int32_t first_rank;      // of the experts in `order` that this is for
  int32_t end_rank;
  bool by_rank;          // their matrices stand in that order in the weights
  int32_t n_out;         // rows of a weight of an expert
  int32_t column_tiles;  // tiles of n_out
  int32_t k_steps;       // of one plane
  int32_t planes;        // of x: it is their sum
  int32_t row;           // elements of a plane's row
  const float* bias[2];  // gate's and up's, or down's and null
  int64_t bias_row[2];
  moe_gating gating;
  uint16_t* hidden;  // kUp: [slots, out_row * planes]
  float* y;          // kDown: [slots, out_row]
  int64_t out_row;
};

// A tile as a block sees it.
struct Tile {
  int expert;
  int matrix;  // of the weights
  int first;   // slot
  int n_rows;  // of this block
  int column;  // tile of n_out
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ bool find_tile(const WgmmaParams& p, const int32_t* tiles, int round, uint32_t rank,
                                          Tile* tile) {
  const int n_clusters = static_cast<int>(gridDim.x) / kClusters;
  const int cluster = static_cast<int>(blockIdx.x) / kClusters;
  // There and back, so that no cluster has the larger tile every time.
  const int index = round * n_clusters + (round % 2 == 0 ? cluster : n_clusters - 1 - cluster);
  const int n_tiles = (tiles[p.end_rank] - tiles[p.first_rank]) * p.column_tiles;
  if (round * n_clusters >= n_tiles) return false;
  tile->n_rows = -1;
  if (index >= n_tiles) return true;
  const int row_tile = tiles[p.first_rank] + index / p.column_tiles;
  int low = p.first_rank;
  for (int high = p.end_rank; high - low > 1;) {
    const int middle = (low + high) / 2;
    (tiles[middle] <= row_tile ? low : high) = middle;
  }
  tile->expert = __ldg(p.order + low);
  tile->matrix = p.by_rank ? low - p.first_rank : tile->expert;
  tile->column = index % p.column_tiles;
  const int begin = __ldg(p.offsets + tile->expert) + (row_tile - tiles[low]) * kClusters * kBlockRows;
  const int rows = min(__ldg(p.offsets + tile->expert + 1) - begin, kClusters * kBlockRows);
  const int half = rows > kBlockRows ? kBlockRows : kGroupRows;
  tile->first = begin + static_cast<int>(rank) * half;
  tile->n_rows = max(0, min(rows - static_cast<int>(rank) * half, half));
  return true;
}

// Copies tile after tile, as stages become free.
__device__ __forceinline__ void copy_tiles(const WgmmaParams& p, const int32_t* tiles, uint32_t stages,
                                           uint32_t barriers, uint32_t rank, bool gated_too) {
  int stage = 0;
  uint32_t parity = 1;  // an empty barrier's first wait passes
  Tile tile{};
  for (int round = 0; find_tile(p, tiles, round, rank, &tile); ++round) {
    if (tile.n_rows < 0) continue;
    const int boxes = (tile.n_rows + kGroupRows - 1) / kGroupRows;
    const uint32_t n_bytes = static_cast<uint32_t>(boxes * kGroupBytes + 2 * kHalfBytes);
    const int width = gated_too ? kWeightRows / 2 : kWeightRows;
    const int weight_row =
        tile.matrix * p.n_out + tile.column * width + (gated_too ? 0 : static_cast<int>(rank) * kWeightRows / 2);
    for (int plane = p.planes - 1; plane >= 0; --plane) {
      for (int step = 0; step < p.k_steps; ++step) {
        const uint32_t full = barriers + static_cast<uint32_t>(stage) * 8;
        const uint32_t memory = stages + static_cast<uint32_t>(stage) * kStageBytes;
        barrier_wait(full + kStages * 8, parity);
        barrier_expect(full, n_bytes);
        for (int box = 0; box < boxes; ++box) {
          copy_box(memory + static_cast<uint32_t>(box * kGroupBytes), &p.x, plane * p.row + step * kStepK,
                   tile.first + box * kGroupRows, full);
        }
        copy_box_to_all(memory + 2 * kGroupBytes + rank * kHalfBytes, &p.weight[rank], step * kStepK, weight_row, full,
                        3);
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
    }
  }
}

// Where a warpgroup is in the ring of stages.
struct Ring {
  uint32_t stages;
  uint32_t barriers;
  int stage;
  uint32_t parity;

  __device__ __forceinline__ uint32_t wait() const {
    barrier_wait(barriers + static_cast<uint32_t>(stage) * 8, parity);
    return stages + static_cast<uint32_t>(stage) * kStageBytes;
  }
  // Gives a stage back, in both blocks: the warpgroup's first two threads speak to one each.
  __device__ __forceinline__ void release(int which) const {
    if (threadIdx.x % 128 < kClusters)
      barrier_arrive(barriers + static_cast<uint32_t>(kStages + which) * 8, threadIdx.x % 128);
  }
  [[nodiscard]] __device__ __forceinline__ int before() const { return (stage == 0 ? kStages : stage) - 1; }
  __device__ __forceinline__ void next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

template <bool kBf16>
__device__ __forceinline__ void multiply_stage(float (&sums)[128], uint32_t memory, int group, bool first) {
  const uint64_t a = matrix_descriptor(memory + static_cast<uint32_t>(group * kGroupBytes));
  const uint64_t b = matrix_descriptor(memory + 2 * kGroupBytes);
  wgmma_begin();
#pragma unroll
  for (int i = 0; i < kStepK / 16; ++i) {
    const uint64_t at = static_cast<uint64_t>(i * 32 >> 4);
    if constexpr (kBf16) {
      wgmma_bf16(sums, a + at, b + at, !first || i > 0);
    } else {
      wgmma_f16(sums, a + at, b + at, !first || i > 0);
    }
  }
  wgmma_commit();
}

// The warpgroup's sums of a tile, stage by stage.
template <bool kBf16>
__device__ __forceinline__ void multiply(float (&sums)[128], int n_steps, Ring& ring, int group) {
  multiply_stage<kBf16>(sums, ring.wait(), group, true);
  ring.next();
  for (int step = 1; step < n_steps; ++step) {
    multiply_stage<kBf16>(sums, ring.wait(), group, false);
    wgmma_wait<1>();  // the step before has read its stage
    ring.release(ring.before());
    ring.next();
  }
  wgmma_wait<0>();
  ring.release(ring.before());
}

// Four words a lane of a quad, transposed: word i of lane t becomes word t of lane i.
__device__ __forceinline__ void transpose_quad(uint32_t (&w)[4], int t) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool upper = (t & step) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      const uint32_t other = __shfl_xor_sync(kFullWarp, upper ? w[i] : w[i | step], step);
      (upper ? w[i] : w[i | step]) = other;
    }
  }
}

template <bool kBf16>
__device__ __forceinline__ uint32_t pack(float lo, float hi) {
  return kBf16 ? pack_bf16(lo, hi) : pack_f16(lo, hi);
}

template <bool kSilu>
__device__ __forceinline__ float activated(const moe_gating& gating, float g, float u) {
  if constexpr (kSilu) return __fdividef(g, 1.0F + __expf(-g)) * u;
  return gated(gating, g, u);
}

// hidden = act(gate, up) of the lane's rows: columns [0, 128) of the sums are gate's, the others up's.
template <bool kBf16, bool kSilu>
__device__ __forceinline__ void store_hidden(const WgmmaParams& p, const Tile& tile, const float (&sums)[128],
                                             int row) {
  const int t = threadIdx.x % 4;
  const int64_t first = static_cast<int64_t>(tile.column) * (kWeightRows / 2);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint16_t* out = p.hidden + (tile.first + row + 8 * i) * p.out_row * p.planes + first;
#pragma unroll
    for (int j = 0; j < 16; j += 4) {
      float h[4][2];
#pragma unroll
      for (int b = 0; b < 4; ++b) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int64_t o = first + (j + b) * 8 + t * 2 + c;
          float g = sums[(j + b) * 4 + i * 2 + c];
          float u = sums[(j + b + 16) * 4 + i * 2 + c];
          if (p.bias[0] != nullptr && o < p.n_out) g += __ldg(p.bias[0] + tile.expert * p.bias_row[0] + o);
          if (p.bias[1] != nullptr && o < p.n_out) u += __ldg(p.bias[1] + tile.expert * p.bias_row[1] + o);
          h[b][c] = o < p.n_out ? activated<kSilu>(p.gating, g, u) : 0.0F;
        }
      }
      for (int plane = 0; plane < p.planes; ++plane) {
        uint32_t w[4];
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          w[b] = pack<kBf16>(h[b][0], h[b][1]);
          h[b][0] -= low_bf16(w[b]);
          h[b][1] -= high_bf16(w[b]);
        }
        transpose_quad(w, t);
        const int64_t o = (j + t) * 8;
        if (row + 8 * i < tile.n_rows && first + o < p.out_row) {
          *reinterpret_cast<uint4*>(out + plane * p.out_row + o) = make_uint4(w[0], w[1], w[2], w[3]);
        }
      }
    }
  }
}

__device__ __forceinline__ void store_y(const WgmmaParams& p, const Tile& tile, const float (&sums)[128], int row) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (row + 8 * i >= tile.n_rows) continue;
    float* out = p.y + (tile.first + row + 8 * i) * p.out_row;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      const int64_t o = static_cast<int64_t>(tile.column) * kWeightRows + j * 8 + t * 2;
      if (o < p.out_row)
        *reinterpret_cast<float2*>(out + o) = make_float2(sums[j * 4 + i * 2], sums[j * 4 + i * 2 + 1]);
    }
  }
}

#endif

template <bool kBf16, bool kUp, bool kSilu>
__global__ void __cluster_dims__(kClusters, 1, 1) __launch_bounds__(kThreads, 1)
    wgmma_kernel(const __grid_constant__ WgmmaParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char memory[];
  const uint32_t start = (shared_address(memory) + 1023) / 1024 * 1024;
  const uint32_t stages = start;
  const uint32_t barriers = start + kStages * kStageBytes;
  auto* tiles = reinterpret_cast<int32_t*>(memory + (barriers - shared_address(memory)) + kBarrierBytes);
  const uint32_t rank = cluster_rank();
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < kStages; ++i) {
      barrier_init(barriers + i * 8, 1);
      barrier_init(barriers + (kStages + i) * 8, 2 * kClusters);  // the warpgroups of both blocks
    }
    barrier_publish();
  }
  pdl_launch();
  pdl_wait();
  for (int i = threadIdx.x; i <= p.end_rank; i += kThreads) tiles[i] = p.tiles[i];
  __syncthreads();
  cluster_sync();
  // The same for a whole warp, so that the compiler knows.
  const int role = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / 128, 0);
  if (role == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) copy_tiles(p, tiles, stages, barriers, rank, kUp);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int group = role - 1;
    const int row =
        group * kGroupRows + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
    const int n_steps = p.k_steps * p.planes;
    Ring ring{stages, barriers, 0, 0};
    Tile tile{};
    for (int round = 0; find_tile(p, tiles, round, rank, &tile); ++round) {
      if (tile.n_rows < 0) continue;
      if (__shfl_sync(kFullWarp, tile.n_rows, 0) <=
          group * kGroupRows) {  // nothing for this warpgroup: the stages pass
        for (int step = 0; step < n_steps; ++step) {
          ring.wait();
          ring.release(ring.stage);
          ring.next();
        }
        continue;
      }
      float sums[128];
      multiply<kBf16>(sums, n_steps, ring, group);
      if constexpr (kUp) {
        store_hidden<kBf16, kSilu>(p, tile, sums, row);
      } else {
        store_y(p, tile, sums, row);
      }
    }
  }
  cluster_sync();  // until no copy or arrival from the other block can be on its way
#endif
}

// --- the host's side

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
EncodeTiled encode_tiled() {
  static const EncodeTiled function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(found)
                                                                         : nullptr;
  }();
  return function;
}

// Rows of 16-bit elements in boxes of `box_rows` by 64.
bool make_map(CUtensorMap* map, bool bf16, const void* data, int64_t rows, int64_t row, uint32_t box_rows) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(row), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(row) * 2};
  const cuuint32_t box[2] = {kStepK, box_rows};
  const cuuint32_t steps[2] = {1, 1};
  return encode_tiled() != nullptr &&
         encode_tiled()(map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
                        const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// How many clusters the device runs at a time: more would wait for those to end.
cudaError_t most_clusters(const void* kernel, size_t shared_bytes, int* out) {
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kClusters);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kClusters;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  error = cudaOccupancyMaxActiveClusters(out, kernel, &config);
  if (error == cudaSuccess && *out < 1) error = cudaErrorInvalidConfiguration;
  return error;
}

template <bool kBf16, bool kUp>
cudaError_t launch(const WgmmaParams& p, bool silu, bool pdl, cudaStream_t stream) {
  void (*kernel)(WgmmaParams) = wgmma_kernel<kBf16, kUp, false>;
  if constexpr (kUp) {
    if (silu) kernel = wgmma_kernel<kBf16, true, true>;
  }
  const size_t bytes = 1024 + kStages * kStageBytes + kBarrierBytes + static_cast<size_t>(p.end_rank + 1) * 4;
  int clusters = 0;
  const cudaError_t error = most_clusters(reinterpret_cast<const void*>(kernel), bytes, &clusters);
  if (error != cudaSuccess) return error;
  return launch_kernel(kernel, {dim3(static_cast<unsigned>(clusters * kClusters)), kThreads, bytes, pdl}, stream, p);
}

}  // namespace

bool grouped_wgmma_fits(const WeightView& w, int32_t activation) {
  const bool bf16 = w.format == Format::kBF16 && (activation == MOE_BF16 || activation == MOE_F32);
  const bool f16 = w.format == Format::kF16 && activation == MOE_F16;
  constexpr int64_t kLimit = int64_t{1} << 31;
  return (bf16 || f16) && w.row > 0 && w.n_groups * w.n_out < kLimit && w.row * 3 < kLimit && w.n_groups <= 4096 &&
         reinterpret_cast<uintptr_t>(w.data) % 16 == 0 && is_hopper() && encode_tiled() != nullptr;
}

cudaError_t launch_grouped_wgmma(const GroupedParams& g, cudaStream_t stream) {
  const bool bf16 = g.weight.format == Format::kBF16;
  WgmmaParams p{};
  const bool up = g.hidden != nullptr;
  const WeightView& second = up && g.up.data != nullptr ? g.up : g.weight;
  const int64_t rows = g.weight.n_groups * g.weight.n_out;
  if (!make_map(&p.x, bf16, g.x, g.n_slots, g.weight.row * g.planes, kGroupRows) ||
      !make_map(&p.weight[0], bf16, g.weight.data, rows, g.weight.row, kWeightRows / 2) ||
      !make_map(&p.weight[1], bf16, second.data, rows, g.weight.row, kWeightRows / 2)) {
    return cudaErrorInvalidValue;
  }
  p.offsets = g.sorted.offsets;
  p.order = g.sorted.order;
  p.tiles = g.sorted.tiles;
  p.by_rank = g.n_ranks > 0;
  p.first_rank = p.by_rank ? g.first_rank : 0;
  p.end_rank = p.by_rank ? g.first_rank + g.n_ranks : static_cast<int32_t>(g.weight.n_groups);
  p.n_out = static_cast<int32_t>(g.weight.n_out);
  const int64_t width = up ? kWeightRows / 2 : kWeightRows;
  p.column_tiles = static_cast<int32_t>(((up ? g.out_row : g.weight.n_out) + width - 1) / width);
  p.k_steps = static_cast<int32_t>((g.weight.row + kStepK - 1) / kStepK);
  p.planes = g.planes;
  p.row = static_cast<int32_t>(g.weight.row);
  p.bias[0] = g.bias, p.bias_row[0] = g.bias_row;
  p.bias[1] = g.up_bias, p.bias_row[1] = g.up_bias_row;
  p.gating = g.gating;
  p.hidden = g.hidden;
  p.y = g.y;
  p.out_row = g.out_row;
  const bool silu = g.gating.kind == MOE_ACT_SILU && g.gating.ungated == 0 && !(g.gating.limit > 0);
  if (up) return bf16 ? launch<true, true>(p, silu, g.pdl, stream) : launch<false, true>(p, silu, g.pdl, stream);
  return bf16 ? launch<true, false>(p, false, g.pdl, stream) : launch<false, false>(p, false, g.pdl, stream);
}

}  // namespace moe::cuda
