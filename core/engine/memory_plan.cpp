#include "core/engine/memory_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace patchbay {
namespace {

// Bytes of a stored tensor on the device: matrices are kept as `wanted`, everything else as f32.
uint64_t kept_bytes(const TensorInfo& tensor, std::string_view wanted) {
  const auto n = static_cast<uint64_t>(element_count(tensor.shape));
  if (tensor.shape.size() < 2) return n * 4;
  if (wanted == "auto") return tensor.bytes;
  if (wanted == "int4") return n / 32 * 18;
  if (wanted == "int8") return n / 32 * 34;
  if (wanted == "fp8") return n + n / 4096;
  return n * (wanted == "f32" ? 4 : 2);
}

uint64_t cache_elements(const AttentionSpec& a) {
  if (a.kind == AttentionKind::kLatent) return static_cast<uint64_t>(a.kv_rank + a.rope_dim);
  return static_cast<uint64_t>(a.n_kv_heads * (a.k_dim + a.v_dim));
}

// f32 a token that a layer's parts hold at a time: projections and heads, then the experts' rows between their
// products.
uint64_t layer_floats(const LayerSpec& layer, int64_t d_model) {
  const AttentionSpec& a = layer.attention;
  const int64_t latent = a.kind == AttentionKind::kLatent ? a.n_heads * (2 * a.kv_rank + a.rope_dim) : 0;
  const int64_t attention = a.n_heads * (2 * a.k_dim + 2 * a.v_dim) + latent;
  // The architecture knows no k yet; eight experts a token are what large models have.
  constexpr int64_t kExperts = 8;
  const int64_t experts = layer.ffn.n_experts > 0 ? kExperts * (3 * layer.ffn.d_expert + d_model) : 0;
  return static_cast<uint64_t>(std::max(attention, experts + 3 * layer.ffn.d_shared) + 4 * d_model);
}

std::string gib(uint64_t n_bytes) { return fmt::format("{:.2f} GiB", static_cast<double>(n_bytes) / (1 << 30)); }

}  // namespace

MemoryNeeds memory_needs(const Checkpoint& checkpoint, const ModelSpec& spec, const Precision& precision,
                         int64_t cache_element_bytes, int64_t max_tokens, int64_t max_logit_rows) {
  MemoryNeeds needs;
  for (const auto& tensor : checkpoint.tensors()) needs.weights += kept_bytes(tensor, precision.encoding);
  uint64_t floats = 0;
  for (const auto& layer : spec.layers) {
    needs.cache_per_token += cache_elements(layer.attention) * static_cast<uint64_t>(cache_element_bytes);
    floats = std::max(floats, layer_floats(layer, spec.d_model));
  }
  needs.working =
      4 * (static_cast<uint64_t>(max_tokens) * floats + static_cast<uint64_t>(max_logit_rows * spec.n_vocab));
  // What the device's libraries and recorded steps take.
  constexpr uint64_t kLibraries = uint64_t{512} << 20;
  needs.working += kLibraries;
  return needs;
}

moe::Result<int64_t> cache_tokens_that_fit(const MemoryNeeds& needs, uint64_t free_bytes, int64_t wanted, int64_t least,
                                           const std::string& backend) {
  const uint64_t fixed = needs.weights + needs.working;
  const uint64_t left = free_bytes > fixed ? free_bytes - fixed : 0;
  const auto room = static_cast<int64_t>(left / std::max<uint64_t>(needs.cache_per_token, 1));
  if (room >= least) return std::min(room, wanted);
  return moe::exhausted(
      fmt::format("model: expected to fit the {} that backend \"{}\" has free, got {} of weights, {} for a cache of {} "
                  "tokens and about {} to work in; "
                  "model.precision, model.context, engine.cache_tokens and engine.batch_tokens change these",
                  gib(free_bytes), backend, gib(needs.weights),
                  gib(needs.cache_per_token * static_cast<uint64_t>(least)), least, gib(needs.working)));
}

}  // namespace patchbay
