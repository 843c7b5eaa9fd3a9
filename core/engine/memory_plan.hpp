// What a model will take of a device's memory, reckoned before anything is loaded.
#pragma once

#include "core/engine/weights.hpp"

namespace patchbay {

// In bytes. An estimate from shapes: what backends add in padding and scales is small beside it.
struct MemoryNeeds {
  uint64_t weights = 0;
  uint64_t cache_per_token = 0;  // keys and values, or latents; routers' own rows come on top
  uint64_t working = 0;          // activations and workspaces of the largest step
};

// `cache_element_bytes`: of the cache's dtype; `max_tokens`: of a step.
MemoryNeeds memory_needs(const Checkpoint& checkpoint, const ModelSpec& spec, const Precision& precision,
                         int64_t cache_element_bytes, int64_t max_tokens, int64_t max_logit_rows);

// The tokens that the cache can hold in `free_bytes` beside everything else, at most `wanted`. MOE_RESOURCE_EXHAUSTED,
// with the numbers, if they are fewer than `least`.
moe::Result<int64_t> cache_tokens_that_fit(const MemoryNeeds& needs, uint64_t free_bytes, int64_t wanted, int64_t least,
                                           const std::string& backend);

}  // namespace patchbay
