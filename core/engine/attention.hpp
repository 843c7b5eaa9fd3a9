// The attention part of a layer, grouped-query or latent.
#pragma once

#include <memory>

#include "core/engine/layer.hpp"

namespace patchbay {

class AttentionPart {
 public:
  virtual ~AttentionPart() = default;
  static moe::Result<std::unique_ptr<AttentionPart>> build(StepDevice& device, BuildContext& ctx);

  // x += attention(x) through a Branch; uses the device's h.
  virtual moe::Status forward(StepDevice& device) = 0;
  [[nodiscard]] virtual uint64_t weight_bytes() const = 0;
  // Bytes that one token takes in the paged cache.
  [[nodiscard]] virtual uint64_t cache_bytes_per_token() const = 0;
};

// Element size of a cache dtype.
int64_t cache_element_bytes(int32_t dtype);

}  // namespace patchbay
