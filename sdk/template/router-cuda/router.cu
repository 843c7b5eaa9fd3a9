// The smallest router with a kernel of its own: softmax over the experts, the k best, weights that sum to one; a warp for each token. It runs
// on a CUDA backend, on the stream that the backend computes on. Change choose() and you have your own.
#include <cuda_runtime.h>

#include <string>

#include "moe/sdk/router.hpp"

namespace {

// The k best of n logits by one warp, best first, ties to the lower id. NaN logits give NaN weights and legal ids.
__device__ void choose(const float* logits, int n, int k, int32_t* ids, float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float best_logit = 0.0F;
  float sum = 0.0F;
  for (int j = 0; j < k; ++j) {
    float value = -INFINITY;
    int id = n;  // none yet
    for (int e = lane; e < n; e += 32) {
      bool taken = false;
      for (int i = 0; i < j; ++i) taken = taken || ids[i] == e;
      if (!taken && (id == n || logits[e] > value)) value = logits[e], id = e;
    }
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(~0U, value, step);
      const int other_id = __shfl_xor_sync(~0U, id, step);
      if (other_id < n && (id == n || other > value || (other == value && other_id < id))) value = other, id = other_id;
    }
    // With NaN the lanes may disagree: all take the first one's word.
    value = __shfl_sync(~0U, value, 0);
    id = __shfl_sync(~0U, id, 0);
    if (j == 0) best_logit = value;
    const float w = expf(value - best_logit);
    sum += w;
    if (lane == 0) {
      ids[j] = id;
      weights[j] = w;
    }
    __syncwarp();
  }
  float any = 0.0F;  // NaN if a logit is
  for (int e = lane; e < n; e += 32) any += logits[e] * 0.0F;
  for (int step = 16; step > 0; step /= 2) any += __shfl_xor_sync(~0U, any, step);
  for (int j = lane; j < k; j += 32) weights[j] = weights[j] / sum + any;
}

__global__ void route_kernel(const float* logits, int64_t logits_stride, int64_t n_tokens, int n, int k, int32_t* ids, int64_t ids_stride,
                             float* weights, int64_t weights_stride) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i < n_tokens) choose(logits + i * logits_stride, n, k, ids + i * ids_stride, weights + i * weights_stride);
}

class MyRouter : public moe::Router {
 public:
  static constexpr const char* kName = "my_router";
  static constexpr const char* kDoc = "Softmax, then the k best; a kernel of its own.";
  static constexpr uint32_t kCapabilities =
      MOE_CAP_GRAPH_SAFE | MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static constexpr moe_option kOptions[] = {
      moe::int_option("k", "2", 1, 1024, "Experts a token goes to.", MOE_OPTION_PER_LAYER)};

  moe::Status configure(const moe::RouterConfig& config, const moe::Options& options) override {
    n_ = config.n_experts + config.n_zero_experts;
    k_ = options.integer("k");
    if (k_ > n_) return moe::invalid("k: expected at most the layer's experts, got " + std::to_string(k_));
    return {};
  }
  moe_router_spec describe() override {
    auto spec = moe::make<moe_router_spec>();
    spec.n_logits = n_;
    spec.k_max = k_;
    spec.weights_sum = 1;
    return spec;
  }
  moe::Result<uint64_t> prepare(const moe_compute& compute, std::span<const moe_bound_weight>, int64_t) override {
    if (compute.device.kind != MOE_DEVICE_CUDA) return moe::unimplemented("backend: expected one on a CUDA device");
    stream_ = static_cast<cudaStream_t>(compute.stream);
    return uint64_t{0};
  }
  moe::Status route(const moe_route_args& args) override {
    if (args.n_tokens == 0) return {};
    constexpr int kThreads = 128;
    const auto blocks = static_cast<unsigned>((args.n_tokens * 32 + kThreads - 1) / kThreads);
    const moe_plan& plan = args.plan;
    route_kernel<<<blocks, kThreads, 0, stream_>>>(
        static_cast<const float*>(args.logits.data), args.logits.strides[0], args.n_tokens, static_cast<int>(n_),
        static_cast<int>(k_), static_cast<int32_t*>(plan.ids.data), plan.ids.strides[0],
        static_cast<float*>(plan.weights.data), plan.weights.strides[0]);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
      return moe::internal(std::string("route: ") + cudaGetErrorString(error));
    return {};
  }

 private:
  int64_t n_ = 0;
  int64_t k_ = 0;
  cudaStream_t stream_ = nullptr;
};

}  // namespace

MOE_PLUGIN("my_router", "0.1.0", "MIT", "you", MyRouter)
